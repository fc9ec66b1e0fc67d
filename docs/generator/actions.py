"""The action: heads, choices, ops and blueprints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from docs.generator.markdown import code, codes, first_line, table
from esper_env.actions import (
    ACTION_HEADS,
    ALPHA_SPEEDS,
    ALPHA_TARGETS,
    BLUEPRINTS,
    CAUSAL_HEADS,
    CAUSAL_MASK,
    CNN,
    CURVE_STEEPNESS,
    STYLE_ALGORITHM,
    STYLE_CURVE,
    TEMPOS,
    Algorithm,
    Curve,
    Head,
    Op,
    Style,
)
from esper_env.config import LifecycleConfig
from esper_env.lifecycle.legality import legality
from esper_env.lifecycle.stages import Stage
from esper_env.lifecycle.state import Slots
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.tasks import TASKS, Task

TICK = "●"


def _meaning(head: Head) -> Sequence[str]:
    """What each choice of a head stands for, where it is a number or a pair."""
    epochs = {"tempo": TEMPOS, "alpha_speed": ALPHA_SPEEDS}
    if head.name in epochs:
        return [f"{value} epochs" for value in epochs[head.name]]
    if head.name == "alpha_target":
        return [f"alpha {value:g}" for value in ALPHA_TARGETS]
    if head.name == "style":
        return [f"{Curve(STYLE_CURVE[s]).name} ramp, {Algorithm(STYLE_ALGORITHM[s]).name}" for s in Style]
    if head.name == "alpha_curve":
        return [f"logistic, steepness {CURVE_STEEPNESS[c]:g}" if c in CURVE_STEEPNESS else "" for c in Curve]
    return [""] * head.size


def heads() -> str:
    """Every head with all of its choices; the canonical one is bold."""
    rows: list[tuple[object, ...]] = []
    for number, head in enumerate(ACTION_HEADS):
        if head.name == "slot":
            rows.append((number, code(head.name), "the slot, counted from 0"))
            continue
        choices = []
        for value, (name, meaning) in enumerate(zip(head.choices, _meaning(head), strict=True)):
            label = f"**`{name}`**" if value == head.canonical else code(name)
            choices.append(f"{value} {label}" + (f" ({meaning})" if meaning else ""))
        rows.append((number, code(head.name), ", ".join(choices)))
    return table(("Index", "Head", "Choices"), rows)


def causal() -> str:
    """Which head matters for which op."""
    names = [head.name for head in ACTION_HEADS if head.name != "op"]
    columns = [i for i, head in enumerate(ACTION_HEADS) if head.name != "op"]
    rows = ((code(op.name), *(TICK if CAUSAL_MASK[op, i] else "" for i in columns)) for op in CAUSAL_HEADS)
    return table(("Op", *map(code, names)), rows)


def op_by_stage() -> str:
    """In which stages an op can be legal, found by asking the predicate about a seed that passes every gate."""
    slots = Slots.dormant(1, len(Stage))
    slots.stage[0] = list(Stage)
    ready = {"age": 99, "epochs_in_stage": 99, "gradient_health": 1, "measured": 0, "target": 1, "steps": 0, "begun": 0}
    for field, value in ready.items():
        getattr(slots, field)[:] = value
    config = LifecycleConfig(max_seeds=len(Stage) + 1)
    legal = legality(slots, np.array([99]), np.array([50.0]), np.ones(2, bool), config)[0]
    stages = [stage for stage in Stage if legal[Op.WAIT + 1 :, stage].any()]
    rows = ((code(op.name), *(TICK if legal[op, stage] else "" for stage in stages)) for op in Op if op != Op.WAIT)
    return table(("Op", *(stage.name for stage in stages)), rows)


def blueprints() -> str:
    """Every blueprint: the hosts it suits, what it is, and its size in the slots of a host of each topology."""
    examples: dict[str, Task] = {}
    for task in TASKS.values():
        examples.setdefault(task.host.topology, task)
    rows = []
    for number, row in enumerate(BLUEPRINTS):
        kinds = {topology: IMPLEMENTATIONS[row.name, topology] for topology in row.topologies}
        meaning = " ".join(dict.fromkeys(first_line(type(kind)) for kind in kinds.values()))
        sizes = [
            " / ".join(f"{kind.size(shape.channels):,}" for shape in examples[topology].host.slots)
            for topology, kind in kinds.items()
            if topology in examples
        ]
        rows.append((number, code(row.name), " and ".join(row.topologies) or "none", meaning, "; ".join(sizes)))
    named = ", ".join(f"`{task.name}` ({topology})" for topology, task in examples.items())
    note = f"Parameters are those in the first to the last slot of {named}."
    return table(("Index", "Blueprint", "Hosts", "What it adds", "Parameters"), rows) + f"\n\n{note}"


def suiting(topology: str = CNN) -> str:
    """The names that suit a topology."""
    return codes(row.name for row in BLUEPRINTS if topology in row.topologies)
