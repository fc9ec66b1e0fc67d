"""What an environment can be made with: ids and options."""

from __future__ import annotations

from docs.generator.markdown import code, options, table
from esper_env.config import EnvOptions, LifecycleConfig, TrainingConfig
from esper_env.registration import IDS


def ids() -> str:
    """Every registered id and the arguments that it stands for."""
    rows = (
        (code(name), ", ".join(f'`{key}="{value}"`' for key, value in kwargs.items()) or f'`task="{EnvOptions.task}"`')
        for name, kwargs in IDS.items()
    )
    return table(("Id", "Stands for"), rows)


def arguments() -> str:
    """The keyword arguments of `gymnasium.make`."""
    return options(EnvOptions)


def lifecycle_options() -> str:
    """What `lifecycle=` takes; three of them are arguments of their own."""
    return options(LifecycleConfig)


def training_options() -> str:
    """What `training=` takes."""
    return options(TrainingConfig)
