"""From the keyword arguments of `gymnasium.make` to a resolved configuration and its task."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from esper_env import reward
from esper_env.actions import BLUEPRINTS
from esper_env.config import (
    ConfigError,
    EnvConfig,
    EnvOptions,
    LifecycleConfig,
    TrainingConfig,
    check_flag,
    check_number,
    unknown_name,
)
from esper_env.tasks import Task, find_task

AT_THE_TOP = {"max_seeds": None, "strict_gates": False, "auto_advance": False}
"""What of the lifecycle is an argument of its own, with the value that asks for nothing."""
ON_PANIC = ("rollback", "terminate")


def resolve(options: Mapping[str, Any], beside: Iterable[str] = ()) -> tuple[EnvConfig, Task]:
    """Check the options, fill in the task's values, and return both; the task's host has the slots asked for.

    `beside` are options that the caller knows itself: the error about an unknown one names them as well.
    """
    asked = EnvOptions.from_mapping("environment", options, beside)
    if not isinstance(asked.task, str):
        raise ConfigError(f"task must be a name, got {asked.task!r}. Register a Task with register_task first.")
    task = find_task(asked.task)
    if asked.num_slots is not None:
        check_number("num_slots", asked.num_slots, 1, whole=True)
        task = replace(task, host=task.host.with_slots(asked.num_slots))
    num_slots = len(task.host.slots)
    max_epochs = task.max_epochs if asked.max_epochs is None else asked.max_epochs
    check_number("max_epochs", max_epochs, 1, whole=True)
    check_number("counterfactual_interval", asked.counterfactual_interval, 1, whole=True)
    check_flag("download", asked.download)
    if asked.on_panic not in ON_PANIC:
        raise ConfigError(unknown_name("on_panic", asked.on_panic, ON_PANIC))
    if not isinstance(asked.data_dir, str | None):
        raise ConfigError(f"data_dir must be a path as a string, got {asked.data_dir!r}.")
    check_device(asked.device)
    config = EnvConfig(
        task=task.name,
        num_slots=num_slots,
        max_epochs=max_epochs,
        blueprints=_blueprints(asked.blueprints, task.host.topology),
        lifecycle=_lifecycle(asked, task, num_slots),
        training=_training(asked, task),
        reward=reward.resolve(asked.reward),
        counterfactual_interval=asked.counterfactual_interval,
        on_panic=asked.on_panic,
        data_dir=asked.data_dir,
        download=asked.download,
        device=asked.device,
    )
    return config, task


def check_device(device: str) -> None:
    """Refuse what is no device, and one that is not here."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r} was asked for, but torch sees no CUDA device here; use 'cpu'.")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # every backend raises an error of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"device={device!r} was asked for, but torch cannot use it here ({reason}).") from error


def _blueprints(asked: Any, topology: str) -> tuple[str, ...]:
    suited = tuple(row.name for row in BLUEPRINTS if topology in row.topologies)
    if asked is None:
        return suited
    if not isinstance(asked, Collection) or isinstance(asked, str) or not all(isinstance(n, str) for n in asked):
        raise ConfigError(f"blueprints must be a list of names, got {asked!r}.")
    if not asked:
        raise ConfigError("blueprints is empty: name at least one, or leave it out. With max_seeds=0 none is planted.")
    for name in asked:
        if name not in suited:
            raise ConfigError(unknown_name(f"blueprint for a {topology} host", name, suited))
    return tuple(name for name in suited if name in set(asked))


def _lifecycle(asked: EnvOptions, task: Task, num_slots: int) -> LifecycleConfig:
    top = {
        "max_seeds": num_slots if asked.max_seeds is None else asked.max_seeds,
        "strict_gates": asked.strict_gates,
        "auto_advance": asked.auto_advance,
    }
    extra = {} if asked.lifecycle is None else asked.lifecycle
    if isinstance(extra, LifecycleConfig):
        given = [name for name, default in AT_THE_TOP.items() if getattr(asked, name) != default]
        if given:
            raise ConfigError(f"Give {given[0]} inside the LifecycleConfig, or the rest of lifecycle as a dict.")
    if isinstance(extra, Mapping):
        inside = [field.name for field in fields(LifecycleConfig) if field.name not in top]
        for name in extra:
            if name in top:
                raise ConfigError(f"Give {name} as an argument of its own, not inside lifecycle.")
            if name not in inside:
                raise ConfigError(unknown_name("lifecycle option", name, inside))
        extra = {"min_training_epochs": task.min_training_epochs} | top | dict(extra)
    return LifecycleConfig.from_mapping("lifecycle", extra)


def _training(asked: EnvOptions, task: Task) -> TrainingConfig:
    training = TrainingConfig.from_mapping("training", asked.training)
    host_lr = task.host_lr if training.host_lr is None else training.host_lr
    return replace(
        training,
        host_lr=host_lr,
        seed_lr=host_lr if training.seed_lr is None else training.seed_lr,
        batch_size=training.batch_size or task.batch_size,
        batches_per_epoch=training.batches_per_epoch or task.batches_per_epoch,
        val_samples=training.val_samples or task.val_samples,
    )
