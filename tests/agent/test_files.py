import pytest

from esper_agent.files import replacing, replacing_bytes, write_json


@pytest.mark.parametrize(("opened", "half"), [(replacing, "half"), (replacing_bytes, b"half")])
def test_a_file_appears_whole_or_not_at_all(opened, half, tmp_path):
    path = tmp_path / "f"
    path.write_text("before")

    def write(then):
        with opened(path) as file:
            file.write(half)
            file.flush()
            assert path.read_text() == "before"
            then()

    with pytest.raises(ZeroDivisionError):
        write(lambda: 1 / 0)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    write(lambda: None)
    assert path.read_text() == "half"
    assert [each.name for each in tmp_path.iterdir()] == ["f"], "nothing is left beside it"


def test_folders_are_made_as_needed(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"θ": [1, None]})
    assert (tmp_path / "a" / "b.json").read_text() == '{\n "θ": [\n  1,\n  null\n ]\n}\n'
