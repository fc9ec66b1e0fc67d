"""Host networks: what a task starts from and what seeds are planted into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from torch import Tensor

from esper_env.arrays import Ints
from esper_env.config import ConfigError
from esper_env.network.layers import Float32


@dataclass(frozen=True)
class SlotShape:
    """The feature map at a slot."""

    channels: int
    positions: int


class Host(Protocol):
    """The shape of a host network: a line of blocks with slots between them.

    It holds no parameters; they are passed in, stacked over hosts. Feature maps are those of `layers`.
    """

    @property
    def topology(self) -> str:
        """What blueprints must suit."""
        ...

    @property
    def isolated(self) -> bool:
        """Is the host shielded from what a blended seed asks of its input, until the seed is permanent?"""
        ...

    @property
    def classes(self) -> int:
        """What the host chooses among."""
        ...

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of what it reads: `(height, width, channels)` of an image, or `(length,)` of a text."""
        ...

    @property
    def slot_of_block(self) -> tuple[int | None, ...]:
        """For each block the slot it carries, or None."""
        ...

    @property
    def slots(self) -> tuple[SlotShape, ...]:
        """Shape of the feature map at each slot."""
        ...

    def with_slots(self, num_slots: int) -> Self:
        """The same host with so many slots."""
        ...

    @property
    def first_map(self) -> SlotShape:
        """Shape of the first activation: what the chunk size is chosen by."""
        ...

    def init(self, rng: np.random.Generator) -> dict[str, Float32]:
        """Parameters of one host."""
        ...

    def macs_by_level(self) -> list[int]:
        """Multiply-accumulates per sample before the first slot, between slots, and after the last."""
        ...

    def views(self, rng: np.random.Generator, samples: int) -> Ints:
        """How each of so many samples is augmented."""
        ...

    def gather(self, inputs: Tensor, batch: Tensor, instance: Tensor | None, views: Tensor | None = None) -> Tensor:
        """A training batch from `inputs [instances, n, ...]` and sample indices `[batch, hosts]`."""
        ...

    def spread(self, inputs: Tensor, batch: slice, hosts: Tensor) -> Tensor:
        """The same samples for each of `hosts`: its own instance's, or the shared one's."""
        ...

    def receive(self, inputs: Tensor) -> Tensor:
        """A batch as a user of the grown network has it, for a stack of one host."""
        ...

    def embed(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What the first block reads, from what `gather`, `spread` or `receive` made."""
        ...

    def block(self, parameters: Mapping[str, Tensor], index: int, x: Tensor) -> Tensor:
        """One block, up to its slot."""
        ...

    def leave(self, index: int, x: Tensor) -> Tensor:
        """What follows the slot of a block."""
        ...

    def classify(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits `[n, labels, classes]` of the last feature map."""
        ...


def place_slots(blocks: int, num_slots: int) -> tuple[int | None, ...]:
    """For each block the slot it carries, or None: as evenly as can be, the last slot at the last block."""
    if not 1 <= num_slots <= blocks:
        raise ConfigError(f"num_slots must be between 1 and {blocks} (the blocks of this host), got {num_slots}.")
    owners = {round((i + 1) * blocks / num_slots) - 1: i for i in range(num_slots)}
    return tuple(owners.get(block) for block in range(blocks))
