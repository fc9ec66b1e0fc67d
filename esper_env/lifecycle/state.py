"""Everything that evolves about the slots, as arrays `[envs, slots]`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np

from esper_env.arrays import Arrays, Bools, Floats, Ints
from esper_env.lifecycle.stages import Stage

EMPTY = -1
"""Blueprint index of a slot without a seed."""
NOT_BEGUN = 1_000_000
"""`begun` of a schedule that waits for the seed to enter BLENDING."""
NEVER = -1
"""`measured` of a seed whose counterfactual has not been measured."""


@dataclass
class Slots(Arrays):
    """The record of every slot: lifecycle, alpha schedule and the latest metrics of its seed.

    This is the one record: observation, masks, reward and info read it, nothing keeps a second copy.
    """

    stage: Ints
    blueprint: Ints
    algorithm: Ints
    age: Ints
    epochs_in_stage: Ints
    accuracy_at_entry: Floats
    plantings: Ints
    params: Ints
    # The alpha schedule: alpha is a function of these and the clock (`lifecycle.alpha`).
    start: Floats
    target: Floats
    steps: Ints
    curve: Ints
    begun: Ints
    # Counterfactual metrics, in points.
    contribution: Floats
    contribution_velocity: Floats
    interaction_sum: Floats
    boost_received: Floats
    shapley: Floats
    measured: Ints
    # Gradient statistics of the last epoch in which the seed trained; NaN health is unmeasured.
    gradient_norm: Floats
    gradient_health: Floats
    vanishing: Bools
    exploding: Bools

    @classmethod
    def dormant(cls, envs: int, slots: int) -> Slots:
        """Slots in which nothing has ever been planted."""
        shape = (envs, slots)

        def ints(value: int = 0) -> Ints:
            return np.full(shape, value, np.int64)

        def floats(value: float = 0.0) -> Floats:
            return np.full(shape, value)

        return cls(
            stage=np.full(shape, Stage.DORMANT, np.int8),
            blueprint=ints(EMPTY),
            algorithm=np.zeros(shape, np.int8),
            age=ints(),
            epochs_in_stage=ints(),
            accuracy_at_entry=floats(),
            plantings=ints(),
            params=ints(),
            start=floats(),
            target=floats(),
            steps=ints(),
            curve=np.zeros(shape, np.int8),
            begun=ints(NOT_BEGUN),
            contribution=floats(),
            contribution_velocity=floats(),
            interaction_sum=floats(),
            boost_received=floats(),
            shapley=floats(),
            measured=ints(NEVER),
            gradient_norm=floats(),
            gradient_health=floats(np.nan),
            vanishing=np.zeros(shape, bool),
            exploding=np.zeros(shape, bool),
        )

    def put_gradients(self, measured: Bools, norm: Floats, health: Floats, vanishing: Bools, exploding: Bools) -> None:
        """Take in the gradient statistics of the seeds that were `measured`; the others keep theirs."""
        self.gradient_norm = np.where(measured, norm, self.gradient_norm)
        self.gradient_health = np.where(measured, health, self.gradient_health)
        self.vanishing = np.where(measured, vanishing, self.vanishing)
        self.exploding = np.where(measured, exploding, self.exploding)

    def clear(self, mask: Bools) -> None:
        """Make the slots under `mask` DORMANT; only the count of plantings survives."""
        if mask.any():
            for name, blank in _blank().items():
                getattr(self, name)[mask] = blank


@cache
def _blank() -> dict[str, Any]:
    blank = Slots.dormant(1, 1)
    return {f.name: getattr(blank, f.name).item() for f in fields(Slots) if f.name != "plantings"}
