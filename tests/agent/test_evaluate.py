import csv
import dataclasses
import math

import numpy as np
import pytest

from esper_agent import create_policy
from esper_agent.evaluate import (
    COLUMNS,
    Episode,
    estimate,
    evaluate,
    evaluate_named,
    evaluate_run,
    held_out_seeds,
    summarise,
    table,
    write_csv,
)
from esper_agent.runs import HOST_SEEDS, SELECTION_SEED, TrainConfig
from esper_agent.spec import EnvSpec
from esper_agent.train import train
from esper_env import SeedEnv
from esper_env.actions import CANONICAL_ACTION
from esper_env.config import ConfigError
from tests.agent.test_train import ENV, quiet, tiny

OPTIONS = {"task": "digits", **ENV}
SEEDS = held_out_seeds(6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    train(tiny(folder, seed=2), show=quiet)
    return folder


def test_held_out_seeds_are_used_for_nothing_else():
    selection = range(SELECTION_SEED, SELECTION_SEED + TrainConfig().evaluation_episodes)
    training = range(900 * HOST_SEEDS)
    held_out = held_out_seeds(100_000)
    assert len(set(held_out)) == 100_000
    assert min(held_out) > max(selection) > min(selection) > max(training)


def test_more_held_out_episodes_begin_with_the_same():
    assert held_out_seeds(50)[:10] == held_out_seeds(10)


def test_rows_have_the_columns_of_the_benchmark(tmp_path, run):
    rows = evaluate_run(run, OPTIONS, SEEDS)
    write_csv(tmp_path / "rows.csv", rows)
    with (tmp_path / "rows.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == [
        "agent",
        "task",
        "training_seed",
        "evaluation_seed",
        "objective_return",
        "shaped_return",
        "committed_test_accuracy",
        "final_params",
        "flops",
        "env_steps",
    ]
    assert tuple(header) == COLUMNS
    assert [line[:4] for line in lines] == [["lstm", "digits", "2", str(seed)] for seed in SEEDS]
    assert {line[-1] for line in lines} == {"4"}


def test_an_episode_is_worth_what_the_single_environment_says():
    (row, _) = evaluate(create_policy("wait", SeedEnv(**OPTIONS)), OPTIONS, SEEDS[:2], agent="wait")
    env = SeedEnv(**OPTIONS)
    env.reset(seed=SEEDS[0])
    objective = shaped = 0.0
    for epoch in range(4):
        _, reward, _, _, info = env.step(CANONICAL_ACTION)
        objective += info["objective_reward"]
        shaped += env.config.reward.gamma**epoch * reward
    assert row.objective_return == pytest.approx(objective, abs=1e-3)
    assert row.shaped_return == pytest.approx(shaped, abs=1e-3)
    assert row.committed_test_accuracy == pytest.approx(info["test_accuracy"], abs=0.5)
    assert row.final_params == info["host_params"]
    assert row.flops == info["flops"]


def test_an_episode_that_ended_before_others_counts_no_further():
    options = {**OPTIONS, "max_epochs": 6, "on_panic": "terminate", "training": {**ENV["training"], "host_lr": 1e4}}
    rows = evaluate_named(["wait"], options, held_out_seeds(12))
    lengths = [row.env_steps for row in rows]
    assert all(0 < length <= 6 for length in lengths)
    for row in rows:
        (alone, _) = evaluate_named(["wait"], options, [row.evaluation_seed, row.evaluation_seed])
        assert alone == row


def test_the_same_seeds_give_the_same_rows_whatever_the_threads(run):
    assert evaluate_run(run, OPTIONS, SEEDS) == evaluate_run(run, OPTIONS, SEEDS, threads=2)
    assert evaluate_named(["random"], OPTIONS, SEEDS) == evaluate_named(["random"], OPTIONS, SEEDS)


def test_drawing_differs_from_choosing_and_repeats_with_its_seed(run):
    chosen = evaluate_run(run, OPTIONS, SEEDS, temperature=0)
    drawn = [evaluate_run(run, OPTIONS, SEEDS, seed=seed) for seed in (1, 1, 2)]
    assert chosen != drawn[0] == drawn[1] != drawn[2]
    assert chosen == evaluate_run(run, OPTIONS, SEEDS, temperature=0, seed=1)


def test_evaluating_leaves_the_draws_of_a_training_alone(run):
    policy = create_policy("lstm", SeedEnv(**OPTIONS), seed=0, width=16, head_width=8)
    before = policy.generator.get_state()
    evaluate(policy, OPTIONS, SEEDS, agent="lstm")
    assert (policy.generator.get_state() == before).all()


class Executed:
    """Counts the actions of episodes under way, and those that were done."""

    def __init__(self):
        self.asked = self.done = 0

    def begin(self, agent, policy, seeds, after):
        self.playing = np.ones(len(seeds), bool)

    def follow(self, decided, after, over):
        self.asked += self.playing.sum()
        self.done += (after[1]["action_executed"] & self.playing).sum()
        self.playing &= ~over


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_a_trained_policy_never_picks_an_illegal_action(run, temperature):
    seen = Executed()
    evaluate_run(run, OPTIONS, held_out_seeds(8), temperature=temperature, observer=seen)
    assert seen.asked == seen.done > 8


def test_a_policy_may_play_another_task_of_the_same_sizes_only(run):
    assert {row.task for row in evaluate_run(run, {**OPTIONS, "task": "shapes"}, SEEDS[:2])} == {"shapes"}
    with pytest.raises(ConfigError, match="was trained on 3 slots and 13 blueprints; this environment has 5 s"):
        evaluate_run(run, {**OPTIONS, "task": "digits_deep"}, SEEDS[:2])


def test_an_interval_holds_its_mean_and_shrinks_with_more_values():
    few, many = estimate([0.0, 1.0] * 5), estimate([0.0, 1.0] * 500)
    assert few.low < few.mean == 0.5 < few.high
    assert many.high - many.low < few.high - few.low
    assert estimate([3.0]) == estimate([3.0, 3.0])
    # The normal interval of a mean of 1000 fair coins is 0.5 ± 0.031.
    assert many.high - many.mean == pytest.approx(0.031, abs=0.004)


def test_a_table_has_a_line_per_agent_with_mean_and_interval():
    episode = Episode("a", "digits", -1, 1, 1.5, 0.0, 50.0, 1000, 2e9, 50)
    rows = [episode, dataclasses.replace(episode, agent="b", objective_return=-1.0)]
    lines = table(summarise(rows)).splitlines()
    assert lines[0].split("  ")[0] == "agent"
    assert "1.50 [1.50, 1.50]" in lines[2]
    assert "2.00 [2.00, 2.00]" in lines[2]
    assert lines[3].startswith("b")
    assert len({len(line) for line in lines}) == 1


def test_what_has_not_learned_and_what_an_evaluation_sets_itself_are_refused():
    with pytest.raises(ConfigError, match="'lstm' has learned nothing yet"):
        evaluate_named(["lstm"], OPTIONS, SEEDS)
    for name, value in (("autoreset_mode", "same_step"), ("num_envs", 3), ("threads", 2), ("render_mode", "ansi")):
        with pytest.raises(ConfigError, match=f"sets {name} itself"):
            evaluate(create_policy("wait", EnvSpec()), OPTIONS | {name: value}, SEEDS, agent="wait")


def test_an_episode_that_is_cut_short_has_no_test_accuracy():
    (row,) = evaluate_named(["wait"], OPTIONS | {"max_episode_steps": 2}, [SEEDS[0]])
    assert math.isnan(row.committed_test_accuracy)
    assert row.env_steps == 2
    line = table(summarise([row])).splitlines()[-1]
    assert line.split()[4] == "-"  # after the agent, and a mean with its interval
    assert "nan" not in line
