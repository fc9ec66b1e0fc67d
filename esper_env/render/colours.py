"""The colours of an episode: those of the stages, and of what else is drawn."""

from __future__ import annotations

from esper_env.lifecycle.stages import Stage

Colour = tuple[int, int, int]

PAPER, INK, QUIET, FAINT, LINE = (255, 255, 255), (36, 41, 47), (94, 103, 112), (238, 240, 243), (202, 208, 214)
HOST, ACCURACY, PERMANENT, ALARM = (70, 79, 88), (31, 138, 76), (91, 75, 158), (200, 40, 40)
COLOURS: dict[Stage, Colour] = {
    Stage.UNKNOWN: LINE,
    Stage.DORMANT: LINE,
    Stage.GERMINATED: (121, 154, 38),
    Stage.TRAINING: (217, 130, 30),
    Stage.BLENDING: (32, 150, 172),
    Stage.HOLDING: (52, 110, 200),
    Stage.FOSSILIZED: PERMANENT,
    Stage.PRUNED: (143, 149, 157),
    Stage.EMBARGOED: (143, 149, 157),
    Stage.RESETTING: (180, 185, 191),
}
