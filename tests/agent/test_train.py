import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from esper_agent import checkpoint, cli
from esper_agent.config import PPOConfig
from esper_agent.files import locked
from esper_agent.learning import ppo
from esper_agent.loggers import read_metrics
from esper_agent.policies import registry
from esper_agent.policies.baselines import Wait
from esper_agent.report import write_report
from esper_agent.runs import TrainConfig, load_config
from esper_agent.train import interruptible, progress_line, train
from esper_env.config import ConfigError

ENV = {"max_epochs": 4, "training": {"batches_per_epoch": 1, "val_samples": 32}}
NARROW = {"width": 16, "head_width": 8}
UPDATE = 32
"""Steps of an update: 8 hosts, 4 epochs."""


def tiny(folder, **changes):
    """A run of three updates that takes a second."""
    config = TrainConfig(
        run=str(folder),
        env=ENV,
        policy_options=NARROW,
        steps=3 * UPDATE,
        num_envs=8,
        threads=1,
        checkpoint_interval=1,
        evaluation_episodes=2,
        evaluation_interval=2,
    )
    return dataclasses.replace(config, **changes)


def quiet(metrics, config):
    pass


def flags(config):
    """The command line of a configuration."""
    words = []
    for name, value in dataclasses.asdict(config).items():
        if name not in ("ppo", "loggers") and value is not None:
            words += [f"--{name.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def esper(*words, **options):
    """Start the command line in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "esper_agent", *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def ended(process):
    """The exit code; what the process said is shown when the test fails."""
    print(*process.communicate(timeout=120), sep="\n")
    return process.returncode


def same(a, b):
    """Equal in every bit, whatever it is made of."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.numpy(force=True), b.numpy(force=True))
    if isinstance(a, np.ndarray) and a.dtype != object:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, np.random.Generator):
        return same(a.bit_generator.state, b.bit_generator.state)
    return same(vars(a), vars(b)) if hasattr(a, "__dict__") else a == b or (a != a and b != b)


def last(folder):
    """What the run's last checkpoint holds, but for what depends on its folder."""
    content = checkpoint.read(folder / "checkpoints" / checkpoint.LAST)
    content["rollouts"] = checkpoint.unpack(content["rollouts"])
    del content["config"]
    return content


def rows(folder):
    """The metrics, but for how fast things went."""
    return [
        {name: value for name, value in row.items() if not name.startswith("speed/")}
        for row in read_metrics(folder / "metrics.csv")
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run that tests only read."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert train(tiny(folder), show=quiet)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        # Rollouts end in the middle of episodes, and every normalizer is at work.
        {"rollout_steps": 6, "policy_options": {**NARROW, "normalize_observations": True}},
        {"policy": "mlp", "ppo": PPOConfig(baseline="state")},
        # Two stacks of hosts at the same time, and a network that rounds.
        {"threads": 2, "env": {**ENV, "chunk": 2}, "policy_options": {**NARROW, "autocast": True}},
    ],
)
def test_a_run_resumed_in_another_process_equals_one_in_one_go_bit_for_bit(tmp_path, options):
    update = 8 * options.get("rollout_steps", 4)
    train(tiny(tmp_path / "one_go", steps=6 * update, **options), show=quiet)
    train(tiny(tmp_path / "resumed", steps=3 * update, **options), show=quiet)
    process = esper("train", "--run", str(tmp_path / "resumed"), "--resume", "--steps", str(6 * update))
    assert ended(process) == 0

    one_go, resumed = last(tmp_path / "one_go"), last(tmp_path / "resumed")
    assert list(one_go) == [
        "format",
        "version",
        "resolved",
        "policy",
        "ppo",
        "rollouts",
        "unfinished_episodes",
        "counters",
    ]
    for part in one_go:
        assert same(one_go[part], resumed[part]), part
    assert one_go["counters"] | {"best": 0} == {"steps": 6 * update, "updates": 6, "best": 0}
    assert rows(tmp_path / "one_go") == rows(tmp_path / "resumed")
    for name in ("one_go", "resumed"):
        assert (tmp_path / name / "episodes.jsonl").read_text()
    assert (tmp_path / "one_go" / "episodes.jsonl").read_text() == (tmp_path / "resumed" / "episodes.jsonl").read_text()
    assert load_config(tmp_path / "resumed").steps == 6 * update


