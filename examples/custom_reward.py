"""A reward of your own: other weights are a dict, other terms are a function.

    python examples/custom_reward.py

A reward is one function for all environments at once: it takes a step and returns named arrays, which are added up.
`info["objective_reward"]` stays what it is, so that agents trained on different rewards can be compared.
"""

import argparse

import gymnasium as gym
import numpy as np

from esper_env import Stage, register_reward
from esper_env.reward import forfeit, progress


def frugal(step, config):
    """What the score gains and keeps, less a fine for every seed that is there but not permanent."""
    unfinished = ~np.isin(step.after.stage, [Stage.DORMANT, Stage.FOSSILIZED])
    return {
        "progress": progress(step, config),
        "forfeit": forfeit(step, config),
        "unfinished": -0.02 * unfinished.sum(1),
    }


register_reward("frugal", frugal)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short episode, to see that it runs")
    small = {"max_epochs": 8, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    options = small if parser.parse_args().smoke else {}

    for reward in ("shaped", {"rent": 2.0, "mode": "objective"}, "frugal"):
        env = gym.make("esper_env:Esper-Seed-v0", reward=reward, **options)
        _, info = env.reset(seed=1)
        env.action_space.seed(1)
        paid, objective, done = {}, 0.0, False
        while not done:
            action = env.action_space.sample(mask=info["action_mask"])
            _, _, terminated, truncated, info = env.step(action)
            paid = {name: paid.get(name, 0.0) + value for name, value in info["reward_terms"].items()}
            objective += info["objective_reward"]
            done = terminated or truncated
        print(f"{reward}: {sum(paid.values()):.2f}, by the objective {objective:.2f}")
        print("  " + ", ".join(f"{name} {value:+.2f}" for name, value in paid.items() if abs(value) > 0.005))


if __name__ == "__main__":
    main()
