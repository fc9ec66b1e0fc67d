"""Esper: a Gymnasium environment in which an agent grows a neural network while it trains.

Importing this package registers its ids; torch is loaded only when an environment is made.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper_env.actions import ACTION_HEADS, CAUSAL_HEADS, Op
from esper_env.config import ConfigError, RewardConfig
from esper_env.lifecycle.stages import Stage
from esper_env.observation import FEATURES
from esper_env.registration import register_ids
from esper_env.reward import register_reward

if TYPE_CHECKING:
    from esper_env.env import SeedEnv
    from esper_env.network.blueprints import Blueprint, register_blueprint
    from esper_env.tasks import TASKS, Task, register_task
    from esper_env.vector_env import SeedVectorEnv

__version__ = "0.1.0"

__all__ = [
    "ACTION_HEADS",
    "CAUSAL_HEADS",
    "FEATURES",
    "TASKS",
    "Blueprint",
    "ConfigError",
    "Op",
    "RewardConfig",
    "SeedEnv",
    "SeedVectorEnv",
    "Stage",
    "Task",
    "register_blueprint",
    "register_reward",
    "register_task",
]

_NEEDING_TORCH = {
    "SeedEnv": "esper_env.env",
    "SeedVectorEnv": "esper_env.vector_env",
    "Blueprint": "esper_env.network.blueprints",
    "register_blueprint": "esper_env.network.blueprints",
    "TASKS": "esper_env.tasks",
    "Task": "esper_env.tasks",
    "register_task": "esper_env.tasks",
}


def __getattr__(name: str) -> Any:
    if name in _NEEDING_TORCH:
        return getattr(import_module(_NEEDING_TORCH[name]), name)
    raise AttributeError(f"module 'esper_env' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEEDING_TORCH})


register_ids()
