"""PPO of RLlib with an action-mask module.

    pip install ".[ray]" dm-tree lz4 ormsgpack pandas pyarrow pyyaml scipy tensorboardX
    OMP_NUM_THREADS=1 python examples/rllib_ppo.py

`pip install "ray[rllib]"` instead would bring an older Gymnasium, which works as well. Every head is masked on its
own: an op on a slot where it is not legal runs as WAIT.
"""

import argparse

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

SMALL = {"max_epochs": 5, "training": {"batches_per_epoch": 2, "val_samples": 64}}


class MaskedModule(TorchRLModule, ValueFunctionAPI):
    """Reads features and blueprints; the logits of what the mask forbids become very small."""

    def setup(self):
        observed = self.observation_space
        inputs = observed["features"].shape[0] + observed["blueprint_index"].shape[0]
        width = self.model_config["width"]
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, n))
            for n in (int(self.action_space.nvec.sum()), 1)
        )
        heads = self.action_space.nvec.tolist()
        self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=heads)

    @staticmethod
    def _inputs(batch):
        observed = batch[Columns.OBS]
        return torch.cat([observed["features"], observed["blueprint_index"].float() / 13], -1)

    def _forward(self, batch, **kwargs):
        allowed = batch[Columns.OBS]["action_mask"].bool()
        return {Columns.ACTION_DIST_INPUTS: self.actor(self._inputs(batch)).masked_fill(~allowed, -1e9)}

    def compute_values(self, batch, embeddings=None):
        return self.critic(self._inputs(batch)).squeeze(-1)


def configure(options, runners, rollout):
    """PPO on the environment with these options."""
    return (
        PPOConfig()
        .environment("esper_env:Esper-Seed-v0", env_config=options)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=1)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=MaskedModule, model_config={"width": 128}))
        .training(
            train_batch_size_per_learner=rollout,
            minibatch_size=rollout // 4,
            num_epochs=6,
            lr=5e-4,
            gamma=0.995,  # the environment's: with another one the shaping would not cancel
            entropy_coeff=0.01,
        )
        .debugging(seed=1)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=50, help="updates to train for")
    parser.add_argument("--runners", type=int, default=2, help="processes that play; 0 plays in this one")
    parser.add_argument("--smoke", action="store_true", help="two small updates in this process, to see that it runs")
    args = parser.parse_args()

    ray.init(include_dashboard=False, log_to_driver=False)
    config = configure(SMALL, 0, 40) if args.smoke else configure({}, args.runners, 800)
    algorithm = config.build_algo()
    for _ in range(2 if args.smoke else args.iterations):
        runners = algorithm.train()["env_runners"]
        print(f"{runners['num_env_steps_sampled_lifetime']} steps, return {runners['episode_return_mean']:.2f}")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