@pytest.mark.parametrize("baseline", ["factored", "q_op", "state"])
def test_every_baseline_trains_resumes_and_is_reported(tmp_path, baseline):
    ppo = PPOConfig(baseline=baseline)
    train(tiny(tmp_path / "one_go", steps=4 * UPDATE, ppo=ppo), show=quiet)
    for steps, resume in ((2 * UPDATE, False), (4 * UPDATE, True)):
        train(tiny(tmp_path / "resumed", steps=steps, ppo=ppo), resume=resume, show=quiet)
    for part in ("policy", "ppo", "rollouts"):
        assert same(last(tmp_path / "one_go")[part], last(tmp_path / "resumed")[part])
    ran = json.loads((tmp_path / "resumed" / "config.json").read_text())["resolved"]
    assert ran["policy_options"]["critic"] == ("state" if baseline == "state" else "op")
    table, page = write_report(tmp_path / "resumed", 2)
    assert "lstm" in table
    assert page.exists()


def test_the_comparison_sees_a_single_bit(trained):
    a, b = last(trained), last(trained)
    assert same(a, b)
    next(iter(b["policy"].values())).view(torch.int32).view(-1)[0] ^= 1
    assert not same(a, b)


def test_training_again_gives_the_same_bits_and_another_seed_does_not(trained, tmp_path):
    train(tiny(tmp_path / "again"), show=quiet)
    train(tiny(tmp_path / "other", seed=1), show=quiet)
    assert same(last(trained), last(tmp_path / "again"))
    assert not same(last(trained)["policy"], last(tmp_path / "other")["policy"])


def test_what_came_after_the_checkpoint_is_lived_again(tmp_path, trained):
    train(tiny(tmp_path, checkpoint_interval=2, evaluation_episodes=0), show=quiet)
    (tmp_path / "checkpoints" / checkpoint.LAST).unlink()
    os.link(tmp_path / "checkpoints" / f"steps-{2 * UPDATE:012d}.pt", tmp_path / "checkpoints" / checkpoint.LAST)
    with (tmp_path / "metrics.csv").open("a") as file, (tmp_path / "episodes.jsonl").open("a") as more:
        file.write("96.0,3")
        more.write('{"update": 1, "en')
    train(tiny(tmp_path, checkpoint_interval=2, evaluation_episodes=0), resume=True, show=quiet)
    assert [row["updates"] for row in rows(tmp_path)] == ["1.0", "2.0", "3.0"]
    assert (tmp_path / "episodes.jsonl").read_text() == (trained / "episodes.jsonl").read_text()


def test_ctrl_c_finishes_the_update_saves_and_exits_130_and_resume_goes_on(tmp_path):
    config = tiny(tmp_path / "run", steps=1_000_000, checkpoint_interval=1_000_000, evaluation_episodes=0)
    process = esper("train", *flags(config))
    assert "steps" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in said
    steps = last(tmp_path / "run")["counters"]["steps"]
    assert steps == float(rows(tmp_path / "run")[-1]["steps"]) >= UPDATE
    assert (tmp_path / "run" / "report.html").exists()

    process = esper("train", "--run", str(tmp_path / "run"), "--resume", "--steps", str(steps + UPDATE))
    assert ended(process) == 0
    assert last(tmp_path / "run")["counters"]["steps"] == steps + UPDATE


