"""Gymnasium's own wrappers work on the environment, alone and as a vector."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import vector

from tests.conftest import BRIEF, HASTY

ID = "esper_env:Esper-Seed-v0"
SHORT = {"max_epochs": 4, "training": BRIEF, "lifecycle": HASTY}


def make(**options):
    return gym.make(ID, **SHORT | options)


def make_stack(num_envs=2, **options):
    return gym.make_vec(ID, num_envs, "vector_entry_point", **SHORT | options)


def play(env, seed=1):
    """An episode of legal actions; rewards and the last step."""
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    rewards, done = [], False
    while not done:
        last = env.step(env.action_space.sample(mask=info["action_mask"]))
        rewards.append(last[1])
        info, done = last[4], last[2] or last[3]
    return rewards, last


def test_statistics_are_recorded():
    rewards, (_, _, terminated, _, info) = play(wrappers.RecordEpisodeStatistics(make()))
    assert terminated
    assert info["episode"]["l"] == 4
    assert info["episode"]["r"] == pytest.approx(sum(rewards))


def test_a_video_is_recorded(tmp_path):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    pytest.importorskip("moviepy", reason="moviepy is not installed")
    env = wrappers.RecordVideo(
        make(render_mode="rgb_array"), str(tmp_path / "videos"), name_prefix="e", disable_logger=True
    )
    play(env)
    env.close()
    (file,) = (tmp_path / "videos").glob("*.mp4")
    assert file.stat().st_size > 1000


def test_rewards_are_normalised_without_touching_the_objective():
    plain, (*_, info) = play(make())
    scaled, (*_, same) = play(wrappers.NormalizeReward(make()))
    assert not np.allclose(plain, scaled)
    assert info["objective_reward"] == same["objective_reward"]


def test_a_time_limit_truncates():
    _, (_, _, terminated, truncated, info) = play(wrappers.TimeLimit(make(), 2))
    assert (terminated, truncated, info["epoch"]) == (False, True, 2)
    assert info["test_accuracy"] == -1


def test_observations_flatten_and_keep_every_number():
    env = wrappers.FlattenObservation(make())
    observation, _ = env.reset(seed=1)
    alone, _ = make().reset(seed=1)
    assert observation in env.observation_space
    assert observation.shape == (sum(part.size for part in alone.values()),)


def test_keys_can_be_filtered_and_frames_stacked():
    filtered = wrappers.FilterObservation(make(), ["features"])
    assert list(filtered.reset(seed=1)[0]) == ["features"]
    stacked = wrappers.FrameStackObservation(make(), 3)
    assert stacked.reset(seed=1)[0]["features"].shape == (3, 112)


@pytest.mark.parametrize("make_vector", [SyncVectorEnv, AsyncVectorEnv])
def test_environments_side_by_side_do_what_each_does_alone(make_vector):
    envs = make_vector([make, make])
    observation, info = envs.reset(seed=[1, 2])
    alone = make()
    expected, _ = alone.reset(seed=2)
    for _ in range(4):
        for name in expected:
            np.testing.assert_array_equal(observation[name][1], expected[name])
        observation, _, terminated, _, info = envs.step(np.zeros((2, 8), int))
        expected, _, _, _, told = alone.step(np.zeros(8, int))
        assert info["objective_reward"][1] == told["objective_reward"]
    assert terminated.all()
    envs.close()


def test_wrappers_of_a_stack_record_normalise_and_flatten():
    envs = vector.NormalizeReward(vector.RecordEpisodeStatistics(vector.FlattenObservation(make_stack())))
    observation, _ = envs.reset(seed=1)
    assert observation.shape == (2, 112 + 3 + 41 + 18)
    for _ in range(4):
        _, _, terminated, _, info = envs.step(np.zeros((2, 8), int))
    assert terminated.all()
    assert info["episode"]["l"].tolist() == [4, 4]
