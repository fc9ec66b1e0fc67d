"""TorchRL's own parts find what they expect: wrapped single environments, and the native one."""

import gymnasium as gym
import pytest
import torch

pytest.importorskip("torchrl", reason="torchrl is not installed")

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torchrl 0.14 deprecates classes of its own while importing
    from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import Compose, GymWrapper, InitTracker, RewardSum, TransformedEnv
from torchrl.envs.utils import check_env_specs

from esper_agent import create_policy
from esper_agent.rollout.environment import SeedTorchEnv
from tests.conftest import BRIEF, HASTY

OPTIONS = {"max_epochs": 4, "training": BRIEF, "lifecycle": HASTY}


def test_its_checker_finds_nothing_to_say():
    check_env_specs(SeedTorchEnv(2, seed=0, **OPTIONS))


def test_a_wrapped_environment_steps_and_reads_the_observation():
    env = GymWrapper(gym.make("esper_env:Esper-Seed-v0", **OPTIONS), categorical_action_encoding=True)
    env.set_seed(0)
    rollout = env.rollout(4)
    assert rollout["features"].shape == (4, 112)
    assert rollout["action"].shape == (4, 8)
    assert rollout["next", "terminated"][-1].all()


def test_its_collector_fills_its_replay_buffer_with_a_recurrent_policy():
    env = SeedTorchEnv(3, seed=0, **OPTIONS)
    policy = create_policy("lstm", env, seed=0, width=16, head_width=8)
    recorded = TransformedEnv(env, Compose(InitTracker(), policy.make_tensordict_primer(), RewardSum()))
    collector = Collector(recorded, policy, frames_per_batch=12, total_frames=24, trust_policy=True)
    buffer = ReplayBuffer(storage=LazyTensorStorage(24), batch_size=6)
    for batch in collector:
        assert batch["next", "done"].sum() == 3
        assert batch["next", "info", "action_executed"].all()  # op first, then a slot that it is legal on
        assert batch["recurrent_state_h"][:, 1:].abs().sum() > 0
        buffer.extend(batch.reshape(-1))
    collector.shutdown()
    assert len(buffer) == 24
    assert torch.isfinite(buffer.sample()["next", "reward"]).all()
