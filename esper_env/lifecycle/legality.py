"""The one predicate that decides which op may act on which slot. Masks and executor both call it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto

import numpy as np

from esper_env.actions import Op
from esper_env.arrays import Bools, Floats, Ints
from esper_env.config import LifecycleConfig
from esper_env.lifecycle.alpha import Ramps, reached
from esper_env.lifecycle.stages import LIVE, PRESENT, Stage
from esper_env.lifecycle.state import NEVER, Slots

HEALTHY = 0.7
STRICT_IMPROVEMENT = 0.5
STRICT_BLENDING_EPOCHS = 10


class Condition(IntEnum):
    """What an op may ask of a slot beside its stage; strict gates make some of it harder to meet."""

    ROOM = 0
    """A seed can be planted: there is a blueprint, and its environment may have one more seed."""
    AT_REST = auto()
    """No ramp is under way."""
    OLD = auto()
    """Old enough to be pruned."""
    TRAINED = auto()
    """Long enough in TRAINING."""
    HEALTHY = auto()
    """Gradient health is measured, and good."""
    CALM = auto()
    """No gradient explodes."""
    REACHED = auto()
    """Alpha has come to rest at 1."""
    MEASURED = auto()
    """The contribution has been measured."""


G2 = (Condition.TRAINED, Condition.HEALTHY, Condition.CALM)
G3 = (Condition.REACHED,)
G5 = (Condition.MEASURED,)

RULES: dict[Op, Mapping[Stage, tuple[Condition, ...]]] = {
    Op.WAIT: dict.fromkeys(Stage, ()),
    Op.GERMINATE: {Stage.DORMANT: (Condition.ROOM,)},
    Op.SET_ALPHA_TARGET: dict.fromkeys((Stage.BLENDING, Stage.HOLDING), (Condition.AT_REST,)),
    Op.PRUNE: {stage: (Condition.AT_REST, Condition.OLD) for stage in Stage if LIVE[stage]},
    Op.FOSSILIZE: {Stage.HOLDING: (Condition.AT_REST, *G5)},
    Op.ADVANCE: {
        Stage.GERMINATED: (Condition.AT_REST,),
        Stage.TRAINING: (Condition.AT_REST, *G2),
        Stage.BLENDING: (Condition.AT_REST, *G3),
    },
}
"""In which stages an op is legal, and under which conditions."""


def _tabulate() -> Bools:
    """`[stage, met, op]`, where bit c of `met` says that condition c is met."""
    met = np.arange(1 << len(Condition))
    table = np.zeros((len(Stage), len(met), len(Op)), bool)
    for op, stages in RULES.items():
        for stage, conditions in stages.items():
            asked = sum(1 << condition for condition in conditions)
            table[stage, :, op] = met & asked == asked
    return table


_LEGAL = _tabulate()
_SEEDS: Ints = PRESENT.astype(np.int64)
_PLANTS: Bools = np.array([op == Op.GERMINATE for op in Op])


def legality(
    slots: Slots, epoch: Ints, accuracy: Floats, plantable: Bools, config: LifecycleConfig, ramps: Ramps | None = None
) -> Bools:
    """`legal[env, op, slot]` of the present state.

    GERMINATE is legal for a slot when some blueprint can be planted there; which ones is `plantable`. `ramps` are the
    schedules at this epoch, where they are known already.
    """
    limit = config.max_seeds if plantable.any() else 0
    legal = _by_rules(slots, epoch, accuracy, limit, config, ramps or Ramps.at(slots, epoch))
    if config.auto_advance:
        legal[:, Op.ADVANCE] = False
    return legal


def advanceable(slots: Slots, epoch: Ints, accuracy: Floats, config: LifecycleConfig) -> Bools:
    """May the seed move on to its next stage, be it by the agent or automatically?"""
    return _by_rules(slots, epoch, accuracy, config.max_seeds, config, Ramps.at(slots, epoch))[:, Op.ADVANCE]


def _by_rules(slots: Slots, epoch: Ints, accuracy: Floats, limit: int, config: LifecycleConfig, ramps: Ramps) -> Bools:
    stage = slots.stage
    met = np.empty((len(Condition), *stage.shape), bool)
    np.less(_SEEDS.take(stage).sum(1)[:, None], limit, out=met[Condition.ROOM])
    np.logical_not(ramps.running, out=met[Condition.AT_REST])
    np.greater_equal(slots.age, config.min_prune_age, out=met[Condition.OLD])
    np.greater_equal(slots.epochs_in_stage, config.min_training_epochs, out=met[Condition.TRAINED])
    np.greater_equal(slots.gradient_health, HEALTHY, out=met[Condition.HEALTHY])
    np.logical_not(slots.exploding, out=met[Condition.CALM])
    met[Condition.REACHED] = reached(slots, epoch, 1.0, ramps)
    np.not_equal(slots.measured, NEVER, out=met[Condition.MEASURED])
    if config.strict_gates:
        met[Condition.TRAINED] &= accuracy[:, None] - slots.accuracy_at_entry >= STRICT_IMPROVEMENT
        met[Condition.REACHED] &= slots.epochs_in_stage >= STRICT_BLENDING_EPOCHS
        met[Condition.MEASURED] &= slots.contribution >= config.min_fossilize_contribution
    (code,) = np.packbits(met, axis=0, bitorder="little")
    return np.asarray(_LEGAL[stage, code].transpose(0, 2, 1))


def permitted(legal: Bools, op: Ints, slot: Ints, blueprint: Ints, plantable: Bools) -> Bools:
    """Which of the asked-for actions execute `[envs]`: the predicate looked up, and for GERMINATE the blueprint."""
    envs = np.arange(len(op))
    suits: Bools = plantable.take(blueprint) | ~_PLANTS.take(op)
    return legal[envs, op, slot] & suits
