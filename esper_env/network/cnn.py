"""Convolutional hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.actions import CNN
from esper_env.arrays import Ints
from esper_env.config import ConfigError
from esper_env.network import images, layers
from esper_env.network.host import SlotShape, place_slots
from esper_env.network.layers import Float32


@dataclass(frozen=True)
class CnnHost:
    """Blocks of convolution, GroupNorm, ReLU, slot and optional 2×2 pooling, then a linear classifier.

    The object holds the shape only; parameters are passed in, stacked over hosts.
    """

    image_channels: int
    image_size: int
    classes: int
    channels: tuple[int, ...]
    kernel: int
    pools: int
    """Blocks, from the first, that end in 2×2 pooling."""
    max_pool: bool = False
    slot_after_pool: bool = False
    num_slots: int | None = None
    """Slots, at evenly spaced blocks; one per block when None."""

    topology = CNN
    isolated = True

    def __post_init__(self) -> None:
        _ = self.slot_of_block
        if self.image_size % 2**self.pools:
            raise ConfigError(f"An image of {self.image_size} pixels cannot be halved {self.pools} times.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, so that a map keeps its size; got {self.kernel}.")
        for channels in self.channels:
            if channels < 1 or channels % layers.norm_groups(channels):
                raise ConfigError(
                    f"channels cannot be {channels}: GroupNorm has a group for every 16 of them. Take a multiple of "
                    "16, or fewer than 32."
                )

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of an image."""
        return (self.image_size, self.image_size, self.image_channels)

    @property
    def slot_of_block(self) -> tuple[int | None, ...]:
        """For each block the slot it carries, or None."""
        blocks = len(self.channels)
        return place_slots(blocks, blocks if self.num_slots is None else self.num_slots)

    @property
    def slots(self) -> tuple[SlotShape, ...]:
        """Shape of the feature map at each slot."""
        shapes, size = [], self.image_size
        for block, slot in enumerate(self.slot_of_block):
            before, size = size, size // 2 if block < self.pools else size
            if slot is not None:
                side = size if self.slot_after_pool else before
                shapes.append(SlotShape(self.channels[block], side * side))
        return tuple(shapes)

    def with_slots(self, num_slots: int) -> Self:
        """The same host with so many slots."""
        return replace(self, num_slots=num_slots)

    @property
    def first_map(self) -> SlotShape:
        """Shape of the first activation: what the chunk size is chosen by."""
        return SlotShape(self.channels[0], self.image_size**2)

    def init(self, rng: np.random.Generator) -> dict[str, Float32]:
        """Parameters of one host."""
        parameters: dict[str, Float32] = {}
        into = self.image_channels
        for block, out in enumerate(self.channels):
            parameters[f"block{block}.conv"] = layers.conv_init(rng, out, into, self.kernel)
            parameters[f"block{block}.scale"] = layers.full(1.0, out)
            parameters[f"block{block}.shift"] = layers.full(0.0, out)
            into = out
        parameters["classifier.weight"] = layers.linear_init(rng, into, self.classes)
        parameters["classifier.bias"] = layers.full(0.0, self.classes)
        return parameters

    def macs_by_level(self) -> list[int]:
        """Multiply-accumulates per sample before the first slot, between slots, and after the last."""
        levels, into, size = [0], self.image_channels, self.image_size
        for block, (out, slot) in enumerate(zip(self.channels, self.slot_of_block, strict=True)):
            levels[-1] += out * into * self.kernel**2 * size * size
            into, size = out, size // 2 if block < self.pools else size
            if slot is not None:
                levels.append(0)
        levels[-1] += into * self.classes
        return levels

    @staticmethod
    def views(rng: np.random.Generator, samples: int) -> Ints:
        """How each of so many samples is augmented: numbers below `VIEWS`."""
        return rng.integers(images.VIEWS, size=samples)

    @staticmethod
    def gather(inputs: Tensor, batch: Tensor, instance: Tensor | None, views: Tensor | None = None) -> Tensor:
        """A training batch of images, from `[instances, n, h, w, c]` and sample indices `[batch, hosts]`.

        Each sample is seen as its number in `views [batch, hosts]` says, or as it is when None.
        """
        index = batch if instance is None else batch + instance * inputs.shape[1]
        samples = inputs.flatten(0, 1)
        if samples.shape[-1] == 1:  # by sample: `side_by_side` transposes each
            found = samples.index_select(0, index.flatten()).view(*index.shape, *samples.shape[1:]).transpose(0, 1)
        else:
            found = samples.index_select(0, index.T.flatten()).view(*index.T.shape, *samples.shape[1:])
        return found if views is None else images.seen(found, views.T)

    @staticmethod
    def spread(inputs: Tensor, batch: slice, hosts: Tensor) -> Tensor:
        """The same samples for each of `hosts`: its own instance's, or the shared one's, which is there once."""
        found = inputs[:, batch]
        return found if len(found) == 1 else found[hosts]

    @staticmethod
    def receive(inputs: Tensor) -> Tensor:
        """Images `[batch, channels, height, width]`, as those of a single host."""
        return inputs.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).unsqueeze(0)

    @staticmethod
    def embed(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Images go into the first block as they are."""
        return x

    def block(self, parameters: Mapping[str, Tensor], index: int, x: Tensor) -> Tensor:
        """Convolution, norm and ReLU of one block."""
        weight = parameters[f"block{index}.conv"]
        scale, shift = parameters[f"block{index}.scale"], parameters[f"block{index}.shift"]
        convolve = layers.conv_norm_relu if index else images.conv_norm_relu
        x = convolve(x, weight, scale, shift)
        return self._pool(index, x) if self.slot_after_pool else x

    def leave(self, index: int, x: Tensor) -> Tensor:
        """What follows the slot of a block."""
        return x if self.slot_after_pool else self._pool(index, x)

    def _pool(self, index: int, x: Tensor) -> Tensor:
        if index >= self.pools:
            return x
        return F.max_pool2d(x, 2) if self.max_pool else layers.halve(x)

    def classify(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits `[n, batch, classes]` of the last feature map."""
        weight = parameters["classifier.weight"]
        return layers.linear(layers.pool_to_vectors(x, weight.shape[0]), weight, parameters["classifier.bias"])
