"""Alpha schedules: one immutable ramp per seed, and alpha as a pure function of the clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esper_env.actions import CURVE_STEEPNESS, Curve
from esper_env.arrays import Bools, Floats, Ints
from esper_env.lifecycle.state import Slots

HOLD, RAMP, STEP = 0, 1, 2
RESTING = -1_000
"""A `begun` so long ago that nothing runs and nothing counts as a change of this step."""

_STEEPNESS = np.array([CURVE_STEEPNESS.get(curve, 1.0) for curve in Curve])


def ease(progress: Floats, curve: Ints) -> Floats:
    """The five curves on [0, 1], exact at both ends."""
    cosine = (1 - np.cos(np.pi * progress)) / 2
    # The logistic 1/(1 + exp(-k(t - 1/2))), rescaled to hit 0 and 1, is this ratio of tanh.
    k = _STEEPNESS[curve]
    logistic = (1 + np.tanh(k * (progress - 0.5) / 2) / np.tanh(k / 4)) / 2
    return np.where(curve == Curve.LINEAR, progress, np.where(curve == Curve.COSINE, cosine, logistic))


@dataclass
class Ramps:
    """What the schedules say at one epoch, `[envs, slots]`: worked out once, for all who ask in a step."""

    elapsed: Ints
    """Epochs since the schedule began; negative while it has not (`NOT_BEGUN` lies beyond every epoch)."""
    arrived: Bools
    """Has alpha come to rest at its target?"""
    running: Bools
    """Is a ramp under way, its end not yet reached?"""
    alpha: Floats

    @classmethod
    def at(cls, slots: Slots, epoch: Ints) -> Ramps:
        """The schedules of `slots` at `epoch`."""
        elapsed = epoch[:, None] - slots.begun
        arrived = elapsed >= slots.steps
        running = arrived != (elapsed >= 0)  # what has arrived has begun
        value = np.where(arrived, slots.target, slots.start)
        if running.any():
            start, target = slots.start[running], slots.target[running]
            eased = ease(elapsed[running] / slots.steps[running], slots.curve[running])
            value[running] = start + (target - start) * eased
        return cls(elapsed, arrived, running, value)


def alpha(slots: Slots, epoch: Ints) -> Floats:
    """Alpha `[envs, slots]` in force at `epoch`."""
    return Ramps.at(slots, epoch).alpha


def running(slots: Slots, epoch: Ints) -> Bools:
    """Is a ramp under way, its end not yet reached?"""
    return Ramps.at(slots, epoch).running


def pruning(slots: Slots, epoch: Ints, ramps: Ramps | None = None) -> Bools:
    """Is the seed ramping down to be pruned? Its parameters are frozen then."""
    ramps = ramps or Ramps.at(slots, epoch)
    downwards: Bools = slots.target == 0
    return ramps.running & downwards


def reached(slots: Slots, epoch: Ints, target: float, ramps: Ramps | None = None) -> Bools:
    """Has alpha come to rest at `target`?"""
    ramps = ramps or Ramps.at(slots, epoch)
    there: Bools = slots.target == target
    return ramps.arrived & there


def mode(slots: Slots, epoch: Ints, ramps: Ramps | None = None) -> Ints:
    """HOLD (no schedule), RAMP (running) or STEP (an instant change made in the step that ended at `epoch`)."""
    ramps = ramps or Ramps.at(slots, epoch)
    instant = (slots.steps == 0) & (ramps.elapsed == 1)
    return np.where(ramps.running, RAMP, np.where(instant, STEP, HOLD))


def velocity(slots: Slots, epoch: Ints, ramps: Ramps | None = None) -> Floats:
    """Mean change of alpha per epoch of the running schedule, 0 without one."""
    ramps = ramps or Ramps.at(slots, epoch)
    return np.where(ramps.running, (slots.target - slots.start) / np.maximum(slots.steps, 1), 0.0)


def time_to_target(slots: Slots, epoch: Ints, ramps: Ramps | None = None) -> Ints:
    """Epochs until the running schedule ends, 0 without one."""
    ramps = ramps or Ramps.at(slots, epoch)
    return np.where(ramps.running, slots.steps - ramps.elapsed, 0)


def begin(slots: Slots, mask: Bools, start: Floats, target: Floats, steps: Ints, curve: Ints, epoch: Ints) -> None:
    """Give the seeds under `mask` a schedule whose clock starts at `epoch`; instant when `steps` is 0.

    A schedule from a value to the same value is none at all: alpha rests there.
    """
    shape = slots.begun.shape
    still = start == target
    slots.start = np.where(mask, start, slots.start)
    slots.target = np.where(mask, target, slots.target)
    slots.steps = np.where(mask, np.where(still, 0, steps), slots.steps)
    slots.curve = np.where(mask, curve, slots.curve).astype(slots.curve.dtype)
    begun = np.where(still, RESTING, np.broadcast_to(epoch[:, None], shape))
    slots.begun = np.where(mask, begun, slots.begun)


def rest(slots: Slots, mask: Bools, value: float) -> None:
    """Fix alpha at `value`, without a schedule."""
    slots.start = np.where(mask, value, slots.start)
    slots.target = np.where(mask, value, slots.target)
    slots.steps = np.where(mask, 0, slots.steps)
    slots.begun = np.where(mask, RESTING, slots.begun)
