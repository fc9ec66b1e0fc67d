"""SeedVectorEnv is what Gymnasium's SyncVectorEnv of SeedEnv is, only stacked."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from esper_env.env import SeedEnv
from esper_env.tasks.data import Digits
from esper_env.testing import ScriptedGrower
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import HASTY

ID = "esper_env:Esper-Seed-v0"
SHORT = {"max_epochs": 5, "training": {"batches_per_epoch": 2, "val_samples": 64}, "lifecycle": HASTY}
MODES = ["next_step", "same_step", "disabled"]
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
WAIT = np.zeros((3, 8), np.int64)


def stacked(mode="next_step", num_envs=3, **options):
    kwargs = SHORT | {"autoreset_mode": mode} | options
    return gym.make_vec(ID, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)


def in_turn(mode="next_step", num_envs=3, **options):
    kwargs = {"autoreset_mode": AutoresetMode[mode.upper()]}
    return gym.make_vec(ID, num_envs=num_envs, vectorization_mode="sync", vector_kwargs=kwargs, **SHORT | options)


def same(a, b):
    return data_equivalence(a, b, exact=True)


def assert_observation_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_allclose(ours[name], array, **CLOSE, err_msg=name)


def assert_info_close(ours, theirs):
    """The same keys, dtypes and masks as Gymnasium's, and the same values where the masks say that there is one."""
    assert ours.keys() == theirs.keys()
    for name in (name for name in theirs if not name.startswith("_")):
        present = theirs[f"_{name}"]
        np.testing.assert_array_equal(ours[f"_{name}"], present)
        if isinstance(theirs[name], dict):
            assert_info_close(ours[name], theirs[name])
        elif name == "final_obs":
            for env in np.flatnonzero(present):
                assert_observation_close(ours[name][env], theirs[name][env])
        elif name == "action_mask":  # arrays by head here, an object array of tuples there
            for env in np.flatnonzero(present):
                assert same(tuple(head[env] for head in ours[name]), theirs[name][env])
        else:
            assert ours[name].dtype == theirs[name].dtype, name
            np.testing.assert_allclose(ours[name][present], theirs[name][present], **CLOSE, err_msg=name)


def reset_both(ours, theirs, mask=None, seed=None):
    def options():  # Gymnasium takes the mask out of the dict
        return None if mask is None else {"reset_mask": np.array(mask)}

    (observation, info), expected = ours.reset(seed=seed, options=options()), theirs.reset(seed=seed, options=options())
    assert_observation_close(observation, expected[0])
    assert_info_close(info, expected[1])
    return observation


@pytest.mark.parametrize("mode", MODES)
def test_it_is_close_to_environments_in_turn_through_autoresets(mode):
    ours, theirs, policy = stacked(mode), in_turn(mode), ScriptedGrower(["conv_light", "norm", "attention"])
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is AutoresetMode[mode.upper()]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space

    observation = reset_both(ours, theirs, seed=7)
    ends = 0
    for step in range(13):
        if step == 2:  # out of step from here on
            observation = reset_both(ours, theirs, mask=[False, True, False])
        actions = policy(observation)
        found, expected = ours.step(actions), theirs.step(actions)
        observation = found[0]
        assert_observation_close(observation, expected[0])
        np.testing.assert_allclose(found[1], expected[1], **CLOSE)
        assert found[1].dtype == expected[1].dtype
        for flags, expected_flags in zip(found[2:4], expected[2:4], strict=True):
            np.testing.assert_array_equal(flags, expected_flags)
        assert_info_close(found[4], expected[4])
        over = found[2] | found[3]
        ends += over.sum()
        if mode == "disabled" and over.any():
            observation = reset_both(ours, theirs, mask=over)
    assert ends >= 6


@pytest.mark.parametrize("mode", MODES[:2])
def test_max_episode_steps_truncates_as_a_time_limit_does(mode):
    ours, theirs = stacked(mode, max_episode_steps=2), in_turn(mode, max_episode_steps=2)
    reset_both(ours, theirs, seed=1)
    for _ in range(6):
        found, expected = ours.step(WAIT), theirs.step(WAIT)
        for flags, expected_flags in zip(found[2:4], expected[2:4], strict=True):
            np.testing.assert_array_equal(flags, expected_flags)
        assert_observation_close(found[0], expected[0])
        assert_info_close(found[4], expected[4])
        assert (found[4]["test_accuracy"] == -1).all()


def test_an_end_that_is_also_the_time_limit_is_both():
    envs = stacked(max_epochs=2, max_episode_steps=2)
    envs.reset(seed=1)
    envs.step(WAIT)
    _, _, terminated, truncated, _ = envs.step(WAIT)
    assert terminated.all()
    assert truncated.all()


def test_the_seed_given_is_the_one_that_is_told():
    envs = stacked(num_envs=2)
    envs.reset(seed=5)
    assert envs.unwrapped.np_random_seed == 5


def test_data_that_all_share_is_read_once(monkeypatch):
    reads = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, rng=None: reads.append(rng) or load(self, rng))
    envs = stacked(num_envs=3, chunk=3)
    for seed in range(3):
        envs.reset(seed=seed)
    assert len(reads) == 1


def test_one_seed_counts_up_and_a_list_names_each():
    first, second = stacked(), stacked()
    assert same(first.reset(seed=5), second.reset(seed=[5, 6, 7]))
    assert same(first.reset(seed=np.int64(5)), second.reset(seed=np.array([5, 6, 7])))
    apart = second.reset(seed=[7, None, 5])[0]["features"]
    together = first.reset(seed=5)[0]["features"]
    np.testing.assert_array_equal(apart[[0, 2]], together[[2, 0]])
    assert not np.array_equal(apart[1], together[1])


