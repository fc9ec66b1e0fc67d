"""Esper's agent: a factored recurrent PPO on TorchRL that learns to grow networks in `esper_env`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper_agent.config import PolicyConfig, PPOConfig
    from esper_agent.evaluate import held_out_seeds
    from esper_agent.learning.ppo import PPO
    from esper_agent.policies.registry import create_policy, policy_names, register_policy
    from esper_agent.rollout import make_rollouts
    from esper_agent.runs import TrainConfig, load_policy
    from esper_agent.spec import EnvSpec

__all__ = [
    "PPO",
    "EnvSpec",
    "PPOConfig",
    "PolicyConfig",
    "TrainConfig",
    "create_policy",
    "held_out_seeds",
    "load_policy",
    "make_rollouts",
    "policy_names",
    "register_policy",
]

_HOMES = {
    "TrainConfig": "esper_agent.runs",
    "held_out_seeds": "esper_agent.evaluate",
    "load_policy": "esper_agent.runs",
    "make_rollouts": "esper_agent.rollout",
    "EnvSpec": "esper_agent.spec",
    "PPO": "esper_agent.learning.ppo",
    "PPOConfig": "esper_agent.config",
    "PolicyConfig": "esper_agent.config",
    "create_policy": "esper_agent.policies.registry",
    "policy_names": "esper_agent.policies.registry",
    "register_policy": "esper_agent.policies.registry",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use: TorchRL takes seconds, and `esper --help` should not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'esper_agent' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("torchrl", "tensordict"):
            raise ImportError(
                f"{package} is not installed; the agent needs it: pip install 'esper-env[agent]'"
            ) from error
        raise
