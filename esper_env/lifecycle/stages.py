"""The stages of a seed's life and the legal transitions between them."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from esper_env.arrays import Bools


class Stage(IntEnum):
    """Where a seed is in its life; the number is its place in the one-hot encoding."""

    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    HOLDING = 5
    FOSSILIZED = 6
    PRUNED = 7
    EMBARGOED = 8
    RESETTING = 9


LEGAL_TRANSITIONS: dict[Stage, tuple[Stage, ...]] = {
    Stage.UNKNOWN: (),
    Stage.DORMANT: (Stage.GERMINATED,),
    Stage.GERMINATED: (Stage.TRAINING, Stage.PRUNED),
    Stage.TRAINING: (Stage.BLENDING, Stage.PRUNED),
    Stage.BLENDING: (Stage.HOLDING, Stage.PRUNED),
    Stage.HOLDING: (Stage.FOSSILIZED, Stage.BLENDING, Stage.PRUNED),
    Stage.FOSSILIZED: (),
    Stage.PRUNED: (Stage.EMBARGOED,),
    Stage.EMBARGOED: (Stage.RESETTING,),
    Stage.RESETTING: (Stage.DORMANT,),
}


def _table(*stages: Stage) -> Bools:
    return np.isin(np.arange(len(Stage)), stages)


# Membership tables, to look the stage array up in: `LIVE.take(slots.stage)`. NumPy takes several times as long to
# compare an array with a member of an IntEnum.
OCCUPIED: Bools = ~_table(Stage.DORMANT)
LIVE: Bools = _table(Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)
PRESENT: Bools = _table(Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
ALPHA_CONTROLLED: Bools = _table(Stage.BLENDING, Stage.HOLDING)
BLENDED: Bools = _table(Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
LEARNING: Bools = _table(Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
FOSSIL: Bools = _table(Stage.FOSSILIZED)
COOLDOWN: Bools = _table(Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING)
