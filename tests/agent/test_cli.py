import json
import os
import pty
import shlex
import shutil
import subprocess
import sys

import pytest

from esper_agent import cli, commands, doctor
from esper_agent.flags import ELSEWHERE
from esper_agent.flags import flags as known_flags
from esper_agent.listing import listing
from esper_agent.policies.baselines import BASELINES
from esper_agent.policies.registry import policy_names
from esper_agent.runs import TrainConfig, load_config
from esper_env.actions import blueprint_names
from esper_env.registration import IDS
from esper_env.tasks import TASKS
from tests.agent.test_train import UPDATE, ended, esper, flags, tiny

COMMANDS = ("train", *cli.COMMANDS)


HELPED = """
import sys
from esper_agent.cli import run
try:
    run(sys.argv[1:])
except SystemExit:
    print("torch" in sys.modules)
"""


def called(*words):
    """Exit code, stdout and stderr of a command in a process of its own."""
    process = esper(*words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run made from the command line."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    assert ended(esper("train", *flags(tiny(folder)))) == 0
    return folder


@pytest.mark.parametrize("words", [(), *((command,) for command in COMMANDS)])
def test_there_is_help_on_every_level(words):
    code, out, err = called(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: esper {' '.join(words)}".rstrip())


def test_help_comes_without_torch():
    for words in ((), ("train",), ("evaluate",), ("demo",)):
        result = subprocess.run([sys.executable, "-c", HELPED, *words, "--help"], capture_output=True, text=True)
        assert result.stdout.splitlines()[-1] == "False", result.stderr


CONSOLE = """
import sys
from esper_agent.__main__ import main
sys.exit(main())
"""
"""What an installer makes of the entry point; Python looks beside this file for modules, not in the current folder."""

OWN = """
from esper_agent import register_policy
from esper_agent.policies.baselines import Wait
register_policy("patient", lambda spec, *, generator: Wait(spec, generator=generator))
"""


def test_the_command_finds_a_policy_of_ones_own_in_the_current_folder(tmp_path):
    for name, text in (("programs/esper.py", CONSOLE), ("here/own_policies.py", OWN)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    words = ["--policy", "own_policies:patient", "--episodes", "1", "--env", json.dumps(tiny("nowhere").env)]
    command = [sys.executable, tmp_path / "programs" / "esper.py", "evaluate", *words]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("own_policies:patient ")


def test_flags_become_a_configuration(run):
    assert load_config(run) == tiny(run)
    command = cli._parse(["train", "--ppo.gamma", "0.9", "--loggers", "tensorboard", "--rollout-steps", "7"])
    assert command.config == TrainConfig(ppo=command.config.ppo, loggers=("tensorboard",), rollout_steps=7)
    assert command.config.ppo.gamma == 0.9


def test_a_switch_can_be_set_either_way():
    ppo = cli._parse(["train", "--ppo.no-normalize-advantages", "--ppo.normalize-rewards"]).config.ppo
    assert (ppo.normalize_advantages, ppo.normalize_rewards) == (False, True)


def test_the_command_that_goes_on_can_be_pasted_whatever_the_folder_is_called(monkeypatch, capsys):
    monkeypatch.setattr(commands, "train", lambda *_, **__: False)
    assert cli.run(["train", "--run", "runs/my own"]) == cli.INTERRUPTED
    assert shlex.split(capsys.readouterr().out)[-5:] == ["esper", "train", "--run", "runs/my own", "--resume"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trian",), "train"),
        (
            ("train", "--stps", "3"),
            "Unknown flag --stps. Did you mean --steps? To see",
        ),
        (("train", "--ppo.clp=3"), "Did you mean --ppo.clip?"),
        (("train", "--num_env", "3"), "Did you mean --num-envs?"),
        (("train", "--ppo.lr", "1"), "Unknown flag --ppo.lr. Did you mean --ppo.learning-rate? To see"),
        (("train", "--ent_coef=1"), "Did you mean --ppo.entropy-coefficient?"),
        (("train", "--clip", "1"), "Did you mean --ppo.clip?"),
        (("train", "--n-envs", "1"), "Did you mean --num-envs?"),
        (("train", "--max-epochs", "1"), "Did you mean --env '{\"max_epochs\": ...}'?"),
        (("train", "--width", "1"), "Did you mean --policy-options '{\"width\": ...}'?"),
        (("demo", "--lr", "1"), "Unknown flag --lr. To see"),
        (("doctor", "--nothing-like-it"), "Unknown flag --nothing-like-it. To see what there is: esper doctor"),
        (("bench", "status", "extra"), "Nothing is expected where 'extra' stands."),
        (("train", "--steps", "many"), "error: --steps: expected a whole number, got 'many'. To see what"),
        (("train", "--rollout-steps", "0.5"), "--rollout-steps: expected a whole number or None, got '0.5'."),
        (("train", "--ppo.target-kl", "low"), "--ppo.target-kl: expected a number or None, got 'low'."),
        (("train", "--env", "[" + 100 * "─"), f"with its quotes, got '[{39 * '─'}…'."),
        (("train", "--ppo.clip", "-1"), "error: clip must be at least 0, got -1.0."),
        (("train", "--ppo.baseline", "none"), "error: Unknown baseline 'none'."),
        (("train", "--resume", "--run"), "Missing value for argument '--run'."),
        (("train", "--run"), "Missing value for argument '--run'. To see what there is: esper train --help"),
        (("report", "--run", "my own"), "esper report takes the run without a flag: esper report 'my own'\n"),
        (("report", "--threads", "1", "--run=a"), "without a flag: esper report --threads 1 a\n"),
        (("report", "--run"), "without a flag: esper report RUN\n"),
        (("report", "--episods", "5", "a"), "Unknown flag --episods. Did you mean --episodes? To see what"),
        (("list", "--table", "tasks"), "esper list takes the table without a flag: esper list tasks\n"),
        (("bench", "validate", "--folder", "x"), "takes the folder without a flag: esper bench validate x\n"),
        (("bench", "validate", "--threads", "1"), "esper bench validate needs PATH: The agent's results"),
        (("train", "--resume=3"), "Nothing is expected where '3' stands."),
        (("report",), "error: esper report needs PATH: Folder of the run. To see what"),
        ((), "Expected one of {train, evaluate, play, report, list, doctor, demo, bench}. To see what there is: esper"),
        (("bench",), "Expected one of {run, tune, report, validate, status}. To see what there is: esper bench --help"),
        (("bench", "run"), "error: esper bench run needs --agent: Contestants;"),
        (("bench", "run", "--agent"), "Nothing to run: give --agent NAME"),
        (("train", "--env", "[1]"), "JSON object"),
        (("train", "--env", "{"), "JSON"),
        (("train", "--seed", "-1"), "seed must be at least 0"),
        (("train", "--seed", "900"), "seed must be between 0 and 899, got 900: later seeds"),
        (("train", "--ppo.clip", "-1"), "clip must be at least 0"),
        (("train", "--task", "digit", "--run", "nowhere"), "Did you mean 'digits'"),
        (("train", "--resume", "--run", "nowhere"), "There is no run in nowhere"),
        (("evaluate",), "Nothing to evaluate"),
        (("evaluate", "--policy", "wiat"), "Did you mean 'wait'"),
        (("evaluate", "--policy", "wait", "--task", "digit"), "Did you mean 'digits'"),
        (("evaluate", "--policy", "wait", "--episodes", "0"), "episodes must be at least 1"),
        (("evaluate", "--policy", "wait", "--temperature", "0"), "--temperature is about the policy that a run has"),
        (("evaluate", "--policy", "wait", "--checkpoint", "last"), "--checkpoint is about the policy that a run has"),
        (("evaluate", "--run", "nowhere"), "There is no run in nowhere"),
        (("report", "nowhere"), "There is no run in nowhere"),
        (("report", "nowhere", "--replays", "-1"), "replays must be at least 0"),
        (("list", "task"), "error: Unknown choice 'task'. Did you mean 'tasks'?"),
        (("evaluate", "--checkpoint", "bset"), "--checkpoint: Unknown choice 'bset'. Did you mean 'best'?"),
        (("play", "--advice", "runs/nowhere"), "There is no run in runs/nowhere, and no policy has such a name: give"),
        (("train", "--run", ""), "run is empty: give the folder"),
        (("demo", "--minutes", "-1"), "minutes must be at least 0"),
        (("demo", "--episodes", "0"), "episodes must be at least 1"),
    ],
)
def test_bad_usage_exits_2_and_says_why_in_one_line(capsys, words, said):
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert said in err


def test_a_flag_of_another_name_leads_to_one_that_there_is():
    assert set(ELSEWHERE.values()) <= {
        flag.rpartition(".")[2].lstrip("-") for flag in known_flags(commands.Train(TrainConfig()))
    }
    assert all(name != flag for name, flag in ELSEWHERE.items())


def test_none_is_a_number_where_it_may_be():
    words = ["train", "--rollout-steps", "None", "--ppo.target-kl", "None", "--ppo.entropy-decay", "3"]
    config = cli._parse(words).config
    assert (config.rollout_steps, config.ppo.target_kl, config.ppo.entropy_decay) == (None, None, 3)


def test_a_configuration_error_is_one_line_in_a_process_too(run):
    code, out, err = called("train", "--run", str(run))
    assert (code, out) == (2, "")
    assert err == f"error: {run} holds a run already: continue it with --resume, or choose another --run.\n"


def test_other_errors_exit_1_with_their_cause_and_show_more_when_asked(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"damaged")
    assert cli.run(["evaluate", "--run", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/checkpoints/last.pt is damaged")
    assert said.count("\n") == 1
    for words in (["--debug"], []):
        assert cli.run(["evaluate", "--run", str(tmp_path), *words]) == 1
        assert "Traceback" in capsys.readouterr().err
        monkeypatch.setenv("ESPER_DEBUG", "1")


def test_an_error_that_is_not_ours_is_named_by_its_type(capsys, monkeypatch):
    def fail(self):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(commands.Doctor, "__call__", fail)
    assert cli.run(["doctor"]) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero (--debug shows where)\n"


def test_evaluation_prints_a_line_per_policy_and_writes_rows(run, tmp_path, capsys):
    file = tmp_path / "rows.csv"
    words = ["--run", str(run), "--policy", "wait", "random", "--episodes", "3", "--threads", "1", "--csv", str(file)]
    assert cli.run(["evaluate", *words]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["lstm", "wait", "random"]
    assert err.splitlines() == ["lstm: 3 episodes", "wait: 3 episodes", "random: 3 episodes"]
    assert len(file.read_text().splitlines()) == 1 + 9
    assert cli.run(["evaluate", *words, "--checkpoint", "last", "--temperature", "0"]) == 0


def test_a_report_tells_each_policy_when_its_episodes_begin(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "r")
    assert cli.run(["report", str(tmp_path / "r"), "--episodes", "1", "--threads", "1"]) == 0
    assert capsys.readouterr().err.splitlines() == [f"{agent}: 1 episode" for agent in ("lstm", *BASELINES)]


def test_evaluation_of_a_name_needs_no_run(capsys):
    env = json.dumps({"max_epochs": 2, "training": {"batches_per_epoch": 1, "val_samples": 32}})
    assert cli.run(["evaluate", "--policy", "wait", "--task", "shapes", "--env", env, "--episodes", "2"]) == 0
    assert "wait" in capsys.readouterr().out


def test_lists_name_everything(capsys):
    assert cli.run(["list"]) == 0
    everything = capsys.readouterr().out
    for name in (*IDS, *TASKS, *blueprint_names()[1:], *policy_names(), "loss/total"):
        assert name in everything
    assert cli.run(["list", "tasks"]) == 0
    assert capsys.readouterr().out == listing("tasks") + "\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -u -m esper_agent list metrics | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr == ""


def test_every_policy_that_is_shipped_says_what_it_is():
    fresh = [sys.executable, "-m", "esper_agent", "list", "policies"]  # other tests have registered theirs here
    said = subprocess.run(fresh, capture_output=True, text=True, check=True).stdout
    assert "lstm-v1" in said
    assert "registered by you" not in said


def test_the_doctor_names_versions_and_what_is_missing(capsys, monkeypatch):
    assert cli.run(["doctor"]) == 0
    said = capsys.readouterr().out
    for words in ("torch", "Cores: ", "Devices: cpu", "GroupNorm's backward: ", "can run"):
        assert words in said
    monkeypatch.setitem(doctor.EXTRAS, "agent", ("torchrl", "no-such-package"))
    assert cli.run(["doctor"]) == 1
    assert "Missing: no-such-package. Install with: pip install 'esper-env[agent]'" in capsys.readouterr().out


@pytest.mark.parametrize(("statement", "crashes"), [("pass", False), ("import os; os.kill(os.getpid(), 11)", True)])
def test_the_doctor_survives_a_crash_of_what_it_examines(monkeypatch, statement, crashes):
    monkeypatch.setattr(doctor, "GROUP_NORM_BACKWARD", statement)
    assert doctor.group_norm_crashes() is crashes


def test_a_missing_extra_is_named():
    code = "import sys; sys.modules['tyro'] = None; from esper_agent.__main__ import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: tyro is not installed; to have it: pip install 'esper-env[agent]'\n"


def test_a_missing_package_of_an_extra_is_named_by_every_command():
    code = "import sys; sys.modules['tensordict'] = None; from esper_agent.__main__ import main; sys.exit(main())"
    for words in (["list", "policies"], ["evaluate", "--policy", "wait"]):
        result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert result.stderr == "error: tensordict is not installed; to have it: pip install 'esper-env[agent]'\n"
        assert result.returncode == 1


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"ppo": {}, "loggers": [], "stepz": 3}'])
def test_a_broken_configuration_of_a_run_is_named(tmp_path, capsys, content):
    (tmp_path / "config.json").write_text(content)
    assert cli.run(["train", "--run", str(tmp_path), "--resume"]) == 2
    assert "config.json" in capsys.readouterr().err


def test_a_device_that_is_none_is_bad_usage(tmp_path, capsys):
    assert cli.run(["train", "--run", str(tmp_path / "r"), "--device", "abacus"]) == 2
    assert "device must be a torch device" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_and_anything_else_gets_lines(tmp_path):
    terminal, ours = pty.openpty()
    config = tiny(tmp_path / "bar", evaluation_episodes=0)
    words = [sys.executable, "-m", "esper_agent", "train", *flags(config)]
    process = subprocess.Popen(words, stderr=ours, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"})
    os.close(ours)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    assert process.wait(60) == 0
    assert f"{3 * UPDATE}/{3 * UPDATE}".encode() in shown
    assert b"committed" in shown
    assert b"\x1b[" in shown

    process = esper("train", *flags(tiny(tmp_path / "lines", evaluation_episodes=0)))
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if "warning" not in line]
    assert [line.split()[0] for line in lines] == [f"{n * UPDATE}/{3 * UPDATE}" for n in (1, 2, 3)]
    assert "\x1b[" not in err


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
