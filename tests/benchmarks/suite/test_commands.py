import importlib
import re
import sys

import pytest

from benchmarks.suite import commands, runner
from esper_agent import cli
from tests.agent.test_cli import HELPED, called
from tests.benchmarks.suite.tiny import TINY, work

WORDS = tuple(commands.COMMANDS)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(runner.Runner, "protocol", TINY)
    monkeypatch.setattr(runner, "Runner", lambda **options: RUNNER(TINY, **options))


RUNNER = runner.Runner


@pytest.mark.parametrize("word", WORDS)
def test_there_is_help_for_every_command(word, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(["bench", word, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: esper bench {word}")


def test_what_is_listed_without_the_suite_is_what_the_suite_has():
    listed = cli._bench(()).__annotations__["what"].__origin__.__args__
    assert listed == WORDS


def test_its_help_comes_without_torch():
    import subprocess

    words = ("bench", "run", "--help")
    result = subprocess.run([sys.executable, "-c", HELPED, *words], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False", result.stderr


@pytest.mark.slow
def test_status_comes_from_the_command_line():
    code, out, _ = called("bench", "status")
    assert code == 0
    assert "lstm-hindsight on cells" in out
    assert "steps left" in out


@pytest.mark.usefixtures("tiny")
def test_a_run_is_handed_in_reported_and_confirmed(tmp_path, capsys):
    where = ["--results", str(tmp_path / "results")]
    assert cli.run(["bench", "run", "--agent", "wait", "--runs", str(tmp_path / "runs"), *where, "--threads", "1"]) == 0
    assert "Finished." in capsys.readouterr().out
    assert cli.run(["bench", "validate", str(tmp_path / "results" / "wait"), "--threads", "1"]) == 0
    assert "wait: 3 episodes confirmed." in capsys.readouterr().out
    assert cli.run(["bench", "report", *where, "--page", str(tmp_path / "docs" / "r.md"), "--threads", "1"]) == 0
    assert (tmp_path / "docs" / "r.md").exists()


@pytest.mark.usefixtures("tiny")
def test_a_run_that_needs_more_time_says_so_and_exits_130(tmp_path, capsys):
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--threads", "1"]
    assert cli.run(["bench", "run", "--agent", "lstm", "--seeds", "0", "--minutes", "0", *words]) == cli.INTERRUPTED
    assert "run the same command again" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_results_that_do_not_score_what_they_say_exit_1(tmp_path, capsys):
    results = work(tmp_path, "wait")
    path = results / "wait" / "digits.csv"
    path.write_text(path.read_text().replace(",6\n", ",7\n", 1))
    assert cli.run(["bench", "validate", str(results / "wait"), "--threads", "1"]) == 1
    assert "NOT confirmed" in capsys.readouterr().out


def test_an_agent_that_is_not_in_the_protocol_exits_2_with_a_hint(tmp_path, capsys):
    assert cli.run(["bench", "run", "--agent", "lstmm", "--runs", str(tmp_path)]) == 2
    assert "Did you mean 'lstm'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--agent", "wait", "--threads", "0"), "threads must be at least 1, got 0."),
        (("run", "--agent", "wait", "--minutes", "-1"), "minutes must be at least 0, got -1.0."),
        (("run", "--agent", "wait", "--minutes", "nan"), "minutes must be a finite number, got nan."),
        (("tune", "--agent", "schedule", "--threads", "0"), "threads must be at least 1"),
        (("tune", "--agent", "schedule", "--minutes", "-1"), "minutes must be at least 0"),
        (("report", "--threads", "0"), "threads must be at least 1"),
        (("validate", "nowhere", "--threads", "0"), "threads must be at least 1"),
        (("validate", "nowhere", "--tolerance", "-1"), "tolerance must be at least 0"),
        (("status", "--speed", "0"), "speed must be at least 0.001"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith(f"error: {said}")) == ("", True)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_results_leads_to_the_guide(tmp_path, capsys):
    assert cli.run(["bench", "validate", str(tmp_path)]) == 2
    (guide,) = re.findall(r"(\S+\.md) tells", capsys.readouterr().err)
    assert (commands.HERE.parent / guide).exists()


def test_without_a_checkout_the_command_says_where_it_is(monkeypatch, capsys):
    real = importlib.import_module

    def without(name, *arguments):
        if name.startswith("benchmarks"):
            raise ModuleNotFoundError("No module named 'benchmarks'", name="benchmarks")
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", without)
    assert cli.run(["bench", "run", "--agent", "wait"]) == 2
    assert "part of the repository" in capsys.readouterr().err
