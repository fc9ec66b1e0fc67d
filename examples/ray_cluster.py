"""Train on several machines with Ray: actors play there, this process learns.

    pip install ".[agent,ray]"                                  # the same versions everywhere
    ray start --head                                                # on the machine that learns
    ray start --address HEAD:6379                                   # on every other one
    OMP_NUM_THREADS=1 python examples/ray_cluster.py --address auto --workers 16

Without --address it runs on this machine alone. `esper train --backend ray` does the same, with --ray-address.
"""

import argparse

import ray

from esper_agent import PPO, PPOConfig, create_policy
from esper_agent.rollout import make_rollouts
from esper_env import SeedEnv


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", help="of the cluster; a local one is started when left out")
    parser.add_argument("--workers", type=int, default=2, help="actors, one CPU each")
    parser.add_argument("--hosts", type=int, default=16, help="hosts per actor")
    parser.add_argument("--updates", type=int, default=100, help="updates to train for")
    parser.add_argument("--smoke", action="store_true", help="two small updates, to see that it runs")
    args = parser.parse_args()
    options = {"task": "digits"}
    if args.smoke:
        args.hosts, args.updates = 4, 2
        options |= {"max_epochs": 4, "training": {"batches_per_epoch": 1, "val_samples": 32}}

    env = SeedEnv(**options)
    hosts = args.workers * args.hosts
    policy = create_policy("lstm", env, seed=0)
    ppo = PPO(policy, PPOConfig(), num_envs=hosts, seed=0)
    rollouts = make_rollouts(
        "ray",
        policy,
        num_envs=hosts,
        steps=env.config.max_epochs,
        env_options=options,
        seed=0,
        workers=args.workers,
        ray_init=None if args.address is None else {"address": args.address},
    )
    try:
        for update in range(1, args.updates + 1):
            rollout = rollouts.collect()
            learned = ppo.update(rollout)
            rollouts.sync()
            returned = rollout["next", "info", "objective_return"][:, -1].mean()
            print(f"update {update}: objective return {returned:.2f}, loss {learned['loss/total']:.3f}", flush=True)
    finally:
        rollouts.close()
        ray.shutdown()


if __name__ == "__main__":
    main()
