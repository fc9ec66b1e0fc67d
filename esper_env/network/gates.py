"""Gates: what the GATE algorithm multiplies a seed's delta with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.actions import CNN, TRANSFORMER
from esper_env.network import layers, tokens
from esper_env.network.layers import Float32


class Gate:
    """The gate of the GATE algorithm: g(x) in (0, 1) per sample, from pooled features; near 0.5 at first."""

    def init(self, channels: int, rng: np.random.Generator) -> dict[str, Float32]:
        """Parameters of one gate."""
        hidden = max(8, channels // 4)
        return {
            "gate.weight0": layers.linear_init(rng, channels, hidden),
            "gate.bias0": layers.full(0.0, hidden),
            "gate.weight1": layers.linear_init(rng, hidden, 1),
            "gate.bias1": layers.full(0.0, 1),
        }

    def size(self, channels: int) -> int:
        """Number of parameters."""
        return sum(p.size for p in self.init(channels, np.random.default_rng(0)).values())

    def openness(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """g(x) as maps of one channel each, `[batch, n, 1, 1]`, or `[batch, n, h, w]` where positions differ."""
        pooled = layers.pool_to_vectors(x, p["gate.weight0"].shape[0])
        return layers.vectors_to_maps(self._open(p, pooled))

    @staticmethod
    def _open(p: Mapping[str, Tensor], v: Tensor) -> Tensor:
        hidden = F.silu(layers.linear(v, p["gate.weight0"], p["gate.bias0"]))
        return torch.sigmoid(layers.linear(hidden, p["gate.weight1"], p["gate.bias1"]))


class TokenGate(Gate):
    """A gate for every position of a text. Pooled over positions it would tell each what comes after it."""

    def openness(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """g(x) of every position, `[batch, n, positions, 1]`."""
        vectors = tokens.as_vectors(x, p["gate.weight0"].shape[0])
        return tokens.as_maps(self._open(p, vectors), x.shape[0])


GATES: dict[str, Gate] = {CNN: Gate(), TRANSFORMER: TokenGate()}
"""The gate of a host topology."""
