"""Whatever is asked of it, the environment keeps its promises, step after step.

`ESPER_RANDOM_STEPS` sets how many environment steps are played in all.
"""

import os
from collections import Counter
from functools import cache

import pytest

from esper_env.actions import Algorithm, Op
from esper_env.lifecycle.stages import Stage
from esper_env.options import resolve
from tests.conftest import QUICK_TASKS
from tests.properties.journey import LIVE, Journey
from tests.properties.players import SOURCES
from tests.properties.scenarios import CHEAP_FEW, QUICK, SCENARIOS, Scenario

STEPS = int(os.environ.get("ESPER_RANDOM_STEPS", "20000"))


@cache
def travelled(name: str) -> Counter:
    """Play a scenario for its share of the steps, once."""
    scenario = SCENARIOS[name]
    steps = STEPS * scenario.share / sum(s.share for s in SCENARIOS.values())
    return Journey(scenario).play(-int(-steps // scenario.envs))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_step_of_random_play_keeps_every_promise(name):
    assert travelled(name)["steps"] > 0


def test_random_play_has_been_everywhere():
    seen: Counter = sum((travelled(name) for name in SCENARIOS), Counter())
    assert seen["steps"] >= STEPS
    assert {s.options.get("task", "digits") for s in SCENARIOS.values()} == set(QUICK_TASKS)
    expected = [
        *(("stage", stage) for stage in Stage if stage != Stage.UNKNOWN),
        *(("executed", source, op) for source in SOURCES for op in Op if source != "uniform" or op in (0, 1, 3, 5)),
        *(("refused", source, op) for source in ("uniform", "masked") for op in Op if op),
        *(("refused", "adversarial", op) for op in (*Op, "beyond") if op),
        *(("algorithm", algorithm) for algorithm in Algorithm),
        *(("blueprint", name) for name in suited_blueprints()),
        *(("style", style) for style in range(4)),
        *(("switch", style, stage) for style in range(4) for stage in (Stage.BLENDING, Stage.HOLDING)),
        *(("prune", stage, speed) for stage in LIVE for speed in range(4)),
        *(("rolled back", on_panic) for on_panic in ("rollback", "terminate")),
        "rolled back with fossils",
        "advanced by itself",
        "refusals compared",
        "terminated",
        "truncated",
    ]
    assert [what for what in expected if not seen[what]] == []


@pytest.mark.parametrize("task", QUICK_TASKS)
def test_on_every_task_random_play_has_been_in_every_stage_and_executed_and_refused_every_op(task):
    played = [travelled(name) for name, s in SCENARIOS.items() if s.options.get("task", "digits") == task]
    assert unseen(sum(played, Counter())) == []


@pytest.mark.parametrize("task", ["digits", "cifar10_impaired", "story_grammar"])
def test_on_every_kind_of_host_weights_were_lost_and_brought_back(task):
    played = [travelled(name) for name, s in SCENARIOS.items() if s.faults and s.options.get("task", "digits") == task]
    seen = sum(played, Counter())
    assert [what for what in (("rolled back", "rollback"), "rolled back with fossils") if not seen[what]] == []


def test_every_step_on_small_hosts_for_stories_keeps_every_promise(small_stories):
    options = {"task": small_stories, "training": CHEAP_FEW, "lifecycle": QUICK, "max_epochs": 24}
    journey = Journey(Scenario(small_stories, options, envs=5, autoreset="same_step"))
    assert unseen(journey.play(80)) == []


def unseen(seen):
    """What has not been seen of all that every task must have seen, whoever played."""
    met = {what if what[0] == "stage" else (what[0], what[-1]) for what in seen if isinstance(what, tuple)}
    expected = [
        *(("stage", stage) for stage in Stage if stage != Stage.UNKNOWN),
        *(("executed", op) for op in Op),
        *(("refused", op) for op in Op if op),
    ]
    return [what for what in expected if what not in met] + ["refusals compared"] * (not seen["refusals compared"])


def suited_blueprints():
    """The blueprints that suit the hosts played with."""
    return {name for task in ("digits", "story_grammar") for name in resolve({"task": task})[0].blueprints}
