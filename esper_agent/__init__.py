"""Esper's agent: a factored recurrent PPO on TorchRL that learns to grow networks in `esper_env`."""

from esper_agent.spec import EnvSpec

__all__ = ["EnvSpec"]
