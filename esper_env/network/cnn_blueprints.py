"""The blueprints of convolutional hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.network import layers
from esper_env.network.blueprint import Blueprint
from esper_env.network.layers import Float32

INITIAL_SCALE = 0.1


class Norm(Blueprint):
    """Moves the features towards their own normalisation.

    It begins with a little of it: from 0 the proximal term can hold γ so close that a gate learns nothing.
    """

    name = "norm"

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        return {"gamma": layers.full(INITIAL_SCALE, 1)}

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        n = p["gamma"].shape[0]
        strength = torch.tanh(p["gamma"]).expand(n, x.shape[1] // n)
        return layers.channel_scale(layers.group_norm(x, n) - x, strength)


class Attention(Blueprint):
    """Squeeze and excite: reweighs channels by what the whole map holds (Hu et al. 2018)."""

    name = "attention"

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        hidden = max(4, channels // 4)
        squeeze, excite = layers.linear_init(rng, channels, hidden), layers.linear_init(rng, hidden, channels)
        return {"squeeze": squeeze, "excite": INITIAL_SCALE * excite}

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        pooled = layers.pool_to_vectors(x, p["squeeze"].shape[0])
        excitation = layers.linear(F.silu(layers.linear(pooled, p["squeeze"])), p["excite"])
        return layers.rescale(x, layers.vectors_to_maps(torch.tanh(excitation)))


class _Convolutions(Blueprint):
    """Convolutions, each followed by GroupNorm and ReLU, scaled per channel after the last nonlinearity."""

    kernels: ClassVar[tuple[int, ...]]

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        parameters: dict[str, Float32] = {}
        for i, kernel in enumerate(self.kernels):
            parameters[f"conv{i}"] = conv = layers.conv_init(rng, channels, channels, kernel)
            # A channel's own share weighs the most. Otherwise, where the host has few live channels, a channel can
            # lie below the norm's mean in every map, and its ReLU never opens.
            own = (np.arange(channels), np.arange(channels), kernel // 2, kernel // 2)
            conv[own] = layers.conv_bound(channels, kernel)
            parameters[f"scale{i}"] = layers.full(1.0, channels)
            parameters[f"shift{i}"] = layers.full(0.0, channels)
        parameters["gamma"] = layers.full(INITIAL_SCALE, channels)
        return parameters

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        last = len(self.kernels) - 1
        for i in range(len(self.kernels)):
            factor = p["gamma"] if i == last else None
            x = layers.conv_norm_relu(x, p[f"conv{i}"], p[f"scale{i}"], p[f"shift{i}"], factor)
        return x


class ConvSmall(_Convolutions):
    """A 1×1 convolution."""

    name = "conv_small"
    kernels = (1,)


class ConvLight(_Convolutions):
    """A 3×3 convolution."""

    name = "conv_light"
    kernels = (3,)


class ConvHeavy(_Convolutions):
    """Two 3×3 convolutions."""

    name = "conv_heavy"
    kernels = (3, 3)


class Depthwise(Blueprint):
    """A 3×3 filter per channel, then a 1×1 mix."""

    name = "depthwise"

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        return {
            "depthwise": layers.conv_init(rng, channels, 1, 3),
            "pointwise": layers.conv_init(rng, channels, channels, 1),
            "scale": layers.full(1.0, channels),
            "shift": layers.full(0.0, channels),
            "gamma": layers.full(INITIAL_SCALE, channels),
        }

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = layers.conv(layers.conv(x, p["depthwise"], depthwise=True), p["pointwise"])
        return layers.norm_relu(x, p["gamma"].shape[0], p["scale"], p["shift"], p["gamma"])


class Bottleneck(Blueprint):
    """Down to a narrow map, a 3×3 convolution there, and up again."""

    name = "bottleneck"

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        width = max(8, channels // 4)
        return {
            "down": layers.conv_init(rng, width, channels, 1),
            "middle": layers.conv_init(rng, width, width, 3),
            "up": layers.conv_init(rng, channels, width, 1),
            "scale": layers.full(1.0, channels),
            "shift": layers.full(0.0, channels),
            "gamma": layers.full(INITIAL_SCALE, channels),
        }

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = F.relu_(layers.conv(F.relu_(layers.conv(x, p["down"])), p["middle"]))
        x = layers.group_norm(layers.conv(x, p["up"]), p["gamma"].shape[0], p["scale"], p["shift"])
        return layers.channel_scale(x, p["gamma"])


CNN_BLUEPRINTS = (Norm(), Attention(), ConvSmall(), ConvLight(), ConvHeavy(), Depthwise(), Bottleneck())
