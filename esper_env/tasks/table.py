"""The table of tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from esper_env.actions import BLUEPRINTS, CNN
from esper_env.arrays import Floats
from esper_env.config import ConfigError, EnvConfig, check_number, unknown_name
from esper_env.network.cnn import CnnHost
from esper_env.network.host import Host
from esper_env.network.transformer import TransformerHost
from esper_env.tasks.cifar import Cifar10
from esper_env.tasks.data import Dataset, DataSource, Digits, FileSource, Shapes, check_fit
from esper_env.tasks.grammar import ALPHABET, StoryGrammar
from esper_env.tasks.tinystories import BYTES, GPT2, VOCABULARY, TinyStories


@dataclass(frozen=True)
class Task:
    """What an episode trains: data, host, and the budget it is trained with."""

    name: str
    summary: str
    source: DataSource
    host: Host
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
    scored_by_loss: bool = False
    """The score is how far the loss has come from `chance_loss` (0) to `target_loss` (100), instead of accuracy."""
    augment: bool = False
    """Shift and mirror the training images at random, anew in every epoch and for every host."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"The name of a task must be a string, got {self.name!r}.")
        if self.augment and self.host.topology != CNN:
            raise ConfigError(f"Only images can be augmented: task {self.name!r} needs augment=False.")
        suited = [row.name for row in BLUEPRINTS if self.host.topology in row.topologies]
        if self.budget_blueprint not in suited:
            kind = f"budget_blueprint for the {self.host.topology} host of task {self.name!r}"
            raise ConfigError(unknown_name(kind, self.budget_blueprint, suited))
        for name in ("batch_size", "max_epochs", "min_training_epochs"):
            check_number(f"{name} of task {self.name!r}", getattr(self, name), 1, whole=True)
        if self.scored_by_loss and not self.target_loss < self.chance_loss:
            raise ConfigError(
                f"Task {self.name!r} is scored by its loss: target_loss must be below that of guessing, "
                f"{self.chance_loss:.4g}; got {self.target_loss!r}."
            )

    @property
    def chance_loss(self) -> float:
        """`baseline_loss`, or the loss of guessing among the host's classes."""
        return math.log(self.host.classes) if self.baseline_loss is None else self.baseline_loss

    def score(self, loss: Floats, accuracy: Floats) -> Floats:
        """What the environment rewards, between 0 and 100."""
        if not self.scored_by_loss:
            return accuracy
        known = np.where(np.isfinite(loss), loss, self.chance_loss)
        return (100.0 * (self.chance_loss - known) / (self.chance_loss - self.target_loss)).clip(0.0, 100.0)

    def load(self, rng: np.random.Generator | None) -> Dataset:
        """The data, which must fit the host; `rng` is the environment's data stream, given when it is generated."""
        data = self.source.load(rng)
        check_fit(self.name, data, self.host)
        return data

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


def _tinystories(name: str, vocabulary: str, words: str, target_loss: float, baseline_loss: float | None) -> Task:
    """A row of the TinyStories tasks."""
    source = TinyStories(vocabulary=vocabulary)
    return Task(
        name=name,
        summary=f"TinyStories {words}, on a GPT of 6 layers: for a GPU.",
        source=source,
        host=TransformerHost(VOCABULARY[vocabulary], source.length, width=384, layers=6, heads=6),
        batch_size=16,
        batches_per_epoch=32,
        val_samples=64,
        host_lr=0.1,
        baseline_loss=baseline_loss,
        target_loss=target_loss,
        budget_blueprint="mlp_small",
        scored_by_loss=True,
    )


_TINYSTORIES = (
    _tinystories("tinystories", BYTES, "byte by byte", 1.5, None),
    _tinystories("tinystories_gpt2", GPT2, "in tokens of GPT-2", 3.5, 10.8),
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
        Task(
            name="story_grammar",
            summary="Tiny stories from a grammar, new ones for every seed, on a small GPT over bytes.",
            source=StoryGrammar(),
            host=TransformerHost(len(ALPHABET), length=64, width=64, layers=3, heads=4),
            batch_size=8,
            batches_per_epoch=16,
            host_lr=0.2,
            target_loss=0.5,
            budget_blueprint="mlp_small",
            scored_by_loss=True,
        ),
        *_TINYSTORIES,
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


def read_files(config: EnvConfig) -> None:
    """Read the files that a task's data is in, if it is: what is missing is said before hosts are built for it.

    Sources keep what they have read, so that this costs nothing.

    Raises:
        ConfigError: when a file is missing or damaged.
    """
    source = find_task(config.task).at(config.data_dir, config.download).source
    if isinstance(source, FileSource):
        source.load(None)


def find_task(name: str) -> Task:
    """The task of this name."""
    if name not in TASKS:
        raise ConfigError(unknown_name("task", name, TASKS))
    return TASKS[name]
