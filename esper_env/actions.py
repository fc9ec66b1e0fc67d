"""The action: its heads, the ops, which head matters for which op, and the codec.

Everything about actions is declared here once; spaces, masks, the agent's distribution and the
documentation derive from these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np

from esper_env.arrays import Bools, Floats, Ints


class Op(IntEnum):
    """What the agent does with a slot."""

    WAIT = 0
    GERMINATE = 1
    SET_ALPHA_TARGET = 2
    PRUNE = 3
    FOSSILIZE = 4
    ADVANCE = 5


class Algorithm(IntEnum):
    """How a seed's delta becomes the correction that is added to the host."""

    ADD = 0
    MULTIPLY = 1
    GATE = 2


class Style(IntEnum):
    """Curve of the first ramp, and blend algorithm."""

    LINEAR_ADD = 0
    LINEAR_MULTIPLY = 1
    SIGMOID_ADD = 2
    GATED_GATE = 3


class Curve(IntEnum):
    """Shape of an alpha ramp."""

    LINEAR = 0
    COSINE = 1
    SIGMOID_GENTLE = 2
    SIGMOID = 3
    SIGMOID_SHARP = 4


STYLE_ALGORITHM = np.array([Algorithm.ADD, Algorithm.MULTIPLY, Algorithm.ADD, Algorithm.GATE], np.int8)
STYLE_CURVE = np.array([Curve.LINEAR, Curve.LINEAR, Curve.SIGMOID, Curve.LINEAR], np.int8)
CURVE_STEEPNESS = {Curve.SIGMOID_GENTLE: 6.0, Curve.SIGMOID: 12.0, Curve.SIGMOID_SHARP: 24.0}
TEMPOS = np.array([3, 5, 8], np.int32)
ALPHA_TARGETS = np.array([0.5, 0.7, 1.0])
ALPHA_SPEEDS = np.array([0, 3, 5, 8], np.int32)

CNN, TRANSFORMER = "cnn", "transformer"
TOPOLOGIES = (CNN, TRANSFORMER)
"""Kinds of host."""


@dataclass
class BlueprintRow:
    """A blueprint's place in the table: its name and the host topologies that it suits."""

    name: str
    topologies: tuple[str, ...]


BLUEPRINTS: list[BlueprintRow] = [
    BlueprintRow("noop", ()),
    BlueprintRow("conv_light", (CNN,)),
    BlueprintRow("attention", (CNN, TRANSFORMER)),
    BlueprintRow("norm", (CNN, TRANSFORMER)),
    BlueprintRow("depthwise", (CNN,)),
    BlueprintRow("bottleneck", (CNN,)),
    BlueprintRow("conv_small", (CNN,)),
    BlueprintRow("conv_heavy", (CNN,)),
    BlueprintRow("lora", (TRANSFORMER,)),
    BlueprintRow("lora_large", (TRANSFORMER,)),
    BlueprintRow("mlp_small", (TRANSFORMER,)),
    BlueprintRow("mlp", (TRANSFORMER,)),
    BlueprintRow("flex_attention", (TRANSFORMER,)),
]
NOOP = 0


def blueprint_names() -> tuple[str, ...]:
    """Names of all blueprints, in the order of the action head; registered ones come last."""
    return tuple(row.name for row in BLUEPRINTS)


@dataclass(frozen=True)
class Head:
    """One factor of the action: its choices in order, and the value it takes when it does not matter."""

    name: str
    choices: tuple[str, ...]
    canonical: int

    @property
    def size(self) -> int:
        """Number of choices."""
        return len(self.choices)


def action_heads(num_slots: int = 3, blueprints: tuple[str, ...] | None = None) -> tuple[Head, ...]:
    """The eight heads of an environment with `num_slots` slots, in the order of the action vector."""
    names = blueprint_names() if blueprints is None else blueprints
    return (
        Head("slot", tuple(str(i) for i in range(num_slots)), 0),
        Head("blueprint", names, NOOP),
        Head("style", tuple(Style.__members__), Style.SIGMOID_ADD),
        Head("tempo", ("FAST", "STANDARD", "SLOW"), 1),
        Head("alpha_target", ("HALF", "SEVENTY", "FULL"), 2),
        Head("alpha_speed", ("INSTANT", "FAST", "MEDIUM", "SLOW"), 0),
        Head("alpha_curve", tuple(Curve.__members__), Curve.LINEAR),
        Head("op", tuple(Op.__members__), Op.WAIT),
    )


