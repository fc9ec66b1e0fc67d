import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.suite
from benchmarks.suite import submission
from benchmarks.suite.greedy import plan, play_greedily
from benchmarks.suite.playing import Recorded
from benchmarks.suite.protocol import HELD_OUT_SEED, PROTOCOL
from benchmarks.suite.report import write_report
from benchmarks.suite.results import read_agent
from benchmarks.suite.submission import hand_in
from benchmarks.suite.validation import validate
from esper_agent.evaluate import COLUMNS
from esper_agent.policies.registry import create_policy
from esper_agent.spec import EnvSpec
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from tests.benchmarks.suite.tiny import TINY

GUIDE = (Path(benchmarks.suite.__file__).parent / "SUBMISSION.md").read_text()


def waiting(observation, begins):
    return np.zeros((len(begins), 8), np.int64)


def test_the_guides_example_hands_in_what_validates(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    made = []

    def tiny(*arguments, **options):
        made.append(hand_in(*arguments, **options, results=tmp_path, protocol=TINY))

    monkeypatch.setattr(submission, "hand_in", tiny)
    exec(code, {})
    assert validate(made[0], TINY).accepted
    write_report(tmp_path, tmp_path / "page.md", TINY)
    assert "`depthwise-grower`" in (tmp_path / "page.md").read_text()


def test_the_guide_names_the_columns_and_the_held_out_seeds():
    assert all(name in GUIDE for name in COLUMNS)
    assert f"{HELD_OUT_SEED:,} to {HELD_OUT_SEED + PROTOCOL.episodes - 1:,}" in GUIDE


def test_trainings_are_added_one_by_one_and_an_episode_begins_once(tmp_path):
    begun = []

    def act(observation, begins):
        begun.append(begins.all())
        return waiting(observation, begins)

    for seed in (0, 1, 1):
        folder = hand_in("mine", act, "digits", training_seed=seed, training_steps=7, results=tmp_path, protocol=TINY)
    assert begun == ([True] + [False] * 5) * 3
    agent = read_agent(folder)
    assert [row.training_seed for row in agent.episodes("digits")] == [0, 0, 0, 1, 1, 1]
    assert [run["steps"] for run in agent.runs("digits")] == [7, 7]
    assert validate(folder, TINY).accepted


def test_what_was_handed_in_under_another_version_of_the_protocol_goes(tmp_path):
    for version in (TINY.version, TINY.version + 1):
        protocol = replace(TINY, version=version)
        folder = hand_in("mine", waiting, "digits", training_seed=version, results=tmp_path, protocol=protocol)
    assert {row.training_seed for row in read_agent(folder).episodes("digits")} == {TINY.version + 1}
    assert len(read_agent(folder).runs("digits")) == 1
    assert validate(folder, protocol).accepted


def test_a_planner_can_be_handed_in_with_what_its_forks_have_cost(tmp_path):
    env, seeds = TINY.env_options("digits"), TINY.held_out_seeds()
    planned = plan(env, seeds, every=2, horizon=2)
    folder = hand_in(
        "planner", Recorded(planned.actions), "digits", spent=planned.spent, results=tmp_path, protocol=TINY
    )
    ours = play_greedily(env, seeds, agent="planner", every=2, horizon=2).episodes
    assert read_agent(folder).episodes("digits") == ours
    assert validate(folder, TINY).accepted


def test_a_policy_of_ours_can_be_handed_in(tmp_path):
    env = TINY.env_options("digits")
    policy = create_policy("lstm", EnvSpec.of(SeedEnv(**env)), seed=1, width=16, head_width=8)
    assert validate(hand_in("narrow", policy, "digits", results=tmp_path, protocol=TINY), TINY).accepted


@pytest.mark.parametrize("name", ["lstm", "lstm@0.5", "", "a/b", "a|b"])
def test_a_name_that_is_taken_or_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError):
        hand_in(name, waiting, "digits", results=tmp_path, protocol=TINY)
