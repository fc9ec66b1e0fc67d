"""The table of tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from esper_env.config import ConfigError, unknown_name
from esper_env.network.hosts import CnnHost
from esper_env.tasks.data import DataSource, Digits, Shapes


@dataclass(frozen=True)
class Task:
    """What an episode trains: data, host, and the budget it is trained with."""

    name: str
    summary: str
    source: DataSource
    host: CnnHost
    batch_size: int = 64
    batches_per_epoch: int | None = None
    """The whole training set each epoch when None."""
    val_samples: int | None = None
    """All of the validation split when None."""
    host_lr: float = 0.05
    max_epochs: int = 50
    min_training_epochs: int = 3
    baseline_loss: float = math.log(10)
    """Loss of guessing: what the governor measures against, and where the score of language tasks is 0."""
    target_loss: float = 0.1
    budget_blueprint: str = "conv_light"
    """The parameter budget is this blueprint in every slot."""


_DIGITS = Task(
    name="digits",
    summary="8×8 digits on a host of 1×1 convolutions, starved of spatial features: growth pays.",
    source=Digits(),
    host=CnnHost(1, 8, 10, channels=(4, 8, 16), kernel=1, pools=2),
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _DIGITS,
        replace(
            _DIGITS,
            name="digits_capable",
            summary="The same digits on a host of 3×3 convolutions: growth hardly pays, a good agent mostly waits.",
            host=CnnHost(1, 8, 10, channels=(8, 16, 32), kernel=3, pools=2),
        ),
        replace(
            _DIGITS,
            name="digits_deep",
            summary="The same digits on five narrow blocks with five slots: the scaling case.",
            host=CnnHost(1, 8, 10, channels=(4, 4, 8, 8, 16), kernel=1, pools=2),
        ),
        Task(
            name="shapes",
            summary="Procedural 16×16 shapes, a new data set for every seed, on a host of 1×1 convolutions.",
            source=Shapes(),
            host=CnnHost(1, 16, 10, channels=(4, 8, 16), kernel=1, pools=3),
        ),
    )
}


def register_task(task: Task) -> Task:
    """Add a task to the table, so that `task=task.name` finds it. Registering an equal task again changes nothing."""
    if not isinstance(task, Task):
        raise ConfigError(f"register_task takes a Task, got {type(task).__name__}: {task!r}.")
    if TASKS.get(task.name, task) != task:
        raise ConfigError(f"A task named {task.name!r} exists already; choose another name.")
    TASKS[task.name] = task
    return task


def find_task(name: str) -> Task:
    """The task of this name."""
    if name not in TASKS:
        raise ConfigError(unknown_name("task", name, TASKS))
    return TASKS[name]
