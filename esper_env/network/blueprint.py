"""A blueprint: a module that a seed can be, as a delta that maps a slot's features to a correction.

Each is one class: the parameters of one seed, and the delta of n of them stacked. Every one leaves something to learn
at initialisation: what would be zero there starts small where a factor, a gate or a ReLU comes after it, and a layer
that does start at zero is the last before the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from esper_env.actions import CNN
from esper_env.network import layers
from esper_env.network.layers import Float32


class Blueprint:
    """A kind of seed. Subclass it, set `name` and `topologies`, and pass the class to `register_blueprint`."""

    name: ClassVar[str]
    topologies: ClassVar[tuple[str, ...]] = (CNN,)

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        """Parameters of one seed for a slot of `channels` channels."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def macs(self, channels: int, positions: int) -> int:
        """Multiply-accumulates per sample, counted from the shapes of convolutions and linear layers."""
        return layers.macs(self.init(channels, np.random.default_rng(0)), positions)

    def size(self, channels: int) -> int:
        """Number of parameters."""
        return sum(p.size for p in self.init(channels, np.random.default_rng(0)).values())

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The correction for maps `x` `[batch, n * channels, h, w]`; each parameter is `[n, ...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define delta")
