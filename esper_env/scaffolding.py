"""Hindsight: what others gave a seed while it grew, paid when the seed is made permanent and really helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from esper_env.arrays import Arrays, Bools, Floats
from esper_env.config import RewardConfig

SYNERGY_SCALE = 0.1


@dataclass
class Ledger(Arrays):
    """Discounted credit that each seed has gathered `[envs, slots]`, and the best committed score so far `[envs]`."""

    credit: Floats
    best_committed: Floats

    @classmethod
    def start(cls, committed: Floats, slots: int) -> Self:
        """No credit yet; the bare host's score is what a fossil must beat."""
        return cls(np.zeros((len(committed), slots)), np.array(committed, float))


def settle(
    ledger: Ledger,
    *,
    fossilized: Bools,
    emptied: Bools,
    committed: Floats,
    interaction: Floats,
    shapley: Floats,
    measured: Bools,
    config: RewardConfig,
) -> Floats:
    """Close the books of one step and return the hindsight paid in it, `[envs]`.

    Payment comes before this epoch's entries, so that a seed is only paid for epochs before its fossilization.

    Args:
        ledger: updated in place.
        fossilized: seeds made permanent in this step, `[envs, slots]`.
        emptied: seeds removed in this step, by whatever cause, `[envs, slots]`.
        committed: score of the fossilized seeds alone, after the step.
        interaction: `[envs, slots, slots]`, with a zero diagonal.
        shapley: `[envs, slots]`.
        measured: environments whose counterfactuals were measured in this step.
        config: `hindsight` weighs both the rise and the entries; `hindsight_cap` bounds the payment.
    """
    rise = np.maximum(committed - ledger.best_committed, 0.0)
    ledger.best_committed = np.maximum(ledger.best_committed, committed)
    if not config.hindsight:
        return np.zeros(len(committed))
    credit = ledger.credit * config.gamma
    due = np.minimum(credit, np.minimum(config.hindsight * rise, config.hindsight_cap)[:, None])
    paid = np.where(fossilized, due, 0.0).sum(1)
    credit[fossilized | emptied] = 0.0

    helped = np.maximum(interaction, 0.0) * np.maximum(shapley, 0.0)[:, None, :]
    entries = config.hindsight * np.tanh(SYNERGY_SCALE * helped).sum(1)
    ledger.credit = credit + np.where(measured[:, None] & ~emptied, entries, 0.0)
    return np.asarray(paid)
