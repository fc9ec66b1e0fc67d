"""The table of tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from esper_env.config import ConfigError, unknown_name
from esper_env.network.hosts import CnnHost
from esper_env.tasks.cifar import Cifar10
from esper_env.tasks.data import DataSource, Digits, FileSource, Shapes


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
    baseline_loss: float | None = None
    """What the governor measures against, and where the score of language tasks is 0; that of guessing when None."""
    target_loss: float = 0.1
    budget_blueprint: str = "conv_light"
    """The parameter budget is this blueprint in every slot."""
    augment: bool = False
    """Shift and mirror the training images at random, anew in every epoch and for every host."""

    @property
    def chance_loss(self) -> float:
        """`baseline_loss`, or the loss of guessing among the host's classes."""
        return math.log(self.host.classes) if self.baseline_loss is None else self.baseline_loss

    def at(self, data_dir: str | None, download: bool) -> Task:
        """The task with its files in this directory; one that needs no files is the same anywhere."""
        if not isinstance(self.source, FileSource):
            return self
        return replace(self, source=self.source.at(data_dir, download))


_DIGITS = Task(
    name="digits",
    summary="8×8 digits on a host of 1×1 convolutions, starved of spatial features: growth pays.",
    source=Digits(),
    host=CnnHost(1, 8, 10, channels=(4, 8, 16), kernel=1, pools=2),
)


def _cifar10(
    variant: str, summary: str, base: int, blocks: int, kernel: int, pools: int, *, after: bool = False
) -> Task:
    """A row of the CIFAR-10 family: channels begin at `base` and double from block to block."""
    channels = tuple(base * 2**block for block in range(blocks))
    return Task(
        name=f"cifar10_{variant}",
        summary=f"CIFAR-10 {summary}",
        source=Cifar10(),
        host=CnnHost(3, 32, 10, channels=channels, kernel=kernel, pools=pools, slot_after_pool=after),
        batch_size=128,
        host_lr=0.01,
        max_epochs=25,
        min_training_epochs=10,
        target_loss=0.3,
        augment=True,
    )


_CIFAR10 = (
    _cifar10("baseline", "on three blocks of 3×3 convolutions.", 8, 3, 3, 3),
    _cifar10("impaired", "on a host of one channel and 1×1 convolutions.", 1, 3, 1, 3),
    _cifar10("minimal", "on the least of hosts: 1×1 convolutions, no pooling.", 2, 3, 1, 0),
    _cifar10("scale", "on five blocks with five slots.", 8, 5, 3, 5),
    _cifar10("multichannel", "with three slots of growing width.", 8, 3, 3, 3),
    _cifar10("postpool", "on wide blocks, with slots after the pooling: cheap seeds.", 16, 3, 3, 3, after=True),
    _cifar10("highres", "on wide blocks, with slots before the pooling: seeds of high resolution.", 16, 3, 3, 3),
    _cifar10("deep_multichannel", "with five slots of growing width.", 8, 5, 3, 5),
    _cifar10("deep_impaired", "on five narrow blocks of 1×1 convolutions.", 2, 5, 1, 5),
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
        *_CIFAR10,
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
