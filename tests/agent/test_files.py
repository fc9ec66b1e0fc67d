import os
import subprocess
import sys

import pytest

from esper_agent.files import locked, replacing, replacing_bytes, write_json
from esper_env.config import ConfigError


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


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_json(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "1\n"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", 2)
    assert os.read(reader, 9) == b"2\n"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


HOLDS = """
import sys
from pathlib import Path
from esper_agent.files import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_processes_at_a_time_until_it_dies(tmp_path):
    words = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(ConfigError, match=f"Another process is working in {tmp_path}: wait"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path, wait=True):
        pass
