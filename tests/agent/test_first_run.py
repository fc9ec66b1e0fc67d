"""What a first user meets: help, and what goes wrong, each in one sentence that says what to do."""

import errno
import io
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from benchmarks.suite.commands import COMMANDS as BENCH_COMMANDS
from esper_agent import checkpoint, cli
from esper_agent.failures import cause, exit_code, require_writable
from esper_agent.rollout.parallel import WorkerError
from esper_agent.runs import TrainConfig
from esper_agent.train import train
from esper_env import __version__
from esper_env.config import ConfigError, MissingDataError
from tests.agent.test_train import UPDATE, esper, flags, quiet, tiny

LEVELS = [
    (),
    *((name,) for name in ("train", *cli.COMMANDS, "bench")),
    *(("bench", name) for name in BENCH_COMMANDS),
]


def said(capsys, *words):
    """Exit code, and what was said on stderr."""
    code = cli.run(words)
    return code, capsys.readouterr().err


@pytest.fixture
def helped(capsys, monkeypatch):
    """The help of a command as a terminal of 80 columns shows it."""
    monkeypatch.setenv("COLUMNS", "80")

    def text(words):
        with pytest.raises(SystemExit) as ended:
            cli.run([*words, "--help"])
        assert ended.value.code == 0
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)

    return text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three updates."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    assert train(tiny(folder), show=quiet)
    return folder


@pytest.fixture
def file(tmp_path):
    """A file where a folder would be needed."""
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file"


# Help


@pytest.mark.parametrize("words", LEVELS, ids=" ".join)
def test_help_fits_eighty_columns(words, helped):
    usage, _, rest = helped(words).partition("\n")
    assert usage.startswith("usage: esper")
    assert max(map(len, rest.splitlines())) <= 80


@pytest.mark.parametrize("words", LEVELS, ids=" ".join)
def test_help_has_examples_that_the_command_line_takes(words, helped, monkeypatch):
    monkeypatch.setattr(cli, "load_config", lambda run: TrainConfig())
    examples = re.findall(r"^  (esper .+?)(?:   .*)?$", helped(words), re.MULTILINE)
    assert examples
    for example in examples:
        given = shlex.split(example)[1:]
        assert tuple(given[: len(words)]) == words
        cli._parse(given)


def test_a_list_of_commands_has_a_line_for_each(helped):
    assert "Examples" not in helped(())
    assert "Report versions, threads, devices and what is missing." in helped(())


def test_help_is_a_word_as_well(helped, capsys):
    for words in ((), ("train",), ("bench", "run")):
        asked = helped(words)
        with pytest.raises(SystemExit):
            cli.run(["help", *words])
        assert re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out) == asked


def test_the_version_is_told(helped, capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"esper {__version__}\n"
    assert "--version" in helped(())


# Words


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("trian",), "Unknown command 'trian'. Did you mean 'train'?"),
        (("bench", "stats"), "Unknown command of esper bench 'stats'. Did you mean 'status'?"),
    ],
)
def test_a_misspelt_command_is_answered_with_the_nearest(capsys, words, answer):
    code, err = said(capsys, *words)
    assert code == 2
    assert err.startswith(f"error: {answer}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--steps", "many"), "--steps: expected a whole number, got 'many'."),
        (("--ppo.clip", "half"), "--ppo.clip: expected a number, got 'half'."),
        (("--env", "max_epochs=3"), "--env: expected a JSON object such as '{\"max_epochs\": 20}', with its quotes"),
    ],
)
def test_a_value_of_another_kind_is_answered_with_the_kind_it_needs(capsys, words, answer):
    code, err = said(capsys, "train", *words)
    assert code == 2
    assert err.startswith(f"error: {answer}")
    assert err.count("\n") == 1


# Data, places, disks, memory


