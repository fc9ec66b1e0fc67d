"""The transformer host: a small GPT over bytes or other tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor

from esper_env.actions import TRANSFORMER
from esper_env.arrays import Ints
from esper_env.config import ConfigError
from esper_env.network import layers, tokens
from esper_env.network.host import SlotShape, place_slots
from esper_env.network.layers import Float32
from esper_env.network.transformer_blueprints import HEADS as BLUEPRINT_HEADS

DEVIATION = 0.02
"""Of initial weights; GPT-2's."""


@dataclass(frozen=True)
class TransformerHost:
    """Pre-norm blocks of causal attention and a perceptron, with tied embeddings (Radford et al. 2019).

    A sample is a text of `length` tokens, and every one of them but the first is predicted from those before it.
    Blended seeds are not isolated: what they ask of their input, the blocks before them learn to give.
    """

    classes: int
    """Tokens in the vocabulary."""
    length: int
    """Tokens per sample."""
    width: int
    layers: int
    heads: int
    num_slots: int | None = 3
    """Slots, at evenly spaced layers; one per layer when None."""

    topology = TRANSFORMER
    isolated = False

    def __post_init__(self) -> None:
        _ = self.slot_of_block
        for heads, whose in ((self.heads, "heads"), (BLUEPRINT_HEADS, "heads of the attention blueprints")):
            if self.width % heads:
                raise ConfigError(f"A width of {self.width} cannot be divided among {heads} {whose}.")

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of a text."""
        return (self.length,)

    @property
    def slot_of_block(self) -> tuple[int | None, ...]:
        """For each layer the slot behind it, or None."""
        return place_slots(self.layers, self.layers if self.num_slots is None else self.num_slots)

    @property
    def slots(self) -> tuple[SlotShape, ...]:
        """Shape of the feature map at each slot."""
        shape = SlotShape(self.width, self.length)
        return tuple(shape for slot in self.slot_of_block if slot is not None)

    def with_slots(self, num_slots: int) -> Self:
        """The same host with so many slots."""
        return replace(self, num_slots=num_slots)

    @property
    def first_map(self) -> SlotShape:
        """Shape of the first activation: what the chunk size is chosen by."""
        return SlotShape(self.width, self.length)

    def init(self, rng: np.random.Generator) -> dict[str, Float32]:
        """Parameters of one host; what is added to the residual stream begins smaller, the more of it there is."""
        width, small = self.width, DEVIATION / (2 * self.layers) ** 0.5

        def normal(deviation: float, *shape: int) -> Float32:
            return rng.normal(0.0, deviation, shape).astype(np.float32)

        parameters = {
            "embedding.tokens": normal(DEVIATION, self.classes, width),
            "embedding.positions": normal(DEVIATION, self.length, width),
        }
        for i in range(self.layers):
            parameters |= {
                f"layer{i}.scale0": layers.full(1.0, width),
                f"layer{i}.shift0": layers.full(0.0, width),
                f"layer{i}.attend": normal(DEVIATION, width, 3 * width),
                f"layer{i}.attended": normal(small, width, width),
                f"layer{i}.scale1": layers.full(1.0, width),
                f"layer{i}.shift1": layers.full(0.0, width),
                f"layer{i}.widen": normal(DEVIATION, width, 4 * width),
                f"layer{i}.narrow": normal(small, 4 * width, width),
            }
        return parameters | {"norm.scale": layers.full(1.0, width), "norm.shift": layers.full(0.0, width)}

    def macs_by_level(self) -> list[int]:
        """Multiply-accumulates per sample before the first slot, between slots, and after the last."""
        layer = 12 * self.width**2 * self.length + tokens.attention_macs(self.length, self.length, self.width)
        levels = [0]
        for slot in self.slot_of_block:
            levels[-1] += layer
            if slot is not None:
                levels.append(0)
        levels[-1] += self.length * self.width * self.classes
        return levels

    def views(self, rng: np.random.Generator, samples: int) -> Ints:
        """Texts are not augmented."""
        raise ConfigError("Only images can be augmented: set augment=False in a task with a TransformerHost.")

    @staticmethod
    def gather(inputs: Tensor, batch: Tensor, instance: Tensor | None, views: Tensor | None = None) -> Tensor:
        """A training batch of texts `[batch, hosts, length]`, from `inputs [instances, n, length]`."""
        texts = inputs[0][batch] if instance is None else inputs[instance, batch]
        return texts.long()

    @staticmethod
    def spread(inputs: Tensor, batch: slice, hosts: Tensor) -> Tensor:
        """The same texts for each of `hosts`: its own instance's, or the shared one's."""
        texts = inputs[:, batch]
        texts = texts.expand(len(hosts), *texts.shape[1:]) if len(texts) == 1 else texts[hosts]
        return texts.transpose(0, 1).long()

    @staticmethod
    def receive(inputs: Tensor) -> Tensor:
        """Texts `[batch, length]`, which may be shorter than those of training."""
        return inputs.long().unsqueeze(1)

    @staticmethod
    def embed(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Tokens and their positions, as the first feature map."""
        return tokens.embed(x, parameters["embedding.tokens"], parameters["embedding.positions"])

    def block(self, parameters: Mapping[str, Tensor], index: int, x: Tensor) -> Tensor:
        """Attention and perceptron, each on a normalised copy of the residual stream, and added to it."""
        p = {name: parameters[f"layer{index}.{name}"] for name in LAYER}
        batch, rows = x.shape[0], layers.as_rows(x, len(p["scale0"]))
        v = tokens.layer_norm(rows, p["scale0"], p["shift0"]).transpose(0, 1)
        rows = rows + tokens.self_attention(v, p["attend"], p["attended"], batch, self.heads).transpose(0, 1)
        v = tokens.layer_norm(rows, p["scale1"], p["shift1"]).transpose(0, 1)
        rows = rows + tokens.perceive(v, p["widen"], p["narrow"]).transpose(0, 1)
        return tokens.rows_as_maps(rows, batch)

    def leave(self, index: int, x: Tensor) -> Tensor:
        """Nothing follows a slot but the next layer."""
        return x

    def classify(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits `[n, batch * length, classes]` of the token after each position."""
        table = parameters["embedding.tokens"]
        rows = layers.as_rows(x, len(table))
        normed = tokens.layer_norm(rows, parameters["norm.scale"], parameters["norm.shift"])
        return layers.linear(normed.transpose(0, 1), table.transpose(1, 2))


LAYER = ("scale0", "shift0", "attend", "attended", "scale1", "shift1", "widen", "narrow")
"""Parameters of a layer."""
