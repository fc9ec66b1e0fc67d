import csv
import json
import shutil
from dataclasses import replace

import pytest

from benchmarks.suite.playing import play, replay
from benchmarks.suite.protocol import HELD_OUT_SEED
from benchmarks.suite.recordings import read_actions, write_actions
from benchmarks.suite.results import read_agent
from benchmarks.suite.static import read_points, write_points
from benchmarks.suite.submission import hand_in
from benchmarks.suite.validation import validate
from esper_agent.policies.registry import create_policy
from esper_agent.spec import EnvSpec
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from tests.benchmarks.suite.tiny import TINY, work

ENV = TINY.env_options("digits")
SPEC = EnvSpec.of(SeedEnv(**ENV))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return work(tmp_path_factory.mktemp("runs"), "random", "greedy", "big")


@pytest.fixture
def handed_in(results, tmp_path):
    """A copy that may be tampered with."""

    def copy(agent):
        return shutil.copytree(results / agent, tmp_path / agent)

    return copy


def change(folder, column, value, line=0):
    """Write another value into a row."""
    path = folder / "digits.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[line][column] = value(rows[line][column])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def nudged(text):
    """The next float up."""
    import math

    return repr(math.nextafter(float(text), math.inf))


@pytest.mark.parametrize("agent", ["random", "greedy", "big"])
def test_what_our_agents_hand_in_is_confirmed(results, agent):
    verdict = validate(results / agent, TINY)
    assert verdict.findings == ()
    assert verdict.accepted
    assert verdict.episodes == 3


@pytest.mark.parametrize(
    "column", ["objective_return", "shaped_return", "committed_test_accuracy", "final_params", "flops", "env_steps"]
)
def test_a_score_that_is_off_by_a_single_bit_is_found(handed_in, column):
    folder = handed_in("random")
    change(folder, column, (lambda text: str(int(text) + 1)) if column in ("final_params", "env_steps") else nudged, 1)
    (finding,) = validate(folder, TINY).findings
    assert f"evaluation seed {HELD_OUT_SEED + 1}: {column} is said to be" in finding


def test_an_action_that_was_not_taken_is_found(handed_in):
    folder = handed_in("random")
    path = folder / "digits.actions.csv.gz"
    actions = read_actions(path)
    actions[-1, HELD_OUT_SEED + 2] = actions[-1, HELD_OUT_SEED + 2][::-1].copy()
    write_actions(path, actions)
    assert any(f"evaluation seed {HELD_OUT_SEED + 2}" in finding for finding in validate(folder, TINY).findings)


def test_a_planner_may_have_spent_more_than_its_episodes_but_not_less(handed_in):
    folder = handed_in("greedy")
    change(folder, "flops", lambda text: repr(float(text) * 2))
    assert validate(folder, TINY).accepted
    change(folder, "flops", lambda text: "1.0")
    (finding,) = validate(folder, TINY).findings
    assert "flops is said to be 1.0" in finding


def test_a_static_network_is_trained_again(handed_in):
    folder = handed_in("big")
    change(folder, "committed_test_accuracy", nudged)
    (finding,) = validate(folder, TINY).findings
    assert "committed_test_accuracy" in finding


@pytest.mark.parametrize("line", [0, 20])
def test_the_curve_of_a_static_network_is_trained_again(handed_in, line):
    folder = handed_in("big")
    path = folder / "digits.curve.csv.gz"
    points = read_points(path)
    points[line] = replace(points[line], committed_test_accuracy=points[line].committed_test_accuracy + 1)
    write_points(path, points)
    (finding,) = validate(folder, TINY).findings
    assert "committed_test_accuracy is said to be" in finding
    write_points(path, points[:-1])
    assert "digits.curve.csv.gz must hold epochs 1 to 12" in validate(folder, TINY).findings[0]
    path.unlink()
    assert not validate(folder, TINY).accepted


def test_every_training_is_replayed(tmp_path):
    for seed in (3, 4):
        folder = hand_in(
            "mine", create_policy("random", SPEC), "digits", training_seed=seed, results=tmp_path, protocol=TINY
        )
    assert validate(folder, TINY).accepted
    change(folder, "objective_return", nudged, -1)
    (finding,) = validate(folder, TINY).findings
    assert f"training seed 4, evaluation seed {HELD_OUT_SEED + 2}" in finding


