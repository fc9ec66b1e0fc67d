"""A scripted episode as it is watched, and frames that say as much as a frame can."""

from dataclasses import replace
from functools import cache

import gymnasium as gym
import numpy as np

from esper_env.actions import Algorithm, Op, Style
from esper_env.lifecycle.stages import Stage
from esper_env.options import resolve
from esper_env.render.frame import blocks_before, look, words
from esper_env.render.picture import _font
from esper_env.simulation import Simulation
from esper_env.tasks import TASKS
from tests.conftest import BRIEF, HASTY, action, simulate

OPTIONS = {"max_epochs": 12, "training": BRIEF, "lifecycle": HASTY}
STAGES = [stage for stage in Stage if stage != Stage.UNKNOWN]
LAYOUTS = [(name, slots) for name, task in TASKS.items() for slots in range(1, len(task.host.slot_of_block) + 1)]
"""Every task with every number of slots that it can have."""
SCRIPT = [
    action(Op.GERMINATE, 0, "conv_light"),
    action(Op.ADVANCE, 0),
    action(Op.ADVANCE, 0),
    action(Op.GERMINATE, 2, "norm"),
    action(),
    action(Op.ADVANCE, 0),
    action(Op.FOSSILIZE, 0),
    action(Op.PRUNE, 2),
    action(Op.FOSSILIZE, 1),
]
"""One seed is made permanent, another is pruned, and the last action is not legal."""


def watched(steps=SCRIPT, **options):
    """Frames of a scripted episode, from epoch 0 on."""
    simulation = simulate(1, seeds=[1], **OPTIONS | options)
    frames = [look(simulation)]
    for vector in steps:
        simulation.step(np.array([vector]))
        frames.append(look(simulation, frames[-1], vector))
    return frames


def make(mode, **options):
    return gym.make("Esper-Seed-v0", render_mode=mode, **OPTIONS | options)


def in_stage(frame, stage):
    """The frame with a seed of this stage in slot 1."""
    slot = replace(
        frame.slots[1], stage=stage, blueprint="attention", alpha=0.4, target=0.7, contribution=-2.5, params=7
    )
    slots = (frame.slots[0], slot, frame.slots[2])
    now = replace(frame.now, stages=(frame.now.stages[0], stage, frame.now.stages[2]))
    return replace(frame, slots=slots, epochs=(*frame.epochs[:-1], now))


@cache
def untouched(name):
    """A frame of this task with a slot behind every block, and the largest seed of each; no data is read."""
    config, task = resolve({"task": name, "num_slots": len(TASKS[name].host.slot_of_block), "max_epochs": 1000})
    simulation = Simulation(config, task, 1)
    widest = max(config.blueprints, key=lambda blueprint: _font(14).getlength(blueprint))
    frame = look(simulation)
    slots = zip(frame.slots, simulation._sizes.max(1).tolist(), strict=True)
    return replace(frame, slots=tuple(replace(slot, blueprint=widest, params=largest) for slot, largest in slots))


def crowded(name, num_slots, turn):
    """The longest that a frame of this task can say: the largest seeds in all slots, a step full of news, the end.

    The slots go through all stages, `turn` by `turn`.
    """
    frame, places = untouched(name), blocks_before(TASKS[name].host.with_slots(num_slots))
    stages = tuple(STAGES[(slot + turn) % len(STAGES)] for slot in range(num_slots))
    facts = {"algorithm": Algorithm.MULTIPLY, "alpha": 0.4, "target": 0.7, "contribution": -100.0}
    slots = tuple(
        replace(frame.slots[place[1] - 1], blocks=place, stage=stage, epochs_in_stage=888, **facts)
        for place, stage in zip(places, stages, strict=True)
    )
    before = replace(frame.now, number=999, value=100.0, stages=(Stage.DORMANT,) * num_slots, alphas=(0.0,) * num_slots)
    longest = action(Op.SET_ALPHA_TARGET, num_slots - 1, style=Style.LINEAR_MULTIPLY, target=1, speed=3)
    return replace(
        frame,
        slots=slots,
        epochs=(before, replace(before, number=1000, committed=100.0, stages=stages, rolled_back=True)),
        action=words(longest, num_slots),
        executed=False,
        terms=dict.fromkeys(frame.terms, -12.345),
        test_accuracy=100.0,
    )