def test_a_host_of_a_vector_environment_has_the_episodes_of_a_single_one_with_its_seed():
    envs, env = stacked(num_envs=2), SeedEnv(**SHORT)
    env.reset(seed=9)
    envs.reset(seed=8)
    for _ in range(2):
        np.testing.assert_allclose(envs.reset()[0]["features"][1], env.reset()[0]["features"], **CLOSE)


def test_resetting_some_hosts_leaves_the_others_where_they_were():
    envs, undisturbed = stacked(), stacked()
    for each in (envs, undisturbed):
        each.reset(seed=1)
        each.step(WAIT)
    before = envs.step(WAIT)
    undisturbed.step(WAIT)
    observation, info = envs.reset(seed=[3, 4, 5], options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(info["_epoch"], [False, True, False])
    np.testing.assert_array_equal(info["epoch"], [2, 0, 2])
    for name, array in observation.items():
        np.testing.assert_array_equal(array[[0, 2]], before[0][name][[0, 2]])
    after, expected = envs.step(WAIT), undisturbed.step(WAIT)
    for name, array in after[0].items():
        np.testing.assert_array_equal(array[[0, 2]], expected[0][name][[0, 2]])
    np.testing.assert_array_equal(after[1][[0, 2]], expected[1][[0, 2]])


@pytest.mark.parametrize("mask", [[True, False, True], np.array([1, 0, 1]), np.array([True]), np.zeros(3, bool)])
def test_a_reset_mask_of_another_kind_is_refused(mask):
    envs = stacked()
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        ([1, 2], ValueError, r"3 of them, one for each environment; got \[1, 2\]"),
        (1.5, ValueError, "seed must be an int"),
        ([1, 2, -1], gym.error.Error, "greater or equal to zero"),
        ([1, 2, 1.5], TypeError, "float"),
    ],
)
def test_bad_seeds_are_refused_and_change_nothing(seed, error, message):
    envs, undisturbed = stacked(), stacked()
    envs.reset(seed=1)
    undisturbed.reset(seed=1)
    with pytest.raises(error, match=message):
        envs.reset(seed=seed)
    assert same(envs.reset(), undisturbed.reset())


def test_finished_hosts_wait_for_a_reset_when_autoreset_is_disabled():
    envs = stacked("disabled", max_epochs=1)
    envs.reset(seed=1)
    envs.step(WAIT)
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=r"\[1\] have ended.*reset_mask"):
        envs.step(WAIT)
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert envs.step(WAIT)[2].all()


def test_stepping_before_all_hosts_have_begun_is_refused():
    envs = stacked()
    with pytest.raises(ResetNeeded, match="reset"):
        envs.step(WAIT)
    envs.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(ResetNeeded, match="reset"):
        envs.step(WAIT)


@pytest.mark.parametrize("mode", MODES)
def test_it_continues_bit_for_bit_after_pickling(mode):
    envs = stacked(mode, max_episode_steps=4)
    envs.reset(seed=3)
    envs.action_space.seed(0)
    envs.step(envs.action_space.sample())
    copied = pickle.loads(pickle.dumps(envs))
    assert copied.spec == envs.spec
    assert copied.metadata == envs.metadata
    for _ in range(2 if mode == "disabled" else 6):
        actions = envs.action_space.sample()
        np.testing.assert_array_equal(actions, copied.action_space.sample())
        assert same(envs.step(actions), copied.step(actions))
    assert same(envs.reset(), copied.reset())


def test_what_was_returned_is_not_written_to_again():
    envs = stacked("same_step", max_epochs=2)
    kept = []
    for _ in range(2):
        kept.append((returned := envs.reset(seed=1), pickle.dumps(returned)))
        for _ in range(3):
            kept.append((returned := envs.step(WAIT), pickle.dumps(returned)))
    assert all(same(returned, pickle.loads(then)) for returned, then in kept)


def test_threads_do_not_change_a_bit():
    alone, threaded = (SeedVectorEnv(4, chunk=2, threads=threads, **SHORT) for threads in (1, 2))
    policy = ScriptedGrower()
    observation, _ = alone.reset(seed=1)
    assert same(observation, threaded.reset(seed=1)[0])
    for _ in range(7):
        actions = policy(observation)
        found = alone.step(actions)
        assert same(found, threaded.step(actions))
        observation = found[0]
    threaded.close()


def test_masks_are_those_of_the_observation():
    envs = stacked()
    observation, info = envs.reset(seed=0)
    np.testing.assert_array_equal(envs.action_masks(), observation["action_mask"])
    np.testing.assert_array_equal(np.concatenate(info["action_mask"], 1), observation["action_mask"])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, "SameStep", "same_step"])
def test_the_autoreset_mode_is_a_name_or_a_member(mode):
    assert SeedVectorEnv(2, autoreset_mode=mode, **SHORT).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_every_host_is_exported_as_the_single_environment_does():
    envs = stacked(num_envs=2).unwrapped
    with pytest.raises(ResetNeeded):
        envs.export_host(0)
    envs.reset(seed=[3, 4])
    for _ in range(2):
        envs.step(WAIT[:2])
    with pytest.raises(IndexError, match="hosts 0 to 1"):
        envs.export_host(2)
    weights = [torch.cat([p.flatten() for p in envs.export_host(i).parameters()]) for i in range(2)]
    for seed, exported in zip((3, 4), weights, strict=True):
        env = SeedEnv(**SHORT)
        env.reset(seed=seed)
        for _ in range(2):
            env.step(WAIT[0])
        alone = torch.cat([p.flatten() for p in env.export_host().parameters()])
        torch.testing.assert_close(exported, alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(*weights, atol=1e-2)