def test_a_tolerance_forgives_rounding_and_nothing_else(handed_in):
    folder = handed_in("random")
    change(folder, "objective_return", lambda text: repr(float(text) + 0.01))
    assert not validate(folder, TINY).accepted
    forgiving = validate(folder, TINY, tolerance=0.02)
    assert forgiving.accepted
    assert str(forgiving).endswith("confirmed within a tolerance of 0.02.")
    change(folder, "final_params", lambda text: str(int(text) - 1), 2)
    assert not validate(folder, TINY, tolerance=1e9).accepted


def test_a_score_that_is_no_number_is_never_right(handed_in):
    folder = handed_in("random")
    change(folder, "objective_return", lambda text: "nan")
    assert not validate(folder, TINY, tolerance=1e9).accepted


def drop_a_row(folder):
    lines = (folder / "digits.csv").read_text().splitlines()
    (folder / "digits.csv").write_text("\n".join(lines[:-1]) + "\n")


def repeat_a_row(folder):
    lines = (folder / "digits.csv").read_text().splitlines()
    (folder / "digits.csv").write_text("\n".join([*lines, lines[1]]) + "\n")


def change_runs(folder, runs):
    manifest = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps(manifest | {"runs": runs}))


def play_an_easier_seed(folder):
    change(folder, "evaluation_seed", lambda text: "5")


def leave_out_actions(folder):
    actions = read_actions(folder / "digits.actions.csv.gz")
    actions.popitem()
    write_actions(folder / "digits.actions.csv.gz", actions)


def claim_another_task(folder):
    (folder / "digits.csv").rename(folder / "cifar10_baseline.csv")


def claim_another_protocol(folder):
    manifest = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps(manifest | {"protocol": 0}))


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (drop_a_row, "must play every held-out seed"),
        (repeat_a_row, rf"twice \[{HELD_OUT_SEED}\]"),
        (play_an_easier_seed, r"foreign \[5\]"),
        (lambda folder: change_runs(folder, {}), "must say how many steps training seed -1 had"),
        (lambda folder: change_runs(folder, {"digits": {"-1": {"steps": 9}}}), "had 9 steps, where the protocol has 0"),
        (leave_out_actions, "one action sequence for every episode; 2 for 3"),
        (claim_another_task, "cifar10_baseline is no task of the protocol"),
        (claim_another_protocol, "belong to version 0 of the protocol"),
        (lambda folder: change(folder, "agent", lambda text: "lstm"), "rows of another agent"),
        (lambda folder: change(folder, "training_seed", lambda text: "3"), r"no training seeds \[3\] for random"),
    ],
)
def test_what_breaks_the_rules_is_named(handed_in, tamper, said):
    import re

    folder = handed_in("random")
    tamper(folder)
    findings = validate(folder, TINY).findings
    assert any(re.search(said, finding) for finding in findings), findings


def test_results_of_another_machine_come_with_a_hint(handed_in):
    folder = handed_in("random")
    manifest = json.loads((folder / "agent.json").read_text())
    manifest["runs"]["digits"]["-1"]["sessions"][0]["versions"]["torch"] = "1.0"
    (folder / "agent.json").write_text(json.dumps(manifest))
    assert validate(folder, TINY).accepted
    change(folder, "objective_return", nudged)
    assert "--tolerance" in validate(folder, TINY).findings[-1]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"agent\.json is missing"):
        read_agent(tmp_path)
    (tmp_path / "agent.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not describe an agent"):
        read_agent(tmp_path)


def test_an_episode_has_the_same_bits_alone_and_in_any_company():
    seeds = TINY.held_out_seeds()
    policy = create_policy("schedule", SPEC)
    together = play(policy, ENV, seeds, agent="schedule")
    for i, seed in enumerate(seeds):
        assert replay([together.actions[i]], ENV, [seed], agent="schedule") == [together.episodes[i]]
