"""The blueprints of transformer hosts. All but `norm` end in a layer that starts at zero."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from esper_env.actions import TRANSFORMER
from esper_env.network import layers, tokens
from esper_env.network.blueprint import Blueprint
from esper_env.network.layers import Float32

HEADS = 4
INITIAL_SCALE = 0.1
"""Of `norm`, as on convolutional hosts."""
WINDOW = 32
"""Positions that local attention looks at, the present one included."""


class TokenBlueprint(Blueprint):
    """A blueprint whose delta is written for vectors `[n, batch * positions, width]`."""

    topologies = (TRANSFORMER,)

    def macs(self, channels: int, positions: int) -> int:
        weights = self.init(channels, np.random.default_rng(0)).values()
        return positions * sum(p.size for p in weights if p.ndim == 2)

    def delta(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        n = len(next(iter(p.values())))
        return tokens.as_maps(self.vectors(p, tokens.as_vectors(x, n), x.shape[0]), x.shape[0])

    def vectors(self, p: Mapping[str, Tensor], v: Tensor, batch: int) -> Tensor:
        """The correction for vectors of so many sequences; each parameter is `[n, ...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define vectors")


class TokenNorm(TokenBlueprint):
    """Moves the features of every position towards their own normalisation."""

    name = "norm"

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        return {"gamma": layers.full(INITIAL_SCALE, 1)}

    def vectors(self, p: Mapping[str, Tensor], v: Tensor, batch: int) -> Tensor:
        return (tokens.layer_norm(v) - v) * torch.tanh(p["gamma"]).unsqueeze(1)


class TokenAttention(TokenBlueprint):
    """Causal self-attention over everything before a position."""

    name = "attention"

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        return {"attend": layers.linear_init(rng, channels, 3 * channels), "out": layers.full(0.0, channels, channels)}

    def macs(self, channels: int, positions: int) -> int:
        return super().macs(channels, positions) + tokens.attention_macs(positions, positions, channels)

    def vectors(self, p: Mapping[str, Tensor], v: Tensor, batch: int) -> Tensor:
        return tokens.self_attention(v, p["attend"], p["out"], batch, HEADS)


class FlexAttention(TokenAttention):
    """Causal self-attention over a window: the present position and the 31 before it."""

    name = "flex_attention"

    def macs(self, channels: int, positions: int) -> int:
        reach = min(positions, WINDOW)
        return TokenBlueprint.macs(self, channels, positions) + tokens.attention_macs(positions, reach, channels)

    def vectors(self, p: Mapping[str, Tensor], v: Tensor, batch: int) -> Tensor:
        qkv = layers.linear(v, p["attend"])
        attended = flex(qkv, batch) if qkv.is_cuda else local(qkv, batch)
        return layers.linear(attended, p["out"])


def local(qkv: Tensor, batch: int) -> Tensor:
    """Attention over the window by a mask: for devices that FlexAttention does not compile for."""
    positions = torch.arange(qkv.shape[1] // batch, device=qkv.device)
    back = positions[:, None] - positions
    return tokens.attend(qkv, batch, HEADS, (back >= 0) & (back < WINDOW))


def flex(qkv: Tensor, batch: int, compiled: bool = True) -> Tensor:
    """Attention over the window by FlexAttention, which skips what lies outside of it (Dong et al. 2024)."""
    n, rows, wide = qkv.shape
    length = rows // batch
    parts = qkv.reshape(n * batch, length, 3, HEADS, wide // (3 * HEADS)).permute(2, 0, 3, 1, 4)
    attended = _attention(compiled)(*parts, block_mask=_window(length, str(qkv.device)))
    joined: Tensor = attended.transpose(1, 2).reshape(n, rows, wide // 3)
    return joined


@cache
def _attention(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # For any number of sequences: banks and coalitions change it all the time, and after eight kernels torch would
    # go on with the unfused version, whatever it costs.
    return torch.compile(flex_attention) if compiled else flex_attention


@cache
def _window(length: int, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < WINDOW)

    return create_block_mask(near, None, None, length, length, device=device)


class Lora(TokenBlueprint):
    """A linear map of low rank (Hu et al. 2022)."""

    name = "lora"
    rank: ClassVar[int] = 8

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        return {"down": layers.linear_init(rng, channels, self.rank), "up": layers.full(0.0, self.rank, channels)}

    def vectors(self, p: Mapping[str, Tensor], v: Tensor, batch: int) -> Tensor:
        return layers.linear(layers.linear(v, p["down"]), p["up"])


class LoraLarge(Lora):
    """A linear map of four times the rank."""

    name = "lora_large"
    rank = 32


class MlpSmall(TokenBlueprint):
    """A perceptron with a hidden layer of twice the width."""

    name = "mlp_small"
    expansion: ClassVar[int] = 2

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        hidden = self.expansion * channels
        return {"widen": layers.linear_init(rng, channels, hidden), "narrow": layers.full(0.0, hidden, channels)}

    def vectors(self, p: Mapping[str, Tensor], v: Tensor, batch: int) -> Tensor:
        return tokens.perceive(v, p["widen"], p["narrow"])


class Mlp(MlpSmall):
    """A perceptron as wide inside as those of the host."""

    name = "mlp"
    expansion = 4


TRANSFORMER_BLUEPRINTS = (TokenNorm(), TokenAttention(), Lora(), LoraLarge(), MlpSmall(), Mlp(), FlexAttention())
