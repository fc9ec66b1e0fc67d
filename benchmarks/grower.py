"""A scripted policy that grows every slot as far as it goes, for all environments of a simulation at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper_env.actions import ACTION_HEADS, BLUEPRINTS, HEAD_INDEX, Op, Style, blueprint_names
from esper_env.arrays import Ints
from esper_env.lifecycle.stages import Stage
from esper_env.options import resolve
from esper_env.simulation import Simulation

PRIORITY = (Op.FOSSILIZE, Op.ADVANCE, Op.GERMINATE)


def simulate(seeds: Sequence[int], *, chunk: int | None = None, threads: int = 1, **options: Any) -> Simulation:
    """A simulation of one host per seed, reset, from the keyword arguments of `gymnasium.make`."""
    simulation = Simulation(*resolve(options), len(seeds), chunk=chunk, threads=threads)
    simulation.reset(np.ones(len(seeds), bool), seeds)
    return simulation


def waiting(envs: int) -> Ints:
    """Action vectors with which every environment waits."""
    return np.tile([head.canonical for head in ACTION_HEADS], (envs, 1))


def suited_blueprints(topology: str) -> tuple[str, ...]:
    """Names of all blueprints that can be planted in a host of this topology."""
    return tuple(row.name for row in BLUEPRINTS if topology in row.topologies)


@dataclass(frozen=True)
class Grower:
    """Plants every slot, trains each seed for a while, blends it in, holds it and makes it permanent.

    What can be finished goes first, then what can move on, then planting; lower slots before higher ones.
    """

    blueprints: Sequence[Sequence[str]]
    """Names `[envs][slots]`; shorter lists repeat."""
    training_epochs: int
    """Epochs that a seed spends in TRAINING."""
    styles: Sequence[Style] = (Style.SIGMOID_ADD,)
    """Styles by environment and slot in turn."""
    tempo: int = 1
    """Choice of the tempo head."""
    alpha_target: int = 2
    """Choice of the alpha-target head; a seed whose target is below 1 stays BLENDING."""
    released: Sequence[int] = (-1,)
    """Bit masks of the slots that may leave TRAINING, by environment in turn."""
    start: int = 0
    """Epochs that the host trains alone before the first seed is planted."""

    def act(self, simulation: Simulation) -> Ints:
        """The next action of every environment."""
        vectors = waiting(simulation.envs)
        legal, slots = simulation.legality().copy(), simulation.slots
        masks = np.resize(self.released, simulation.envs)[:, None] >> np.arange(simulation.num_slots) & 1
        trained = (slots.epochs_in_stage >= self.training_epochs) & masks.astype(bool)
        legal[:, Op.ADVANCE] &= (slots.stage != Stage.TRAINING) | trained
        legal[:, Op.GERMINATE] &= (simulation.signals.epoch >= self.start)[:, None]
        ready = legal[:, PRIORITY]
        first = ready.reshape(simulation.envs, -1).argmax(1)
        priority, slot = np.divmod(first, simulation.num_slots)
        vectors[:, HEAD_INDEX["op"]] = np.where(ready.any((1, 2)), np.array(PRIORITY)[priority], Op.WAIT)
        vectors[:, HEAD_INDEX["slot"]] = slot
        vectors[:, HEAD_INDEX["tempo"]] = self.tempo
        vectors[:, HEAD_INDEX["alpha_target"]] = self.alpha_target
        names = blueprint_names()
        for env, place in enumerate(slot.tolist()):
            row = self.blueprints[env % len(self.blueprints)]
            vectors[env, HEAD_INDEX["blueprint"]] = names.index(row[place % len(row)])
            vectors[env, HEAD_INDEX["style"]] = self.styles[(env + place) % len(self.styles)]
        return vectors