ACTION_HEADS = action_heads()
HEAD_NAMES = tuple(head.name for head in ACTION_HEADS)
HEAD_INDEX = {name: i for i, name in enumerate(HEAD_NAMES)}

CANONICAL_ACTION: Ints = np.array([head.canonical for head in ACTION_HEADS])
"""The action vector in which nothing matters: WAIT."""

CAUSAL_HEADS: dict[Op, tuple[str, ...]] = {
    Op.WAIT: (),
    Op.GERMINATE: ("slot", "blueprint", "style", "tempo", "alpha_target"),
    Op.SET_ALPHA_TARGET: ("slot", "style", "alpha_target", "alpha_speed", "alpha_curve"),
    Op.PRUNE: ("slot", "alpha_speed", "alpha_curve"),
    Op.FOSSILIZE: ("slot",),
    Op.ADVANCE: ("slot",),
}

CAUSAL_MASK: Bools = np.array([[name == "op" or name in CAUSAL_HEADS[op] for name in HEAD_NAMES] for op in Op])
"""`[op, head]`: does the head matter when this op is taken? `op` itself always does."""
_IRRELEVANT: Bools = ~CAUSAL_MASK


@cache
def head_sizes(num_slots: int, num_blueprints: int) -> tuple[int, ...]:
    """Sizes of the heads: `nvec` of the action space."""
    return tuple({"slot": num_slots, "blueprint": num_blueprints}.get(head.name, head.size) for head in ACTION_HEADS)


@cache
def _size_array(num_slots: int, num_blueprints: int) -> Ints:
    return np.array(head_sizes(num_slots, num_blueprints))


@dataclass
class Actions:
    """A batch of decoded actions: one array `[envs]` per head, in the units of the simulation."""

    op: Ints
    slot: Ints
    blueprint: Ints
    algorithm: Ints
    first_curve: Ints
    tempo: Ints
    alpha_target: Floats
    alpha_speed: Ints
    alpha_curve: Ints
    in_space: Bools
    """False where a head that matters holds a value outside the action space."""


def decode(vectors: Ints, num_slots: int, num_blueprints: int) -> Actions:
    """Turn action vectors `[envs, 8]` into values; what lies outside the space becomes canonical and is flagged.

    An op outside the space counts as WAIT that was not executed. Heads that do not matter for the op are
    ignored whatever they hold.
    """
    inside = (vectors >= 0) & (vectors < _size_array(num_slots, num_blueprints))
    slot, blueprint, style, tempo, target, speed, curve, op = np.where(inside, vectors, CANONICAL_ACTION).T
    return Actions(
        op=op,
        slot=slot,
        blueprint=blueprint,
        algorithm=STYLE_ALGORITHM.take(style),
        first_curve=STYLE_CURVE.take(style),
        tempo=TEMPOS.take(tempo),
        alpha_target=ALPHA_TARGETS.take(target),
        alpha_speed=ALPHA_SPEEDS.take(speed),
        alpha_curve=curve,
        in_space=(inside | _IRRELEVANT.take(op, axis=0)).all(1),  # the op itself always matters
    )


def as_vectors(actions: object, envs: int | None = None) -> Ints:
    """Check that `actions` are `[envs, 8]` whole numbers, or 8 for a single environment, and return them `[envs, 8]`.

    Raises:
        ValueError: when they are not. Values outside the action space are no error: they run as WAIT.
    """
    vectors = np.asarray(actions)
    expected = (len(HEAD_NAMES),) if envs is None else (envs, len(HEAD_NAMES))
    if vectors.shape != expected:
        raise ValueError(
            f"An action is {len(HEAD_NAMES)} numbers ({', '.join(HEAD_NAMES)}), so {expected} are expected here; "
            f"got shape {vectors.shape}."
        )
    if not np.issubdtype(vectors.dtype, np.integer):
        raise ValueError(f"An action holds whole numbers; got dtype {vectors.dtype}. Round or cast it first.")
    return vectors.reshape(-1, len(HEAD_NAMES)).astype(np.int64)
