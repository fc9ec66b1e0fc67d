"""Record episodes as a Minari dataset, for learning from data alone.

    pip install . "minari[hdf5]"
    python examples/minari_dataset.py

All hosts play at once; Minari's own `DataCollector` records one environment at a time, and needs JAX. The dataset is
kept where Minari keeps them, in ~/.minari or MINARI_DATASETS_PATH.
"""

import argparse

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from esper_env.testing import ScriptedGrower

NAME, SMOKE = "esper/digits/scripted-v0", "esper/digits/smoke-v0"
TOLD = ("objective_reward", "val_accuracy", "committed_accuracy", "stage", "alpha")
"""What of `info` is recorded; the masks are in the observation."""


def record(env, episodes):
    """Whole episodes of a script, an episode per host, as Minari's buffers."""
    policy, done = ScriptedGrower(), np.zeros(episodes, bool)
    observation, info = env.reset(seed=0)
    seen, told, taken = [observation], [info], []
    while not done.any():
        actions = policy(observation)
        observation, reward, terminated, truncated, info = env.step(actions)
        done = terminated | truncated
        seen, told = [*seen, observation], [*told, info]
        taken.append((actions, reward, terminated, truncated))
    actions, rewards, terminations, truncations = (np.stack(column, 1) for column in zip(*taken, strict=True))
    return [
        EpisodeBuffer(
            id=host,
            seed=host,
            observations={key: np.stack([each[key][host] for each in seen]) for key in observation},
            actions=actions[host],
            rewards=rewards[host],
            terminations=terminations[host],
            truncations=truncations[host],
            infos={key: np.stack([each[key][host] for each in told]) for key in TOLD},
        )
        for host in range(episodes)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=20, help="episodes to record")
    parser.add_argument("--smoke", action="store_true", help="two short episodes, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 6, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    options = small if args.smoke else {}
    name, episodes = (SMOKE, 2) if args.smoke else (NAME, args.episodes)
    if SMOKE in minari.list_local_datasets():
        minari.delete_dataset(SMOKE)
    if name in minari.list_local_datasets():
        parser.error(f"{name} has been recorded already; to record it anew, first: minari delete {name}")

    envs = gym.make_vec("esper_env:Esper-Seed-v0", episodes, "vector_entry_point", **options)
    env = gym.make("esper_env:Esper-Seed-v0", **options)
    dataset = minari.create_dataset_from_buffers(
        name,
        record(envs, episodes),
        env=env,
        eval_env=env,
        algorithm_name="a script",
        author="you",
        author_email="you@example.org",
        code_permalink="https://example.org",
        description="A script plants a seed in every slot and keeps it.",
        requirements=["esper-env"],
    )
    first = dataset[0]
    print(f"{dataset.total_episodes} episodes, {dataset.total_steps} steps, in {dataset.storage.data_path}")
    print(f"episode 0: objective return {first.infos['objective_reward'].sum():.2f}, {len(first.rewards)} actions")
    again = dataset.recover_environment()
    print(f"the environment comes with it: {again.spec.id}, {again.spec.kwargs}")


if __name__ == "__main__":
    main()
