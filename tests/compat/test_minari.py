"""Episodes become a Minari dataset that loads again, with the environment that they came from."""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("minari", reason="minari is not installed")
pytest.importorskip("h5py", reason="h5py is not installed (minari[hdf5])")

import minari
from minari.data_collector import EpisodeBuffer

from tests.conftest import BRIEF, HASTY

OPTIONS = {"max_epochs": 4, "training": BRIEF, "lifecycle": HASTY}


def episode(env, seed):
    """Random legal play as one of Minari's buffers."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    seen, told, taken, done = [observation], [info["objective_reward"]], [], False
    while not done:
        action = env.action_space.sample(mask=info["action_mask"])
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation)
        told.append(info["objective_reward"])
        taken.append((action, reward, terminated, truncated))
        done = terminated or truncated
    actions, rewards, terminations, truncations = (list(column) for column in zip(*taken, strict=True))
    observations = {name: np.stack([each[name] for each in seen]) for name in seen[0]}
    infos = {"objective_reward": np.array(told)}
    return EpisodeBuffer(seed, seed, None, observations, actions, rewards, terminations, truncations, infos)


def test_a_dataset_holds_what_was_played_and_its_environment_plays_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make("esper_env:Esper-Seed-v0", **OPTIONS)
    minari.create_dataset_from_buffers(
        "esper/test-v0",
        [episode(env, seed) for seed in range(2)],
        env=env,
        eval_env=env,
        algorithm_name="random",
        author="a",
        author_email="a@example.org",
        code_permalink="https://example.org",
        description="Random play.",
        requirements=["esper-env"],
    )
    dataset = minari.load_dataset("esper/test-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 8)
    assert dataset.observation_space == env.observation_space
    again = dataset.recover_environment()
    for recorded in dataset.iterate_episodes():
        observation, _ = again.reset(seed=int(recorded.id))  # as they were numbered above
        for t, action in enumerate(recorded.actions):
            for name, column in recorded.observations.items():
                np.testing.assert_array_equal(column[t], observation[name])
            observation, reward, *_, info = again.step(action)
            assert reward == recorded.rewards[t]
            assert info["objective_reward"] == recorded.infos["objective_reward"][t + 1]
