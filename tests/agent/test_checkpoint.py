import contextlib
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from esper_agent import checkpoint
from esper_agent.checkpoint import CheckpointError, CheckpointFolder

CONTENT = {"policy": {"weight": torch.arange(6.0)}, "counters": {"steps": 3, "best": float("-inf")}}


def test_what_is_written_is_read_back(tmp_path):
    checkpoint.write(tmp_path / "deep" / "a.pt", CONTENT)
    content = checkpoint.read(tmp_path / "deep" / "a.pt")
    assert torch.equal(content["policy"]["weight"], CONTENT["policy"]["weight"])
    assert content["counters"] == CONTENT["counters"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "a.pt"
    checkpoint.write(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged or no checkpoint"):
        checkpoint.read(path)


def save_a_dict(path):
    torch.save({"weights": torch.zeros(2)}, path)


def save_a_tensor(path):
    torch.save(torch.zeros(2), path)


def save_text(path):
    path.write_text("not a checkpoint")


def save_an_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")


@pytest.mark.parametrize("save", [save_a_dict, save_a_tensor, save_text, save_an_archive])
def test_a_foreign_file_is_refused(tmp_path, save):
    save(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"was not written by this package|is damaged or no checkpoint"):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"a", b"hello world this is\n", *(bytes([i]) * 40 for i in range(0, 256, 5))])
def test_whatever_a_file_holds_it_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged or no checkpoint"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_checkpoint_without_a_version_is_refused(tmp_path):
    torch.save({"format": checkpoint.FORMAT}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="has checkpoint version None"):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize("seed", range(20))
def test_a_checkpoint_with_a_changed_byte_is_refused_or_as_it_was(tmp_path, seed):
    """A byte of padding between the parts may change without harm."""
    checkpoint.write(tmp_path / "a.pt", CONTENT)
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    whole[np.random.default_rng(seed).integers(len(whole))] ^= 0x55
    (tmp_path / "a.pt").write_bytes(whole)
    with contextlib.suppress(CheckpointError):
        read = checkpoint.read(tmp_path / "a.pt")
        assert torch.equal(read["policy"]["weight"], CONTENT["policy"]["weight"])
        assert read["counters"] == CONTENT["counters"]


def test_an_older_checkpoint_is_refused_with_both_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 0)
    checkpoint.write(tmp_path / "a.pt", CONTENT)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has checkpoint version 0; this package reads version 2 only"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint at .*a\.pt"):
        checkpoint.read(tmp_path / "a.pt")


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def test_reading_runs_no_code_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.write(tmp_path / "a.pt", {"policy": Trap()})
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(tmp_path / "a.pt")
    checkpoint.write(tmp_path / "b.pt", {"rollouts": checkpoint.pack(Trap())})
    checkpoint.read(tmp_path / "b.pt")
    assert not (tmp_path / "trapped").exists()


class Changing:
    def __setstate__(self, state):
        raise AttributeError("no such field")


def test_a_packed_state_of_other_classes_is_refused_with_the_reason():
    packed = checkpoint.pack({"a": [1, 2]})
    assert checkpoint.unpack(packed) == {"a": [1, 2]}
    old = Changing()
    old.field = 1
    with pytest.raises(CheckpointError, match=r"of another version \(no such field\): its policy can be used"):
        checkpoint.unpack(checkpoint.pack(old))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from esper_agent import checkpoint

folder, moment = checkpoint.CheckpointFolder(Path(sys.argv[1]), keep=2), sys.argv[2]
folder.save({"steps": 1}, 1, best=True)

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

class Dies:
    def __reduce__(self):
        die()

content = {"weights": torch.zeros(100_000), "steps": 2}
if moment == "writing":
    content["late"] = Dies()
elif moment == "between":
    replace = os.replace
    os.replace = lambda source, target: die() if Path(target).name == checkpoint.LAST else replace(source, target)
else:
    setattr(os, moment, die)
folder.save(content, 2, best=True)
"""


@pytest.mark.parametrize("moment", ["writing", "fsync", "replace", "link"])
def test_a_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path, moment):
    result = subprocess.run([sys.executable, "-c", KILLED, tmp_path, moment], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert checkpoint.read(tmp_path / name)["steps"] == 1
    CheckpointFolder(tmp_path, keep=2).save({"steps": 3}, 3)
    assert checkpoint.read(tmp_path / checkpoint.LAST)["steps"] == 3
    assert not list(tmp_path.glob(f".*{checkpoint.UNFINISHED}"))


def test_a_kill_between_the_names_of_a_new_best_loses_neither_the_best_nor_the_way_to_it(tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLED, tmp_path, "between"], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert checkpoint.read(tmp_path / checkpoint.BEST)["steps"] == 2
    assert checkpoint.read(tmp_path / checkpoint.LAST)["steps"] == 1  # from here the second is lived again


def test_the_newest_the_last_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for steps in (9, 10, 100, 1000):
        folder.save({"steps": steps}, steps, best=steps == 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.pt",
        "last.pt",
        "steps-000000000100.pt",
        "steps-000000001000.pt",
    ]
    assert checkpoint.read(tmp_path / "best.pt")["steps"] == 10
    assert checkpoint.read(tmp_path / "last.pt")["steps"] == 1000


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    CheckpointFolder(tmp_path, keep=1).save({"steps": 1}, 1, best=True)
    assert checkpoint.read(tmp_path / "last.pt")["steps"] == checkpoint.read(tmp_path / "best.pt")["steps"] == 1