def test_a_second_ctrl_c_does_not_wait(capsys):
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "Finishing this update" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_diverging_run_ends_with_its_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    calls = 0

    def poisoned(*arguments):
        nonlocal calls
        calls += 1
        loss = ppo.Loss(*vars(honest(*arguments)).values())
        return dataclasses.replace(loss, total=loss.total * float("nan")) if calls > 40 else loss

    honest = ppo.ppo_loss
    monkeypatch.setattr(ppo, "ppo_loss", poisoned)
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", ["esper"])
        code = cli.run(["train", *flags(tiny(tmp_path / "run", steps=10 * UPDATE))])
    assert code == 1
    said = capsys.readouterr().err
    assert "error: 3 steps in a row had a non-finite loss or gradient" in said
    assert "Traceback" not in said
    kept = last(tmp_path / "run")
    assert kept["counters"]["updates"] == 1
    assert all(tensor.isfinite().all() for tensor in kept["policy"].values())


def test_a_run_whose_time_is_up_ends_with_the_update_in_progress(tmp_path):
    assert train(tiny(tmp_path), show=quiet, budget=0.0)
    assert last(tmp_path)["counters"]["updates"] == 1


def test_a_resumed_run_replaces_its_configuration_which_is_whole_at_any_moment(tmp_path):
    train(tiny(tmp_path / "run", steps=UPDATE), show=quiet)
    before = (tmp_path / "run" / "config.json").read_bytes()
    os.link(tmp_path / "run" / "config.json", tmp_path / "seen")  # what a reader has that opened it before
    train(tiny(tmp_path / "run", steps=2 * UPDATE), resume=True, show=quiet)
    assert (tmp_path / "seen").read_bytes() == before != (tmp_path / "run" / "config.json").read_bytes()


def test_a_finished_run_that_is_resumed_does_nothing(tmp_path, trained):
    before = last(trained)
    assert train(tiny(trained), resume=True, show=quiet)
    assert same(before, last(trained))


def test_the_best_policy_is_the_one_that_scored_best_on_the_selection_seeds(tmp_path):
    train(tiny(tmp_path, steps=8 * UPDATE, ppo=PPOConfig(learning_rate=1e-2)), show=quiet)
    scores = {float(r["steps"]): float(score) for r in rows(tmp_path) if (score := r["evaluation/objective_return"])}
    assert list(scores) == [n * UPDATE for n in (2, 4, 6, 8)]
    best = checkpoint.read(tmp_path / "checkpoints" / checkpoint.BEST)["counters"]
    assert best["steps"] == max(scores, key=scores.get)
    assert best["best"] == max(scores.values())


def test_a_policy_of_ones_own_that_does_not_learn_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._FACTORIES, "patient", lambda spec, *, generator: Wait(spec, generator=generator))
    with pytest.raises(ConfigError, match="'patient' does not learn"):
        train(tiny(tmp_path, policy="patient", policy_options={}, ppo=PPOConfig(baseline="state")), show=quiet)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ppo": PPOConfig(gamma=0.9)}, "ppo.gamma is 0.9 but the environment's reward has gamma 0.995"),
        ({"policy": "lstn"}, "Unknown policy 'lstn'. Did you mean 'lstm'"),
        ({"policy": "wait"}, "'wait' does not learn"),
        ({"policy_options": {"widht": 3}}, "Did you mean 'width'"),
        ({"task": "digit"}, "Unknown task 'digit'. Did you mean 'digits'"),
        ({"env": {"max_epoch": 4}}, "Did you mean 'max_epochs'"),
        ({"backend": "batch"}, "Did you mean 'batched'"),
        ({"num_envs": 4}, "8 minibatches of whole environments"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, reason):
    with pytest.raises(ConfigError) as refusal:
        train(tiny(tmp_path / "run", **changes), show=quiet)
    assert reason in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_run_is_continued_but_never_overwritten(trained):
    before = last(trained)
    with pytest.raises(ConfigError, match=r"holds a run already: continue it with --resume"):
        train(tiny(trained), show=quiet)
    assert same(before, last(trained))