@pytest.mark.parametrize("task", ["cifar10_baseline", "tinystories_gpt2"])
def test_missing_data_is_named_before_anything_is_built(capsys, monkeypatch, tmp_path, task):
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("esper_agent.rollout.make_rollouts", lambda *_, **__: pytest.fail("hosts were built"))
    code, err = said(capsys, "train", "--task", task, "--run", str(tmp_path / "r"), "--policy", "mlp")
    assert code == 2
    assert str(tmp_path / "nowhere") in err
    assert "download=True" in err
    assert err.endswith(""" --env '{"data_dir": "FOLDER"}' or --env '{"data_dir": "FOLDER", "download": true}'.\n""")
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_download_without_a_place_is_not_answered_with_the_advice_to_download(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ESPER_DATA_DIR")
    words = ("train", "--env", '{"download": true}', "--run", str(tmp_path / "r"), "--task")
    for task in ("cifar10_baseline", "tinystories"):
        code, err = said(capsys, *words, task)
        assert code == 2
        assert "needs a directory to be downloaded to: give data_dir=" in err
        assert "download=True" not in err
        assert err.endswith(""" that is --env '{"data_dir": "FOLDER", "download": true}'.\n""")


def test_missing_data_of_a_run_is_not_answered_with_a_flag_that_its_report_has_not(capsys, monkeypatch, finished):
    def missing(config):
        raise MissingDataError("Data needs a directory.", ("data_dir",))

    monkeypatch.setattr("esper_agent.evaluate.read_files", missing)
    assert said(capsys, "report", str(finished)) == (2, "error: Data needs a directory.\n")
    assert "--env" in said(capsys, "evaluate", "--run", str(finished))[1]


@pytest.mark.parametrize(
    "words",
    [("train", "--run"), ("demo", "--run"), ("evaluate", "--policy", "wait", "--csv"), ("play", "--save")],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(capsys, monkeypatch, file, words):
    monkeypatch.setattr("esper_env.simulation.Simulation.reset", lambda *_: pytest.fail("work has begun"))
    code, err = said(capsys, *words, str(file / "in" / "it"))
    assert code == 2
    assert err.startswith(f"error: Nothing can be written in {file}/in")
    assert f"Choose another {words[-1]}." in err
    assert file.read_text() == "mine"


def test_a_demo_without_threads_is_refused_before_it_has_a_folder(capsys, tmp_path):
    code, err = said(capsys, "demo", "--run", str(tmp_path / "r"), "--threads", "0")
    assert (code, err) == (2, "error: threads must be at least 1, got 0.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("evaluate", "--policy", "wait", "--csv"), ("play", "--save")], ids=lambda w: w[0])
def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(capsys, monkeypatch, tmp_path, words):
    monkeypatch.setattr("esper_env.simulation.Simulation.reset", lambda *_: pytest.fail("work has begun"))
    code, err = said(capsys, *words, str(tmp_path))
    assert (code, err) == (2, f"error: {tmp_path} is a folder. Choose a file for {words[-1]}.\n")


def test_asking_whether_a_place_can_be_written_leaves_nothing_there(tmp_path):
    require_writable(tmp_path / "a" / "b", "--run")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_disk_ends_a_run_in_one_sentence_and_leaves_it_whole(finished):
    """A limit on the size of files stands for the disk: the checkpoint does not fit, all that is smaller does."""
    last = finished / "checkpoints" / checkpoint.LAST
    before, size = last.read_bytes(), last.stat().st_size // 2
    longer = flags(tiny(finished, steps=5 * UPDATE, evaluation_interval=100))
    process = esper(
        "train", *longer, "--resume", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: The disk is full. Make room")
    assert "Traceback" not in err
    assert last.read_bytes() == before
    assert not list(last.parent.glob(f".*{checkpoint.UNFINISHED}"))
    assert train(tiny(finished, steps=4 * UPDATE), resume=True, show=quiet)


class SmallDisk(io.BytesIO):
    """Takes so many bytes and no more."""

    def write(self, content):
        if self.tell() + len(content) > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def test_a_full_disk_is_known_though_torch_covers_it_by_an_error_of_its_own():
    with pytest.raises(RuntimeError, match="unexpected pos") as refusal:
        torch.save({"weights": torch.zeros(1_000_000)}, SmallDisk())
    assert cause(refusal.value).startswith("The disk is full.")


def test_an_allocation_that_fails_is_answered_with_what_needs_less():
    for allocate in (lambda: torch.empty(2**55), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as refusal:
            allocate()
        assert cause(refusal.value).startswith("There is not enough memory for that: fewer hosts (--num-envs)")


def test_an_error_of_the_system_names_the_file(file):
    with pytest.raises(OSError, match="Not a directory") as refusal:
        (file / "x").read_text()
    assert cause(refusal.value) == f"{file / 'x'}: Not a directory. (--debug shows where)"


def test_a_missing_extra_that_is_named_already_is_not_named_by_its_type():
    error = ImportError("ray is not installed; the ray backend needs it: pip install 'esper-env[ray]'")
    assert cause(error) == str(error)


def test_a_traceback_of_another_process_is_told_by_its_first_line_and_its_last():
    told = "Worker 1 raised an error:\nTraceback (most recent call last):\n  File x\n    y()\nValueError: no such y\n"
    assert cause(WorkerError(told)) == "Worker 1 raised an error: ValueError: no such y (--debug shows where)"


# Damage


def test_a_damaged_checkpoint_is_answered_with_one_that_is_whole(tmp_path):
    folder = checkpoint.CheckpointFolder(tmp_path, keep=3)
    for steps in (1, 2, 3):
        folder.save({"steps": steps}, steps, best=steps == 3)
    last = tmp_path / checkpoint.LAST
    last.write_bytes(b"cut short")  # the same file by three names
    with pytest.raises(checkpoint.CheckpointError, match=f"is damaged.* mv .*steps-000000000002.pt {last}$") as said:
        folder.read_last()
    subprocess.run(shlex.split(str(said.value).partition("earlier one: ")[2]), check=True)
    assert folder.read_last()["steps"] == 2
    with pytest.raises(checkpoint.CheckpointError, match="is damaged"):  # rather than another one under its name
        checkpoint.read(tmp_path / checkpoint.BEST)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"cut short")
    with pytest.raises(checkpoint.CheckpointError, match=r"BadZipFile[^)]*\)\.$|damaged[^)]*\)\.$"):
        folder.read_last()


def test_a_checkpoint_that_could_not_be_written_leaves_nothing_behind(tmp_path):
    checkpoint.write(tmp_path / "x.pt", {"good": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.write(tmp_path / "x.pt", {"bad": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    assert checkpoint.read(tmp_path / "x.pt")["good"] == 1


def test_a_line_that_is_no_episode_is_named(capsys, finished, tmp_path):
    run = tmp_path / "r"
    shutil.copytree(finished, run)
    with (run / "episodes.jsonl").open("a") as lines:
        lines.write('{"env": 0}\n')
    number = (run / "episodes.jsonl").read_text().count("\n")
    code, err = said(capsys, "train", "--run", str(run), "--resume", "--steps", str(9 * UPDATE))
    assert code == 1
    assert err == f"error: {run}/episodes.jsonl is damaged: line {number} is no episode. Remove that line to go on.\n"


# Interruptions and readers


INTERRUPTED_IMPORT = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from esper_agent.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["numpy", "gymnasium", "tyro"])
def test_an_interruption_while_python_still_imports_is_no_traceback(module):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT, module], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_an_interruption_of_any_command_exits_with_130(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("esper_env.simulation.Simulation.reset", interrupt)
    assert said(capsys, "evaluate", "--policy", "wait", "--episodes", "1") == (130, "Interrupted.\n")
    monkeypatch.setattr("esper_agent.doctor.examine", interrupt)
    assert said(capsys, "doctor") == (130, "Interrupted.\n")


@pytest.mark.parametrize("words", [("list", "ids"), ("--help",)], ids=" ".join)
def test_what_nobody_reads_and_what_does_not_fit_ends_without_a_traceback(words):
    command = [sys.executable, "-m", "esper_agent", *words]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The disk is full.")
    assert done.stderr.count("\n") == 1


def test_a_configuration_error_is_the_only_one_that_another_command_line_mends():
    assert [exit_code(error) for error in (ConfigError("x"), ValueError("x"), OSError("x"))] == [2, 1, 1]
