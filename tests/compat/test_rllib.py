"""RLlib's PPO trains with an action-mask module: the one of the example."""

import importlib.util
import sys
from pathlib import Path

import pytest

for package in ("ray", "tree", "pyarrow", "pandas", "lz4"):
    pytest.importorskip(package, reason=f"{package} is not installed (ray[rllib])")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rllib_ppo.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("rllib_ppo", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rllib_ppo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_ppo_learns_under_the_masks_and_never_asks_for_what_they_forbid(example):
    import gymnasium as gym
    import ray
    import torch
    from ray.rllib.core.columns import Columns

    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=1)
    try:
        algorithm = example.configure(example.SMALL, runners=0, rollout=40).build_algo()
        before = [weight.clone() for weight in algorithm.get_module().parameters()]
        result = algorithm.train()
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 40
        after = list(algorithm.get_module().parameters())
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))

        module = algorithm.get_module()
        observation, _ = gym.make("esper_env:Esper-Seed-v0", **example.SMALL).reset(seed=1)
        batch = {Columns.OBS: {name: torch.from_numpy(array)[None] for name, array in observation.items()}}
        logits = module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
        chances = torch.cat([part.softmax(-1) for part in logits.split(module.action_space.nvec.tolist(), -1)], -1)
        assert (chances[0][torch.from_numpy(observation["action_mask"]) == 0] == 0).all()
        algorithm.stop()
    finally:
        ray.shutdown()
