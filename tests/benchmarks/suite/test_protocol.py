from dataclasses import FrozenInstanceError

import pytest
from gymnasium.utils import seeding

from benchmarks.suite.contestants import KINDS
from benchmarks.suite.maskable import ROLLOUT
from benchmarks.suite.protocol import (
    GOALS,
    HELD_OUT_SEED,
    PROTOCOL,
    TUNING_SEED,
    UNTRAINED,
    Entry,
    scaled,
    unscaled,
)
from benchmarks.suite.tuning import GRIDS, MASKABLE_STAGES, TUNING_TRAINING_SEED
from esper_agent import evaluate
from esper_agent.metrics import METRICS
from esper_agent.runs import HOST_SEEDS, SELECTION_SEED
from esper_env.config import ConfigError
from esper_env.env import MAX_SEED
from esper_env.options import resolve

LEARNING = [entry for entry in PROTOCOL.entries if entry.steps]


def training_seeds(seed, episodes):
    """Every seed that the hosts of a run meet in so many episodes each."""
    met = set()
    for first in range(seed * HOST_SEEDS, seed * HOST_SEEDS + PROTOCOL.num_envs):
        generator = seeding.np_random(first)[0]
        met |= {first, *(int(generator.integers(MAX_SEED)) for _ in range(episodes))}
    return met


def test_no_seed_is_trained_on_tuned_on_and_held_out():
    held_out, tuning = set(PROTOCOL.held_out_seeds()), set(PROTOCOL.tuning_seeds())
    assert len(held_out) == PROTOCOL.episodes == 50
    assert not held_out & tuning
    longest = max(entry.steps for entry in LEARNING) // 50 // PROTOCOL.num_envs + 2
    for seed in {seed for entry in LEARNING for seed in entry.seeds} | {TUNING_TRAINING_SEED}:
        met = training_seeds(seed, longest)
        assert not met & (held_out | tuning)
        assert max(s for s in met if s < MAX_SEED // 2**40) < TUNING_SEED
    assert TUNING_SEED + PROTOCOL.tuning_episodes <= SELECTION_SEED < evaluate.HELD_OUT_SEED < HELD_OUT_SEED


def test_settings_are_chosen_with_a_training_seed_that_no_entry_uses():
    assert all(TUNING_TRAINING_SEED not in entry.seeds for entry in PROTOCOL.entries)


@pytest.mark.usefixtures("cells")
def test_every_contestant_can_be_made_and_is_entered_and_every_entry_is_of_a_contestant():
    names = [contestant.name for contestant in PROTOCOL.contestants]
    assert len(set(names)) == len(names)
    assert {entry.agent for entry in PROTOCOL.entries} == set(names)
    for contestant in PROTOCOL.contestants:
        assert contestant.kind in KINDS
        assert contestant.grid in ("", *GRIDS)
        assert (contestant.kind in ("esper", "maskable")) is all(
            entry.steps > 0 for entry in PROTOCOL.entries if entry.agent == contestant.name
        )
    for entry in PROTOCOL.entries:
        assert (entry.seeds == UNTRAINED) is (entry.steps == 0)
        resolve(PROTOCOL.env_options(entry.task))
    assert len({(entry.agent, entry.task) for entry in PROTOCOL.entries}) == len(PROTOCOL.entries)


def test_every_comparison_is_between_entries_and_every_late_claim_about_a_metric():
    entered = {(entry.agent, entry.task) for entry in PROTOCOL.entries}
    for comparison in PROTOCOL.comparisons:
        assert comparison.goal in GOALS
        for task in comparison.tasks:
            assert {(name, task) for name in (comparison.agent, *comparison.against)} <= entered
    for late in PROTOCOL.late:
        assert late.metric in METRICS
        assert late.relative_to in ("", *METRICS)


def test_the_budgets_are_those_that_were_agreed():
    names = ("lstm", "maskable-ppo", "maskable-ppo-tuned")
    tested = {(name, task) for name in names for task in ("digits", "shapes")}
    for entry in LEARNING:
        assert entry.seeds == ((0, 1, 2, 3, 4) if (entry.agent, entry.task) in tested else (0, 1, 2))
        assert entry.steps == 40_000


def test_maskable_ppo_is_trained_and_tuned_for_exactly_the_steps_that_were_agreed():
    choices = {name: values for stage in MASKABLE_STAGES for name, values in stage}
    start = GRIDS["maskable"].start
    for rollout in {start["rollout"], *choices["rollout"]}:
        assert PROTOCOL.entry("maskable-ppo-tuned", "digits").steps % rollout == PROTOCOL.tuning_steps % rollout == 0
        assert rollout % PROTOCOL.num_envs == 0
        assert all(rollout % batch == 0 for batch in {start["batch_size"], *choices["batch_size"]})
    assert PROTOCOL.entry("maskable-ppo", "digits").steps % ROLLOUT == ROLLOUT % 64 == ROLLOUT % PROTOCOL.num_envs == 0


def test_the_tables_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        PROTOCOL.entries[0].steps = 1


def test_a_scaled_run_says_so_in_its_name_and_one_without_training_is_not_scaled():
    less = scaled(Entry("lstm", "digits", (0,), 200_000), 0.1)
    assert (less.agent, less.steps) == ("lstm@0.1", 20_000)
    assert unscaled(less.agent) == ("lstm", 0.1)
    assert unscaled("lstm") == ("lstm", 1.0)
    assert scaled(Entry("wait", "digits"), 0.1) == Entry("wait", "digits")
    for budget in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="budget must be above 0"):
            scaled(less, budget)


def test_what_is_not_in_the_protocol_is_refused_with_what_is():
    with pytest.raises(ConfigError, match="Did you mean 'lstm'"):
        PROTOCOL.contestant("lstmm")
    with pytest.raises(ConfigError, match="task for lstm-128 'shapes'"):
        PROTOCOL.entry("lstm-128", "shapes")
