"""MaskablePPO on one environment, in a dozen lines: it finds `action_masks()` by itself.

    pip install ".[compat]"
    python examples/maskable_ppo_simple.py

`maskable_ppo.py` does the same on a stack of hosts, where a step costs less.
"""

import argparse

import gymnasium as gym
from sb3_contrib import MaskablePPO


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps to train for")
    parser.add_argument("--smoke", action="store_true", help="two small updates, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 8, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    rollout = 16 if args.smoke else 800

    env = gym.make("esper_env:Esper-Seed-v0", **(small if args.smoke else {}))
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
    done, earned = False, 0.0
    while not done:
        action, _ = agent.predict(observation, action_masks=env.unwrapped.action_masks())
        observation, _, terminated, truncated, info = env.step(action)
        earned += info["objective_reward"]
        done = terminated or truncated
    print(f"objective return {earned:.2f}, {info['test_accuracy']:.1f} % of the test digits")


if __name__ == "__main__":
    main()