def test_a_run_is_not_begun_twice_at_the_same_time(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="Another process is working in"):
        train(tiny(tmp_path), show=quiet)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 3}, "seed=0 and cannot go on with 3"),
        ({"num_envs": 16}, "num_envs=8 and cannot go on with 16"),
        ({"policy": "mlp"}, "policy='lstm' and cannot go on with 'mlp'"),
        ({"ppo": PPOConfig(clip=0.1)}, "ppo.clip=0.4 and cannot go on with 0.1"),
        ({"ppo": PPOConfig(entropy_weights={"op": 1.0})}, "ppo.entropy_weights.slot=1.0 and cannot go on with None"),
        ({"policy_options": {**NARROW, "uniform_mixing": {"op": 0.01}}}, "policy_options.uniform_mixing.op=None"),
        ({"env": {**ENV, "training": {}}}, "env.training.batches_per_epoch=1 and cannot go on with"),
        ({"env": {**ENV, "chunk": 2}}, "env.chunk=None and cannot go on with 2"),
        ({"rollout_steps": 2}, "rollout_steps=4 and cannot go on with 2"),
    ],
)
def test_a_resumed_run_keeps_what_its_future_follows_from(trained, change, said):
    with pytest.raises(ConfigError, match=f"The run began with {re.escape(said)}"):
        train(tiny(trained, steps=1000, **change), resume=True, show=quiet)


def test_a_resumed_run_may_spell_out_what_it_began_with(tmp_path):
    train(tiny(tmp_path, steps=UPDATE, evaluation_episodes=0), show=quiet)
    explicit = {**ENV, "reward": "shaped", "max_seeds": 3, "max_episode_steps": None}
    options = {**NARROW, "memory": "lstm"}
    again = tiny(tmp_path, env=explicit, policy_options=options, rollout_steps=4, steps=2 * UPDATE)
    assert train(again, resume=True, show=quiet)
    assert last(tmp_path)["counters"]["updates"] == 2


def test_a_default_that_has_changed_since_is_named(tmp_path):
    train(tiny(tmp_path, steps=UPDATE, evaluation_episodes=0), show=quiet)
    path = tmp_path / "checkpoints" / checkpoint.LAST
    content = checkpoint.read(path)
    content["resolved"]["env"]["training"]["momentum"] = 0.8
    checkpoint.write(path, content)
    with pytest.raises(ConfigError, match=r"began with env\.training\.momentum=0\.8 and cannot go on with 0\.9"):
        train(tiny(tmp_path), resume=True, show=quiet)


def test_the_configuration_tells_what_really_ran_beside_what_was_asked_for(trained):
    asked = json.loads((trained / "config.json").read_text())
    ran = asked.pop("resolved")
    assert asked["env"] == ENV
    assert ran["env"]["training"]["momentum"] == 0.9
    assert ran["env"]["training"]["host_lr"] > 0
    assert ran["env"]["max_epochs"] == 4 == ran["rollout_steps"]
    assert ran["env"]["reward"]["mode"] == "shaped"
    assert ran["env"]["blueprints"]
    assert ran["policy_options"]["width"] == 16
    assert ran["policy_options"]["memory"] == "lstm"
    assert asked["ppo"]["clip"] == 0.4
    assert checkpoint.read(trained / "checkpoints" / checkpoint.LAST)["resolved"] == ran


def test_hosts_may_be_stacked_and_cut_short_as_the_vector_environment_lets_them(tmp_path):
    config = tiny(tmp_path, env={**ENV, "chunk": 2, "max_episode_steps": 3}, steps=24, evaluation_interval=1)
    train(config, show=quiet)
    ran = json.loads((tmp_path / "config.json").read_text())["resolved"]
    assert (ran["env"]["chunk"], ran["env"]["max_episode_steps"], ran["rollout_steps"]) == (2, 3, 3)
    assert {len(json.loads(line)["action"]) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()} == {3}
    (row,) = rows(tmp_path)
    assert row["episodes"] == "8.0"
    assert math.isfinite(float(row["evaluation/objective_return"]))


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint to resume from"):
        train(tiny(tmp_path), resume=True, show=quiet)


def test_an_update_is_told_in_one_line():
    line = progress_line({"steps": 1600.0, "speed/steps_per_second": 250.4, "episode/objective_return": 2.345}, 3200)
    assert line.split() == ["1,600/3,200", "steps", "250/s", "return", "2.35"]
