"""Plain PPO of stable-baselines3, which knows no masks: illegal actions run as WAIT and it has to find out.

    pip install ".[compat]"
    OMP_NUM_THREADS=1 python examples/sb3_ppo.py

Compare it with `maskable_ppo.py`: this is what masks are worth.
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from esper_env.sb3 import SeedVecEnv


class Refusals(BaseCallback):
    """Logs the share of actions that were not legal."""

    def _on_step(self):
        for info in self.locals["infos"]:
            self.logger.record_mean("rollout/refused", float(not info["action_executed"]))
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps to train for")
    parser.add_argument("--hosts", type=int, default=16, help="hosts in the stack")
    parser.add_argument("--smoke", action="store_true", help="two small updates, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 8, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    options = small if args.smoke else {"task": "digits"}
    rollout = options.get("max_epochs", 50)

    envs = VecMonitor(SeedVecEnv(args.hosts, **options))
    agent = PPO(
        "MultiInputPolicy",
        envs,
        n_steps=rollout,
        batch_size=args.hosts * rollout // 8,
        gamma=0.995,  # the environment's: with another one the shaping would not cancel
        ent_coef=0.01,
        device="cpu",
        seed=1,
        verbose=1,
    )
    agent.learn(2 * args.hosts * rollout if args.smoke else args.steps, callback=Refusals())


if __name__ == "__main__":
    main()
