"""MaskablePPO on a stack of hosts: `SeedVecEnv` trains them all as one network.

    pip install ".[compat]"
    OMP_NUM_THREADS=1 python examples/maskable_ppo.py

The agent masks every head on its own, so it may ask for an op on a slot where it is not legal: that runs as WAIT, and
the agent learns not to. `maskable_ppo_flat.py` has exact masks instead.
"""

import argparse

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.vec_env import VecMonitor

from esper_env.sb3 import SeedVecEnv


def evaluate(agent, hosts, options):
    """Objective return and committed test accuracy of one whole episode per host, on seeds held out from training."""
    envs = SeedVecEnv(hosts, **options)
    envs.seed(1_000_000)
    observation, earned, infos, dones = envs.reset(), np.zeros(hosts), [], np.zeros(hosts, bool)
    while not dones.any():
        actions, _ = agent.predict(observation, action_masks=get_action_masks(envs))
        observation, _, dones, infos = envs.step(actions)
        earned += [info["objective_reward"] for info in infos]
    return earned, np.array([info["test_accuracy"] for info in infos])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps to train for")
    parser.add_argument("--hosts", type=int, default=16, help="hosts in the stack")
    parser.add_argument("--smoke", action="store_true", help="two small updates, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 8, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    options = small if args.smoke else {"task": "digits"}
    rollout = options.get("max_epochs", 50)

    agent = MaskablePPO(
        "MultiInputPolicy",
        VecMonitor(SeedVecEnv(args.hosts, **options), info_keywords=("committed_accuracy",)),
        n_steps=rollout,
        batch_size=args.hosts * rollout // 8,
        n_epochs=6,
        learning_rate=5e-4,
        gamma=0.995,  # the environment's: with another one the shaping would not cancel
        ent_coef=0.01,
        policy_kwargs={"net_arch": [128, 128]},
        device="cpu",
        seed=1,
        verbose=1,
    )
    agent.learn(2 * args.hosts * rollout if args.smoke else args.steps)
    earned, accuracy = evaluate(agent, args.hosts, options)
    print(f"objective return {earned.mean():.2f}, {accuracy.mean():.1f} % of the test digits, on {args.hosts} hosts")


if __name__ == "__main__":
    main()
