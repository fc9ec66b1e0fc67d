"""Agents of stable-baselines3 and sb3-contrib find what they expect."""

import builtins
import importlib
import sys

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from esper_env.env import SeedEnv
from esper_env.registration import IDS
from esper_env.reward import REWARDS
from esper_env.sb3 import SeedVecEnv
from esper_env.testing import ScriptedGrower
from esper_env.wrappers import FlatDiscrete
from tests.conftest import HASTY

SHORT = {"max_epochs": 5, "training": {"batches_per_epoch": 2, "val_samples": 64}, "lifecycle": HASTY}
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
WAIT = np.zeros((2, 8), np.int64)


def stacked(**options):
    return SeedVecEnv(2, **SHORT | options)


def in_turn(**options):
    return DummyVecEnv([lambda: gym.make("esper_env:Esper-Seed-v0", **SHORT | options) for _ in range(2)])


def assert_close(ours, theirs):
    """The same structure and types, and close numbers."""
    assert isinstance(theirs, type(ours))
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_close(ours[name], theirs[name])
    elif isinstance(theirs, list | tuple):
        for our, their in zip(ours, theirs, strict=True):
            assert_close(our, their)
    else:
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", IDS)
def test_its_checker_finds_nothing_to_say(name):
    check_env(gym.make(name, **SHORT))


@pytest.mark.parametrize("options", [{}, {"max_episode_steps": 3}])
def test_it_does_what_a_dummy_vec_env_does(options):
    ours, theirs, policy = stacked(**options), in_turn(**options), ScriptedGrower()
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(3) == theirs.seed(3)
    observation = ours.reset()
    assert_close(observation, theirs.reset())
    assert_close(ours.reset_infos, theirs.reset_infos)
    ends = 0
    for _ in range(8):
        actions = policy(observation)
        found, expected = ours.step(actions), theirs.step(actions)
        assert_close(found, expected)
        assert_close(ours.reset_infos, theirs.reset_infos)
        observation = found[0]
        ends += found[2].sum()
    assert ends >= 2


def test_an_episode_that_ended_is_told_from_one_that_was_cut():
    for options, truncated in (({"max_epochs": 2}, False), ({"max_episode_steps": 2}, True)):
        envs = stacked(**options)
        envs.reset()
        assert "terminal_observation" not in envs.step(WAIT)[3][0]
        observation, _, dones, infos = envs.step(WAIT)
        assert dones.all()
        for env, info in enumerate(infos):
            assert info["TimeLimit.truncated"] is truncated
            assert info["epoch"] == 2
            assert (info["test_accuracy"] >= 0) is not truncated
            assert envs.reset_infos[env]["epoch"] == 0
            final = {name: array[env] for name, array in observation.items()}
            assert final["features"][0] == 0
            assert info["terminal_observation"]["features"][0] > 0


def test_terms_of_a_reward_may_have_any_name(monkeypatch):
    def named(step, config):
        return {"final_score": step.after.score, "_hidden": step.before.score}

    monkeypatch.setitem(REWARDS, "named", named)
    ours, theirs = stacked(reward="named", max_epochs=1), in_turn(reward="named", max_epochs=1)
    ours.seed(3), theirs.seed(3)
    ours.reset(), theirs.reset()
    infos, expected = ours.step(WAIT)[3], theirs.step(WAIT)[3]
    assert infos[0]["reward_terms"].keys() == {"final_score", "_hidden"}
    assert_close(infos, expected)
    assert_close(ours.reset_infos, theirs.reset_infos)


def test_seeds_hold_for_the_next_reset_only():
    envs = stacked()
    envs.seed(1)
    first, second = envs.reset()["features"], envs.reset()["features"]
    assert not np.array_equal(first, second)
    envs.seed(1)
    np.testing.assert_array_equal(envs.reset()["features"], first)


def test_masks_are_found_for_all_and_for_some():
    envs = stacked()
    observation = envs.reset()
    assert is_masking_supported(envs)
    np.testing.assert_array_equal(get_action_masks(envs), observation["action_mask"])
    (masks,) = envs.env_method("action_masks", indices=1)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, observation["action_mask"][1])
    assert not envs.has_attr("no_such_attribute")


def test_attributes_are_those_of_every_environment():
    envs = stacked()
    assert [space == envs.action_space for space in envs.get_attr("action_space")] == [True, True]
    assert [config.max_epochs for config in envs.get_attr("config", indices=[0])] == [5]
    assert envs.env_is_wrapped(Monitor) == [False, False]
    assert envs.env_is_wrapped(Monitor, indices=0) == [False]


def test_what_a_stack_can_not_do_is_explained():
    envs = stacked()
    with pytest.raises(NotImplementedError, match=r"'config' can not be set.*other options"):
        envs.set_attr("config", None)
    with pytest.raises(AttributeError, match="'action_masks' for each environment, not 'export_host'"):
        envs.env_method("export_host")


def test_maskable_ppo_learns_on_it(tmp_path):
    envs = VecMonitor(SeedVecEnv(4, **SHORT), str(tmp_path / "monitor.csv"), info_keywords=("committed_accuracy",))
    agent = MaskablePPO(
        "MultiInputPolicy", envs, n_steps=20, batch_size=40, n_epochs=2, learning_rate=1e-3, device="cpu", seed=1
    )
    agent.learn(320)
    assert agent.num_timesteps == 320
    assert [episode["l"] for episode in agent.ep_info_buffer] == [5] * 64
    assert all(0 < episode["committed_accuracy"] <= 100 for episode in agent.ep_info_buffer)
    observation = envs.reset()
    actions, _ = agent.predict(observation, action_masks=get_action_masks(envs))
    assert actions.shape == (4, 8)
    envs.close()


def test_maskable_ppo_learns_with_one_flat_action():
    agent = MaskablePPO(
        "MultiInputPolicy", FlatDiscrete(SeedEnv(**SHORT)), n_steps=20, batch_size=20, n_epochs=1, device="cpu", seed=1
    )
    agent.learn(40)
    assert agent.num_timesteps == 40
    assert agent.action_space.n == 1_543


def test_without_stable_baselines3_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("stable_baselines3"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "esper_env.sb3")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'esper-env\[compat\]'"):
        importlib.import_module("esper_env.sb3")
