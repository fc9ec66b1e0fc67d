"""The one predicate that decides which op may act on which slot. Masks and executor both call it."""

from __future__ import annotations

import numpy as np

from esper_env.actions import Op
from esper_env.arrays import Bools, Floats, Ints
from esper_env.config import LifecycleConfig
from esper_env.lifecycle.alpha import reached, running
from esper_env.lifecycle.stages import ALPHA_CONTROLLED, LIVE, PRESENT, Stage
from esper_env.lifecycle.state import NEVER, Slots

HEALTHY = 0.7
STRICT_IMPROVEMENT = 0.5
STRICT_BLENDING_EPOCHS = 10


def gates(slots: Slots, epoch: Ints, accuracy: Floats, config: LifecycleConfig) -> dict[str, Bools]:
    """Do the seeds pass G2 (train → blend), G3 (blend → hold) and G5 (hold → fossilize)? `[envs, slots]` each."""
    with np.errstate(invalid="ignore"):
        g2 = (
            (slots.epochs_in_stage >= config.min_training_epochs)
            & (slots.gradient_health >= HEALTHY)
            & ~slots.exploding
        )
    g3 = reached(slots, epoch, 1.0)
    g5 = slots.measured != NEVER
    if config.strict_gates:
        g2 &= accuracy[:, None] - slots.accuracy_at_entry >= STRICT_IMPROVEMENT
        g3 &= slots.epochs_in_stage >= STRICT_BLENDING_EPOCHS
        g5 &= slots.contribution >= config.min_fossilize_contribution
    return {"G2": g2, "G3": g3, "G5": g5}


def advanceable(slots: Slots, epoch: Ints, accuracy: Floats, config: LifecycleConfig) -> Bools:
    """May the seed move on to its next stage, be it by the agent or automatically?"""
    return _advanceable(slots.stage, ~running(slots, epoch), gates(slots, epoch, accuracy, config))


def _advanceable(stage: Ints, resting: Bools, gate: dict[str, Bools]) -> Bools:
    passes: Bools = (
        (stage == Stage.GERMINATED)
        | ((stage == Stage.TRAINING) & gate["G2"])
        | ((stage == Stage.BLENDING) & gate["G3"])
    )
    return resting & passes


def legality(slots: Slots, epoch: Ints, accuracy: Floats, plantable: Bools, config: LifecycleConfig) -> Bools:
    """`legal[env, op, slot]` of the present state.

    GERMINATE is legal for a slot when some blueprint can be planted there; which ones is `plantable`.
    """
    stage = slots.stage
    resting = ~running(slots, epoch)
    gate = gates(slots, epoch, accuracy, config)
    room = PRESENT[stage].sum(1) < config.max_seeds
    legal = np.empty((stage.shape[0], len(Op), stage.shape[1]), bool)
    legal[:, Op.WAIT] = True
    legal[:, Op.GERMINATE] = (stage == Stage.DORMANT) & room[:, None] & plantable.any()
    legal[:, Op.SET_ALPHA_TARGET] = ALPHA_CONTROLLED[stage] & resting
    legal[:, Op.PRUNE] = LIVE[stage] & (slots.age >= config.min_prune_age) & resting
    legal[:, Op.FOSSILIZE] = (stage == Stage.HOLDING) & gate["G5"] & resting
    legal[:, Op.ADVANCE] = False if config.auto_advance else _advanceable(stage, resting, gate)
    return legal


def permitted(legal: Bools, op: Ints, slot: Ints, blueprint: Ints, plantable: Bools) -> Bools:
    """Which of the asked-for actions execute `[envs]`: the predicate looked up, and for GERMINATE the blueprint."""
    envs = np.arange(len(op))
    suits: Bools = (op != Op.GERMINATE) | plantable[blueprint]
    return legal[envs, op, slot] & suits
