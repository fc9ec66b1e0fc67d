"""MaskablePPO with one flat action: every legal combination of heads is a number, and the mask is exact.

    pip install ".[compat]"
    python examples/maskable_ppo_flat.py

For agents that know one discrete action only. Nothing they pick runs as WAIT unasked, but what they learn of one
combination tells them nothing about the others.
"""

import argparse

import gymnasium as gym
from sb3_contrib import MaskablePPO

from esper_env.wrappers import FlatDiscrete


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps to train for")
    parser.add_argument("--smoke", action="store_true", help="two small updates, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 8, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    rollout = 16 if args.smoke else 800

    env = FlatDiscrete(gym.make("esper_env:Esper-Seed-v0", **(small if args.smoke else {})))
    print(f"{env.action_space.n} actions; number 700 is {env.joint_actions.vectors[700].tolist()}")
    agent = MaskablePPO(
        "MultiInputPolicy",
        env,
        n_steps=rollout,
        batch_size=rollout // 8,
        gamma=0.995,  # the environment's: with another one the shaping would not cancel
        device="cpu",
        seed=1,
        verbose=1,
    )
    agent.learn(2 * rollout if args.smoke else args.steps)

    observation, info = env.reset(seed=1_000_000)
    done, refused = False, 0
    while not done:
        number, _ = agent.predict(observation, action_masks=env.action_masks())
        observation, _, terminated, truncated, info = env.step(number)
        refused += not info["action_executed"]
        done = terminated or truncated
    print(f"{info['test_accuracy']:.1f} % of the test digits; {refused} actions were refused")


if __name__ == "__main__":
    main()
