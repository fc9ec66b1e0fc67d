"""What ops and the clock do to the slots. Pure array updates; the network follows the events they return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esper_env.actions import Actions, Op
from esper_env.arrays import Arrays, Bools, Floats, Ints
from esper_env.config import LifecycleConfig
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.stages import ALPHA_CONTROLLED, OCCUPIED, PRESENT, Stage
from esper_env.lifecycle.state import NOT_BEGUN, Slots


@dataclass
class Events(Arrays):
    """What happened to which slot in this step, `[envs, slots]`."""

    germinated: Bools
    switched: Bools
    fossilized: Bools
    pruned: Bools

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Events:
        """No event anywhere."""
        return cls(*np.zeros((4, *shape), bool))


def enter(slots: Slots, mask: Bools, stage: Stage, accuracy: Floats) -> None:
    """Move the seeds under `mask` into `stage`; their stage clock starts at 0 and the coming epoch makes it 1."""
    slots.stage[mask] = stage
    slots.epochs_in_stage[mask] = 0
    slots.accuracy_at_entry = np.where(mask, accuracy[:, None], slots.accuracy_at_entry)


def prune(slots: Slots, mask: Bools, accuracy: Floats, *, clock: int = 0) -> None:
    """Remove the seeds under `mask`; what was measured stays readable until the slot is DORMANT again.

    `clock` is where the stage clock starts: 0 before the tick; 1 in it or after it (the governor), so that the
    coming observation always reads 1.
    """
    enter(slots, mask, Stage.PRUNED, accuracy)
    slots.epochs_in_stage[mask] = clock
    schedules.rest(slots, mask, 0.0)
    slots.params = np.where(mask, 0, slots.params)


def apply_ops(slots: Slots, epoch: Ints, accuracy: Floats, actions: Actions, executed: Bools) -> Events:
    """Carry out the executed actions on `slots` before the epoch is trained.

    `epoch` is the number of epochs trained so far; a ramp that begins now has its first value above 0 in the
    epoch that follows.
    """
    shape = slots.stage.shape
    events = Events.none(shape)

    def acting(op: Op) -> Bools:
        envs = executed & (actions.op == op)
        return np.asarray(envs[:, None] & (np.arange(shape[1]) == actions.slot[:, None]))

    asked = set(actions.op[executed].tolist())
    if Op.GERMINATE in asked:
        events.germinated = mask = acting(Op.GERMINATE)
        _germinate(slots, mask, accuracy, actions)
    if Op.SET_ALPHA_TARGET in asked:
        mask = acting(Op.SET_ALPHA_TARGET)
        events.switched = mask & (slots.algorithm != actions.algorithm[:, None])
        slots.algorithm = np.where(mask, actions.algorithm[:, None], slots.algorithm).astype(np.int8)
        target = np.broadcast_to(actions.alpha_target[:, None], shape)
        enter(slots, mask & (slots.stage == Stage.HOLDING) & (target < 1.0), Stage.BLENDING, accuracy)
        speed, curve = actions.alpha_speed[:, None], actions.alpha_curve[:, None]
        schedules.begin(slots, mask, schedules.alpha(slots, epoch), target, speed, curve, epoch)
    if Op.PRUNE in asked:
        mask, now = acting(Op.PRUNE), schedules.alpha(slots, epoch)
        speed, curve = actions.alpha_speed[:, None], actions.alpha_curve[:, None]
        gradual = mask & ALPHA_CONTROLLED[slots.stage] & (speed > 0) & (now > 0)
        schedules.begin(slots, gradual, now, np.zeros(shape), speed, curve, epoch)
        events.pruned = mask & ~gradual
        prune(slots, events.pruned, accuracy)
    if Op.FOSSILIZE in asked:
        events.fossilized = mask = acting(Op.FOSSILIZE)
        enter(slots, mask, Stage.FOSSILIZED, accuracy)
        schedules.rest(slots, mask, 1.0)
    if Op.ADVANCE in asked:
        advance(slots, acting(Op.ADVANCE), epoch, accuracy)
    return events


def _germinate(slots: Slots, mask: Bools, accuracy: Floats, actions: Actions) -> None:
    slots.clear(mask)
    slots.plantings += mask
    slots.blueprint = np.where(mask, actions.blueprint[:, None], slots.blueprint)
    slots.algorithm = np.where(mask, actions.algorithm[:, None], slots.algorithm).astype(np.int8)
    slots.target = np.where(mask, actions.alpha_target[:, None], slots.target)
    slots.steps = np.where(mask, actions.tempo[:, None], slots.steps)
    slots.curve = np.where(mask, actions.first_curve[:, None], slots.curve).astype(np.int8)
    enter(slots, mask, Stage.GERMINATED, accuracy)


def advance(slots: Slots, mask: Bools, epoch: Ints, accuracy: Floats) -> None:
    """Move the seeds under `mask` on: GERMINATED → TRAINING → BLENDING (the first ramp begins) → HOLDING."""
    blend = mask & (slots.stage == Stage.TRAINING)
    hold = mask & (slots.stage == Stage.BLENDING)
    enter(slots, mask & (slots.stage == Stage.GERMINATED), Stage.TRAINING, accuracy)
    enter(slots, blend, Stage.BLENDING, accuracy)
    slots.begun = np.where(blend, epoch[:, None], slots.begun)
    enter(slots, hold, Stage.HOLDING, accuracy)


def tick(slots: Slots, epoch: Ints, accuracy: Floats, cooling: Bools, config: LifecycleConfig) -> Bools:
    """Advance every clock by one epoch, the one about to be trained, whose number is `epoch`.

    `cooling` are the slots that were in cooldown when the step began; only those move on in it, so that a seed
    spends the same time in cooldown however it was pruned. Returned are the slots whose scheduled prune arrives.
    """
    slots.epochs_in_stage += OCCUPIED.take(slots.stage) & ~cooling
    if cooling.any():
        _cool_down(slots, cooling, config)
    arrived: Bools = ALPHA_CONTROLLED.take(slots.stage) & (slots.target == 0)
    if arrived.any():
        arrived &= (slots.begun != NOT_BEGUN) & ~schedules.running(slots, epoch)
        prune(slots, arrived, accuracy, clock=1)
    slots.age += PRESENT.take(slots.stage)
    return arrived


def _cool_down(slots: Slots, cooling: Bools, config: LifecycleConfig) -> None:
    stage = slots.stage.copy()
    embargo_over = (stage == Stage.EMBARGOED) & (slots.epochs_in_stage >= config.embargo_epochs)
    moves = {
        Stage.EMBARGOED: cooling & (stage == Stage.PRUNED),
        Stage.RESETTING: cooling & embargo_over,
    }
    slots.epochs_in_stage += cooling
    for target, mask in moves.items():
        slots.stage[mask] = target
        slots.epochs_in_stage[mask] = 1
    slots.clear(cooling & (stage == Stage.RESETTING))
