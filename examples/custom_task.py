"""A task of your own: your data and your host, one row of the table.

    python examples/custom_task.py

Here the question is whether a digit is odd. What is random at every reset belongs into a source with
`generated = True`, whose `load` draws from the generator it is given.
"""

import argparse

import gymnasium as gym
import numpy as np
from sklearn.datasets import load_digits

from esper_env import Task, register_task
from esper_env.network.cnn import CnnHost
from esper_env.tasks.data import Dataset, Split
from esper_env.testing import check_seed_env


class OddDigits:
    """scikit-learn's digits, labelled 1 when odd."""

    generated = False

    def load(self, rng=None):
        """Images `[n, height, width, channels]` and labels `[n]`, split three ways."""
        digits = load_digits()
        images = ((digits.images - 5) / 6)[..., None].astype(np.float32)
        labels = (digits.target % 2).astype(np.int64)
        order = np.random.default_rng(0).permutation(len(labels))
        return Dataset(*(Split(images[part], labels[part]) for part in np.split(order, [1077, 1437])))


register_task(
    Task(
        name="odd_digits",
        summary="Is the digit odd? On a host of 1×1 convolutions with two slots.",
        source=OddDigits(),
        host=CnnHost(1, 8, 2, channels=(4, 8), kernel=1, pools=1),
        max_epochs=30,
    )
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short episode, to see that it runs")
    small = {"max_epochs": 6, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    options = small if parser.parse_args().smoke else {}

    check_seed_env(gym.make("esper_env:Esper-Seed-v0", task="odd_digits", **small), steps=24)
    env = gym.make("esper_env:Esper-Seed-v0", task="odd_digits", **options)
    _, info = env.reset(seed=1)
    print(f"{info['host_params']} parameters, {info['val_accuracy']:.1f} % before training")
    done = False
    while not done:
        action = env.action_space.sample(mask=info["action_mask"])
        _, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    print(f"{info['test_accuracy']:.1f} % of the test digits, with {info['seeds_fossilized']} seeds made permanent")


if __name__ == "__main__":
    main()
