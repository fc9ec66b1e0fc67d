"""Stages, transitions and gates; what moves a seed on is found by moving seeds on."""

from __future__ import annotations

import numpy as np

from docs.generator.markdown import code, table
from esper_env.actions import CANONICAL_ACTION, HEAD_INDEX, Op, decode
from esper_env.config import LifecycleConfig
from esper_env.lifecycle.legality import HEALTHY, STRICT_BLENDING_EPOCHS, STRICT_IMPROVEMENT
from esper_env.lifecycle.stages import (
    ALPHA_CONTROLLED,
    BLENDED,
    COOLDOWN,
    LEGAL_TRANSITIONS,
    LIVE,
    PRESENT,
    Stage,
)
from esper_env.lifecycle.state import Slots
from esper_env.lifecycle.transitions import apply_ops, tick

CLOCK = "epochs"
GROUPS = {
    "live": LIVE,
    "present": PRESENT,
    "alpha can change": ALPHA_CONTROLLED,
    "blended": BLENDED,
    "cooldown": COOLDOWN,
}


def _in_stage(stage: Stage) -> Slots:
    slots = Slots.dormant(1, 1)
    slots.stage[:], slots.epochs_in_stage[:], slots.target[:], slots.steps[:] = stage, 99, 1.0, 0
    slots.begun[:] = 0
    return slots


def causes() -> dict[tuple[Stage, Stage], str]:
    """Which op, or the clock, makes each legal transition: all are tried in every stage."""
    found: dict[tuple[Stage, Stage], str] = {}
    epoch, accuracy = np.array([9]), np.array([50.0])
    for stage, following in LEGAL_TRANSITIONS.items():
        for op in Op:
            vector = CANONICAL_ACTION.copy()
            vector[HEAD_INDEX["op"]], vector[HEAD_INDEX["alpha_target"]] = op, 0
            slots = _in_stage(stage)
            apply_ops(slots, epoch, accuracy, decode(vector[None], 1, 13), np.ones(1, bool))
            if Stage(slots.stage[0, 0]) in following:
                found.setdefault((stage, Stage(slots.stage[0, 0])), op.name)
        slots = _in_stage(stage)
        tick(slots, epoch + 1, accuracy, COOLDOWN[slots.stage], LifecycleConfig())
        if Stage(slots.stage[0, 0]) in following:
            found[stage, Stage(slots.stage[0, 0])] = CLOCK
    return found


def stages() -> str:
    """Every stage, what it counts as, and where it may go."""
    why = causes()
    rows = []
    for stage, following in LEGAL_TRANSITIONS.items():
        kinds = ", ".join(name for name, members in GROUPS.items() if members[stage]) or "–"
        onward = ", ".join(f"`{after.name}` ({why[stage, after]})" for after in following) or "–"
        rows.append((int(stage), code(stage.name), kinds, onward))
    return table(("Index", "Stage", "Counts as", "Goes to (by)"), rows)


def gates() -> str:
    """What each gate asks of a seed, with the numbers in force."""
    config = LifecycleConfig()
    rows = (
        ("G1", "`GERMINATED` → `TRAINING`", "nothing", "the same"),
        (
            "G2",
            "`TRAINING` → `BLENDING`",
            f"at least `min_training_epochs` epochs in TRAINING (the task says how many), gradient health measured and "
            f"at least {HEALTHY:g}, no gradient exploding",
            f"accuracy at least {STRICT_IMPROVEMENT:g} points above what it was when the seed entered TRAINING",
        ),
        (
            "G3",
            "`BLENDING` → `HOLDING`",
            "alpha at rest at 1",
            f"at least {STRICT_BLENDING_EPOCHS} epochs in BLENDING",
        ),
        (
            "G5",
            "`HOLDING` → `FOSSILIZED`",
            "its contribution has been measured",
            f"the contribution is at least `min_fossilize_contribution` ({config.min_fossilize_contribution:g} points)",
        ),
    )
    return table(("Gate", "Between", "Asks for", "With `strict_gates=True` also for"), rows)
