"""Collect data with TorchRL's collector, from Esper's TorchRL environment and policy.

    pip install ".[agent]"
    OMP_NUM_THREADS=1 python examples/torchrl_collector.py

From here on everything is plain TorchRL: losses, replay buffers, loggers. The primer carries the policy's memory
from step to step; a recurrent policy without it forgets everything at every step.
"""

import argparse

from torchrl.collectors import Collector
from torchrl.envs import Compose, InitTracker, RewardSum, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.objectives.value import GAE

from esper_agent import create_policy
from esper_agent.rollout.environment import SeedTorchEnv


def make_env(hosts, options, policy):
    """Hosts as one TorchRL environment that carries the policy's memory and adds up rewards."""
    env = SeedTorchEnv(hosts, seed=0, **options)
    return TransformedEnv(env, Compose(InitTracker(), policy.make_tensordict_primer(), RewardSum(), StepCounter()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=16, help="hosts in the stack")
    parser.add_argument("--batches", type=int, default=4, help="batches of whole episodes to collect")
    parser.add_argument("--smoke", action="store_true", help="two small batches, to see that it runs")
    args = parser.parse_args()
    options = {"task": "digits"}
    if args.smoke:
        args.hosts, args.batches = 4, 2
        options |= {"max_epochs": 4, "training": {"batches_per_epoch": 2, "val_samples": 64}}

    hosts = SeedTorchEnv(1, **options)
    check_env_specs(hosts)
    policy = create_policy("lstm", hosts, seed=0)
    frames = args.hosts * hosts.config.max_epochs
    collector = Collector(
        make_env(args.hosts, options, policy),
        policy,
        frames_per_batch=frames,
        total_frames=args.batches * frames,
        trust_policy=True,
    )
    estimate = GAE(gamma=0.995, lmbda=0.95, value_network=None)
    for number, batch in enumerate(collector):
        # The policy judges states as it acts. A last step ends its episode here, so what would follow counts nothing.
        following = batch["state_value"].roll(-1, 1)
        batch["next", "state_value"] = following.masked_fill(batch["next", "done"], 0.0)
        estimate(batch)
        ended = batch["next", "episode_reward"][batch["next", "done"]]
        print(
            f"batch {number}: {tuple(batch.shape)} steps, {len(ended)} episodes of {ended.mean():.2f} reward, "
            f"advantages of {batch['advantage'].std():.3f}"
        )
    collector.shutdown()


if __name__ == "__main__":
    main()
