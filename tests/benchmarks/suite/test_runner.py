import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from benchmarks.suite import contestants, maskable, results, runs, tuning
from benchmarks.suite.maskable import load_maskable
from benchmarks.suite.protocol import HELD_OUT_SEED
from benchmarks.suite.recordings import read_actions
from benchmarks.suite.results import read_agent, remove_other_versions
from benchmarks.suite.script import Script
from esper_agent.evaluate import COLUMNS, evaluate, read_episodes
from esper_agent.files import LOCK, locked
from esper_agent.loggers import read_metrics
from esper_agent.policies.registry import create_policy
from esper_agent.runs import HOST_SEEDS, load_policy
from esper_agent.spec import EnvSpec
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.vector_env import SeedVectorEnv
from tests.benchmarks.suite.tiny import ENVS, MASKABLE, TINY, UPDATE, quiet, runner, search, work

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.benchmarks.suite.tiny import runner
def show(line):
    if "steps" in line:
        os.kill(os.getpid(), signal.SIGKILL)
runner(Path(sys.argv[1])).work(["lstm"], seeds=[0], show=show)
"""


def columns_without_speed(path):
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in read_metrics(path)]


def same_results(one, other, agent):
    """Are the files handed in the same, byte for byte?"""
    names = ("digits.csv", "digits.actions.csv.gz", "digits.curves.csv.gz")
    pairs = [(one / agent / name, other / agent / name) for name in names]
    return all(a.exists() == b.exists() and (not a.exists() or a.read_bytes() == b.read_bytes()) for a, b in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything run without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    work(folder, "wait", "random", "heuristic", "beginner", "greedy", "big", "lstm-no-feedback", "maskable-ppo")
    work(folder, "lstm", seeds=[0])
    return folder


def test_a_run_folder_holds_what_it_is_and_where_it_came_from(whole):
    made = json.loads((whole / "runs/digits/lstm/seed0/run.json").read_text())
    assert (made["agent"], made["task"], made["training_seed"]) == ("lstm", "digits", 0)
    assert made["steps"] == made["steps_of_the_protocol"] == 3 * UPDATE
    assert made["settings"]["policy_options"] == {"width": 16, "head_width": 8}
    (session,) = made["sessions"]
    assert len(session["commit"].removesuffix("+changes")) == 40
    assert session["versions"]["torch"] == torch.__version__
    assert session["machine"]["processor"]
    folder = whole / "runs/digits/lstm/seed0"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.name != LOCK}
    assert files == {
        "run.json",
        "episodes.csv",
        "actions.csv.gz",
        "temperature.json",
        "training/config.json",
        "training/metrics.csv",
        "training/checkpoints/last.pt",
        "training/report.html",
    }


def test_what_is_handed_in_has_a_row_and_an_action_sequence_for_every_held_out_episode(whole):
    for name in ("wait", "random", "heuristic", "beginner", "greedy", "lstm", "lstm-no-feedback", "maskable-ppo"):
        with (whole / "results" / name / "digits.csv").open(newline="") as file:
            assert tuple(next(csv.reader(file))) == COLUMNS
        rows = read_episodes(whole / "results" / name / "digits.csv")
        assert [row.evaluation_seed for row in rows] == TINY.held_out_seeds()
        assert {row.agent for row in rows} == {name}
        actions = read_actions(whole / "results" / name / "digits.actions.csv.gz")
        assert set(actions) == {(row.training_seed, row.evaluation_seed) for row in rows}
        assert all(taken.shape == (6, 8) for taken in actions.values())


def test_a_beginner_is_the_default_policy_as_it_is_made(whole):
    env = TINY.env_options("digits")
    played = evaluate(create_policy("lstm", EnvSpec(), seed=0), env, TINY.held_out_seeds(), agent="beginner")
    assert read_episodes(whole / "results/beginner/digits.csv") == played


@pytest.mark.parametrize("agent", ["lstm", "maskable-ppo"])
def test_a_learned_policy_plays_at_the_temperature_that_returns_most_on_tuning_seeds(whole, agent):
    training = whole / f"runs/digits/{agent}/seed0/training"
    policy = load_maskable(training) if agent == "maskable-ppo" else load_policy(training, "last")[0]
    env, returns = TINY.env_options("digits"), {}
    for temperature in TINY.temperatures:
        rows = evaluate(policy, env, TINY.tuning_seeds(), agent=agent, temperature=temperature)
        returns[temperature] = np.mean([row.objective_return for row in rows])
    best = max(returns, key=returns.get)
    (run,) = read_agent(whole / "results" / agent).runs("digits")
    assert run["temperature"] == best
    assert run["tuning_returns"] == {f"{t:g}": pytest.approx(returns[t], abs=1e-12) for t in returns}
    played = evaluate(policy, env, TINY.held_out_seeds(), agent=agent, training_seed=0, temperature=best)
    assert played == read_episodes(whole / f"results/{agent}/digits.csv")
    assert "temperature" not in read_agent(whole / "results/random").runs("digits")[0]


def test_greedy_counts_what_its_forks_have_cost(whole):
    greedy, wait = (read_episodes(whole / f"results/{name}/digits.csv") for name in ("greedy", "wait"))
    for row, waiting in zip(greedy, wait, strict=True):
        assert row.env_steps > waiting.env_steps == 6
        assert row.flops > waiting.flops * row.env_steps / 6 * 0.5


@pytest.mark.parametrize("agent", ["lstm", "maskable-ppo", "greedy"])
def test_a_run_that_stops_and_goes_on_is_the_one_that_did_not(whole, tmp_path, monkeypatch, agent):
    monkeypatch.setattr(contestants, "GROUP", 2)
    sessions = 0
    seeds = [0] if agent != "greedy" else []
    while not runner(tmp_path).work([agent], seeds=seeds, minutes=0, show=quiet):
        sessions += 1
        assert sessions < 9
    assert sessions >= 1
    assert same_results(tmp_path / "results", whole / "results", agent)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_its_last_checkpoint_is(whole, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "results").exists()
    work(tmp_path, "lstm", seeds=[0])
    assert same_results(tmp_path / "results", whole / "results", "lstm")


def test_after_an_interruption_no_other_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(contestants, "train", lambda config, **options: False)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path).work(["lstm", "wait"], show=seen.append)
    assert seen == ["lstm on digits, seed 0"]


@pytest.mark.parametrize(("module", "name"), [(maskable, "write_curve"), (maskable.checkpoint, "write")])
def test_a_learner_killed_while_it_keeps_its_last_rollout_ends_with_the_whole_curve(
    whole, tmp_path, monkeypatch, module, name
):
    real, calls = getattr(module, name), []

    def killed(*arguments):
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(module, name, killed)
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, "maskable-ppo")
    work(tmp_path, "maskable-ppo")
    assert same_results(tmp_path / "results", whole / "results", "maskable-ppo")


def test_the_hosts_of_maskable_ppo_begin_where_those_of_our_agent_do(tmp_path, monkeypatch):
    real, begun = SeedVectorEnv.reset, []

    def reset(env, *, seed=None, options=None):
        begun.append(seed)
        return real(env, seed=seed, options=options)

    monkeypatch.setattr(SeedVectorEnv, "reset", reset)
    env = TINY.env_options("digits")
    maskable.train_maskable(tmp_path, MASKABLE, env, steps=8, seed=3, num_envs=ENVS, show=quiet)
    assert begun == [[3 * HOST_SEEDS + i for i in range(ENVS)]]


def test_runs_of_other_training_seeds_are_added_and_the_same_one_is_replaced(whole, tmp_path):
    results = work(tmp_path, "lstm", seeds=[1])
    work(tmp_path, "lstm", seeds=[0])
    work(tmp_path, "lstm", seeds=[0])
    rows = read_agent(results / "lstm").episodes("digits")
    assert [(row.training_seed, row.evaluation_seed - HELD_OUT_SEED) for row in rows] == [
        (seed, i) for seed in (0, 1) for i in range(3)
    ]
    curves = read_agent(results / "lstm").curves("digits")
    assert {seed: [update["steps"] for update in updates] for seed, updates in curves.items()} == {
        seed: [UPDATE, 2 * UPDATE, 3 * UPDATE] for seed in (0, 1)
    }


def test_a_scaled_run_is_labelled_in_folders_rows_and_manifest(tmp_path):
    made = runner(tmp_path, budget=0.3)
    assert made.work(["lstm-no-feedback"], show=quiet)
    agent = read_agent(made.results / "lstm-no-feedback@0.3")
    assert agent.name == "lstm-no-feedback@0.3"
    assert {row.agent for row in agent.episodes("digits")} == {"lstm-no-feedback@0.3"}
    assert agent.runs("digits")[0]["share_of_steps"] == pytest.approx(0.3, abs=0.01)
    assert [path.name for path in (tmp_path / "runs/digits").iterdir()] == ["lstm-no-feedback@0.3"]


def test_a_finished_run_is_handed_in_again_as_it_was(tmp_path, monkeypatch):
    results = work(tmp_path, "wait")
    before = {path.name: path.read_bytes() for path in (results / "wait").iterdir()}
    (results / "wait" / "digits.csv").unlink()
    monkeypatch.setattr(runs, "commit", lambda: "another")
    work(tmp_path, "wait")
    assert {path.name: path.read_bytes() for path in (results / "wait").iterdir()} == before


def test_a_folder_begun_with_other_settings_is_not_continued(tmp_path):
    work(tmp_path, "wait")
    other = replace(TINY, env={"digits": TINY.env["digits"] | {"max_epochs": 5}})
    with pytest.raises(ConfigError, match="was begun with env"):
        runner(tmp_path, protocol=other).work(["wait"], show=quiet)


def test_what_the_protocol_does_not_have_is_refused(tmp_path):
    made = runner(tmp_path)
    with pytest.raises(ConfigError, match="no training seed 7"):
        made.work(["lstm"], seeds=[7], show=quiet)
    with pytest.raises(ConfigError, match="not tuned on digits: esper bench tune --agent schedule --task digits"):
        made.work(["schedule"], show=quiet)
    with pytest.raises(ConfigError, match="nothing to tune"):
        made.search("wait", "digits")


def test_maskable_ppo_draws_legal_actions_that_its_generator_decides_and_at_zero_predicts(whole):
    policy = load_maskable(whole / "runs/digits/maskable-ppo/seed0/training")
    env = SeedVectorEnv(64, **TINY.env_options("digits"))
    observation, _ = env.reset(seed=0)
    anything = create_policy("random", EnvSpec.of(env), seed=0)
    for _ in range(4):
        td = TensorDict({name: torch.from_numpy(array) for name, array in observation.items()}, [64])
        observation = env.step(anything(td)["action"].numpy())[0]
    td = TensorDict({name: torch.from_numpy(array) for name, array in observation.items()}, [64])
    masks = observation["action_mask"].astype(bool)
    likeliest, _ = policy.agent.predict(observation, deterministic=True, action_masks=masks)
    policy.temperature = 0.0
    np.testing.assert_array_equal(policy(td)["action"], likeliest)
    starts = np.cumsum((0, *policy.agent.action_space.nvec[:-1]))
    for temperature in (0.25, 1.0):
        policy.temperature, drawn = temperature, []
        for _ in range(2):
            policy.generator = torch.Generator().manual_seed(1)
            drawn.append(policy(td)["action"].clone())
        assert torch.equal(*drawn)
        assert np.take_along_axis(masks, drawn[0].numpy() + starts, 1).all()
        assert not np.array_equal(drawn[0], likeliest)


def test_global_generators_are_left_as_they_were(tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    work(tmp_path, "maskable-ppo")
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_status_counts_what_is_finished_and_what_is_left(whole):
    rows = {(entry.agent): (done, asked, left) for entry, done, asked, left in runner(whole).status()}
    assert rows["lstm"] == (1, 2, 3 * UPDATE)
    assert rows["wait"] == (1, 1, 0)
    assert rows["schedule"] == (0, 1, 0)


def test_what_must_be_tuned_first_is_known(tmp_path):
    made = runner(tmp_path)
    assert [entry.agent for entry in TINY.entries if made.untuned(entry)] == ["schedule"]
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/schedule-digits.json").write_text(json.dumps({"protocol": TINY.version}))
    assert not any(made.untuned(entry) for entry in TINY.entries)
    changed = replace(made, protocol=replace(TINY, version=TINY.version + 1, tuned_since=TINY.version + 1))
    assert any(changed.untuned(entry) for entry in TINY.entries)


def test_a_run_is_worked_on_and_results_are_written_by_one_process_at_a_time(tmp_path, monkeypatch):
    made = runner(tmp_path)
    with locked(made.run(TINY.entry("wait", "digits"), -1).folder), pytest.raises(ConfigError, match="Another process"):
        made.work(["wait"], show=quiet)
    held = []
    monkeypatch.setattr(results, "write_episodes", lambda path, rows: held.append(is_locked(path.parents[1])))
    made.work(["wait"], show=quiet)
    assert held == [True]


def is_locked(folder):
    try:
        with locked(folder):
            return False
    except ConfigError:
        return True


# Tuning

STAGES = [[("blueprints.0", ("", "conv_light"))], [("tempo", (0, 1)), ("start", (0, 2))]]


@pytest.fixture
def small_grid(monkeypatch):
    grid = replace(tuning.GRIDS["schedule"], stages=lambda slots: STAGES)
    monkeypatch.setitem(tuning.GRIDS, "schedule", grid)


@pytest.mark.usefixtures("small_grid")
def test_a_search_tries_every_setting_once_goes_on_after_a_stop_and_takes_the_best(tmp_path):
    one, other = search(tmp_path / "one"), search(tmp_path / "other")
    assert one.run(scratch=tmp_path, show=quiet)
    seen = []
    while not other.run(scratch=tmp_path, deadline=0.0 if not seen else float("inf"), show=seen.append):
        other.run(scratch=tmp_path, show=seen.append)
    assert len(seen) == len(one.table.read_text().splitlines()) - 1 == 5  # one of the second stage was tried before
    assert one.table.read_bytes() == other.table.read_bytes()
    with one.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = json.loads(one.result.read_text())
    assert chosen["objective_return"] == max(float(row["objective_return"]) for row in rows)
    assert one.settings() == chosen["settings"]


@pytest.mark.usefixtures("small_grid")
def test_the_tuned_schedule_plays_with_its_settings(tmp_path):
    search(tmp_path).run(scratch=tmp_path, show=quiet)
    work(tmp_path, "schedule")
    made = json.loads((tmp_path / "runs/digits/schedule/run.json").read_text())
    assert made["settings"] == search(tmp_path).settings()


def test_what_was_handed_in_under_another_version_of_the_protocol_goes(tmp_path):
    work(tmp_path, "random")
    mine = tmp_path / "results" / "random"
    for name in ("csv", "actions.csv.gz"):
        shutil.copy(mine / f"digits.{name}", mine / f"shapes.{name}")
    work(tmp_path, "random")
    assert (mine / "shapes.csv").exists()
    later = replace(runner(tmp_path), protocol=replace(TINY, version=TINY.version + 1), runs=tmp_path / "later")
    assert later.work(["random"], show=quiet)
    agent = read_agent(mine)
    assert agent.manifest["protocol"] == TINY.version + 1
    assert sorted(path.name for path in mine.iterdir()) == ["agent.json", "digits.actions.csv.gz", "digits.csv"]


@pytest.mark.parametrize("kill", [0, 1, 2])
def test_a_removal_of_older_results_that_was_killed_is_done_again(tmp_path, monkeypatch, kill):
    for name in ("agent.json", "a.csv", "z.csv"):
        (tmp_path / name).write_text('{"agent": "mine", "protocol": 1}')
    real, removed = Path.unlink, []

    def unlink(path):
        if len(removed) == kill:
            raise KeyboardInterrupt
        removed.append(path)
        real(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        remove_other_versions(tmp_path, 2)
    monkeypatch.undo()
    remove_other_versions(tmp_path, 2)
    assert not list(tmp_path.iterdir())


def mean_return(policy, temperature=1.0):
    """Of a policy on the tuning seeds."""
    rows = evaluate(policy, TINY.env_options("digits"), TINY.tuning_seeds(), agent="", temperature=temperature)
    return np.mean([row.objective_return for row in rows])


def test_settings_of_a_script_are_judged_on_the_tuning_seeds(tmp_path):
    grid, env = tuning.GRIDS["schedule"], TINY.env_options("digits")
    settings = dict(grid.start) | {"blueprints": ["conv_light"], "training_epochs": 0, "tempo": 0}
    value = grid.judge(settings, env, TINY, tmp_path, 1)
    assert value == pytest.approx(mean_return(Script(EnvSpec.of(SeedEnv(**env)), **settings)), abs=1e-12)


def test_settings_for_maskable_ppo_are_judged_by_training_with_a_seed_of_its_own_on_the_tuning_seeds(tmp_path):
    grid, env = tuning.GRIDS["maskable"], TINY.env_options("digits")
    settings = dict(grid.start) | MASKABLE
    value = grid.judge(settings, env, TINY, tmp_path / "judged", 1)
    maskable.train_maskable(
        tmp_path / "plain", settings, env, steps=TINY.tuning_steps, seed=700, num_envs=ENVS, show=quiet
    )
    (place,) = (tmp_path / "judged").iterdir()
    policy, judged = load_maskable(tmp_path / "plain"), load_maskable(place)
    weights = [list(trained.agent.policy.parameters()) for trained in (policy, judged)]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert value == pytest.approx(max(mean_return(policy, t) for t in TINY.temperatures), abs=1e-12)


def test_what_was_tried_counts_until_something_that_it_was_chosen_by_changes(tmp_path, monkeypatch):
    judged = []

    def judge(settings, env, protocol, folder, threads):
        judged.append(folder)
        return float(protocol.version)

    grid = replace(tuning.GRIDS["schedule"], stages=lambda slots: STAGES[:1], judge=judge)
    monkeypatch.setitem(tuning.GRIDS, "schedule", grid)

    def tuned(version, since):
        made = replace(search(tmp_path), protocol=replace(TINY, version=version, tuned_since=since))
        assert made.run(scratch=tmp_path, show=quiet)
        return made

    for version, since, number in ((1, 1, 2), (2, 1, 2), (3, 3, 4)):
        made = tuned(version, since)
        assert len(judged) == number
        assert made.finished
        assert made.settings()
        assert json.loads(made.result.read_text())["objective_return"] == since
    assert not set(judged[:2]) & set(judged[2:])  # nor are the trainings of then gone on with
    later = replace(made, protocol=replace(TINY, version=4, tuned_since=4))
    assert not later.finished
    with pytest.raises(
        ConfigError, match=r"chosen under version 3 .*: esper bench tune --agent schedule --task digits"
    ):
        later.settings()


def test_every_run_is_named_before_the_first_begins(tmp_path):
    for wrong, message in (("schedul", "Unknown contestant"), ("schedule", "not tuned")):
        with pytest.raises(ConfigError, match=message):
            runner(tmp_path).work(["wait", wrong], ["digits"], show=quiet)
    assert not (tmp_path / "runs").exists()


def test_a_protocol_without_a_choice_of_temperatures_describes_its_runs_as_before_there_was_one(tmp_path):
    plain = runner(tmp_path, protocol=replace(TINY, temperatures=(1.0,)))
    described = plain.run(TINY.entry("lstm", "digits"), 0).describe()
    assert not {"temperatures", "tuning_seeds"} & described.keys()
    assert {"temperatures", "tuning_seeds"} <= runner(tmp_path).run(TINY.entry("lstm", "digits"), 0).describe().keys()
