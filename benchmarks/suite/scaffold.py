"""`cells`: a task in which a second seed pays only after a first one has prepared what it works on.

    python -m benchmarks.suite.scaffold

plays the scripted episodes that show it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.reports import table
from benchmarks.suite.playing import in_company
from esper_env.actions import CANONICAL_ACTION, HEAD_INDEX, Op, blueprint_names
from esper_env.arrays import Bools, Ints
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.network.cnn import CnnHost
from esper_env.tasks import Task, register_task
from esper_env.tasks.data import Dataset, Split
from esper_env.testing import legal_slots
from esper_env.vector_env import SeedVectorEnv

NAME = "cells"
SPATIAL = ("conv_light", "depthwise", "bottleneck", "conv_heavy")
"""Blueprints that see neighbouring positions."""
EXPLANATION = (
    "Nine small textures lie on a grid, three of one kind and six of the other, all with the same pixels: only a seed "
    "in the first slot that sees neighbouring pixels can tell the kinds apart. The class is which kind is rare, and "
    "whether its three cells form a row, a column or neither; for that a second seed, in a later slot, has to see "
    "neighbouring cells. Before the first seed works there is nothing for the second one to see."
)
PITCH, GRID, SIDE = 4, 3, 16


@dataclass(frozen=True)
class Cells:
    """Images of nine 2×2 textures, striped across or down, two pixels apart."""

    train: int = 1_024
    val: int = 256
    test: int = 512
    noise: float = 0.2
    generated: bool = True

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """A fresh instance drawn from `rng`."""
        rng = np.random.default_rng(0) if rng is None else rng
        return Dataset(*(self._draw(n, rng) for n in (self.train, self.val, self.test)))

    def _draw(self, n: int, rng: np.random.Generator) -> Split:
        labels = rng.permutation(np.arange(n) % 6)
        row, column = np.indices((GRID, GRID))
        place = rng.integers(0, GRID, n)[:, None, None]
        scattered = rng.permuted(np.tile(np.arange(GRID), (n, 1)), axis=1)[:, :, None] == np.arange(GRID)
        layouts = np.stack([row == place, column == place, scattered])
        rare = layouts[labels // 2, np.arange(n)]
        kind = (rare ^ (labels % 2).astype(bool)[:, None, None]).astype(int)
        # A texture fills one window of the 2×2 pooling, in which both kinds have the same mean and the same pixels.
        textures = 2.0 * np.array([[[1, 1], [-1, -1]], [[1, -1], [1, -1]]])[kind]
        images = np.zeros((n, SIDE, SIDE))
        for y in range(2):
            for x in range(2):
                images[:, 2 + y : 2 + PITCH * GRID : PITCH, 2 + x : 2 + PITCH * GRID : PITCH] = textures[..., y, x]
        images += rng.normal(0, self.noise, images.shape)
        return Split(images[..., None].astype(np.float32), labels.astype(np.int64))


TASK = Task(
    name=NAME,
    summary="Textures on a grid: the second seed pays only after the first has told them apart.",
    source=Cells(),
    host=CnnHost(1, SIDE, 6, channels=(4, 8, 16), kernel=1, pools=2),
)


def register() -> None:
    """Make the task known by name; once or many times."""
    register_task(TASK)


@dataclass(frozen=True)
class Shares:
    """In how many episodes the scaffold was found."""

    prepared: float
    """A spatial seed in the first slot was made permanent."""
    both: float
    """And one in a later slot as well."""
    in_order: float
    """And that one was planted when the first was blending or permanent already."""


def measure(actions: Mapping[tuple[int, int], Ints], env_options: Mapping[str, Any], *, threads: int = 1) -> Shares:
    """How often recorded episodes `{(training seed, evaluation seed): [steps, 8]}` build the scaffold."""
    register()
    keys = list(actions)
    seeds = [evaluation for _, evaluation in keys]
    company = in_company(seeds)
    spatial = np.isin(blueprint_names(), SPATIAL)
    with closing(SeedVectorEnv(len(company), threads=min(threads, len(company)), **env_options)) as env:
        observation, info = env.reset(seed=company)
        stage = info["stage"]
        ordered = np.zeros(stage.shape, bool)
        for step in range(env.config.max_epochs):
            before = stage
            vectors = [actions[k][step] if step < len(actions[k]) else CANONICAL_ACTION for k in keys]
            vectors += [CANONICAL_ACTION] * (len(company) - len(keys))
            observation, _, _, _, info = env.step(np.array(vectors))
            stage = info["stage"]
            planted = (before == Stage.DORMANT) & (stage == Stage.GERMINATED)
            ordered = np.where(planted, BLENDED[before[:, :1]], ordered)
        held = observation["blueprint_index"]
        permanent: Bools = (stage == Stage.FOSSILIZED) & (held >= 0) & spatial[held]
    first, later = permanent[: len(keys), 0], permanent[: len(keys), 1:]
    both = first & later.any(1)
    in_order = first & (later & ordered[: len(keys), 1:]).any(1)
    return Shares(float(first.mean()), float(both.mean()), float(in_order.mean()))


# Scripted episodes


@dataclass(frozen=True)
class Outcome:
    """What a script came to, means over its episodes."""

    objective_return: float
    test_accuracy: float
    committed_accuracy: float


def grow_in_order(
    order: Sequence[int],
    seeds: Sequence[int],
    *,
    blueprint: str = "conv_light",
    training_epochs: int = 4,
    **options: Any,
) -> Outcome:
    """Plant slot after slot, each when the one before is permanent; move on and make permanent as soon as possible."""
    register()
    op, slot, kind = (HEAD_INDEX[name] for name in ("op", "slot", "blueprint"))
    with closing(SeedVectorEnv(len(seeds), **{"task": NAME, "reward": "objective", **options})) as env:
        observation, info = env.reset(seed=list(seeds))
        returns, training = np.zeros(len(seeds)), np.zeros(info["stage"].shape, int)
        for _ in range(env.config.max_epochs):
            legal, stage = legal_slots(observation), info["stage"]
            training = np.where(stage == Stage.TRAINING, training + 1, 0)
            done = [np.ones(len(seeds), bool), *(stage[:, s] == Stage.FOSSILIZED for s in order)]
            plant = np.zeros(stage.shape, bool)
            for i, place in enumerate(order):
                plant[:, place] = np.logical_and.reduce(done[: i + 1])
            able = {
                Op.GERMINATE: legal[:, Op.GERMINATE] & plant,
                Op.ADVANCE: legal[:, Op.ADVANCE] & ((stage != Stage.TRAINING) | (training >= training_epochs)),
                Op.FOSSILIZE: legal[:, Op.FOSSILIZE],
            }
            action = np.tile(CANONICAL_ACTION, (len(seeds), 1))
            action[:, kind] = blueprint_names().index(blueprint)
            for choice, slots in able.items():
                action[:, op] = np.where(slots.any(1), choice, action[:, op])
                action[:, slot] = np.where(slots.any(1), slots.argmax(1), action[:, slot])
            observation, _, _, _, info = env.step(action)
            returns += info["objective_reward"]
    return Outcome(float(returns.mean()), float(info["test_accuracy"].mean()), float(info["committed_accuracy"].mean()))


SCRIPTS: dict[str, tuple[int, ...]] = {
    "wait": (),
    "the first alone": (0,),
    "the second alone": (1,),
    "the third alone": (2,),
    "the later two": (1, 2),
    "the first, then the second": (0, 1),
    "the first, then the third": (0, 2),
    "the third, then the first": (2, 0),
}


def main() -> None:
    """Play the scripts and print what they come to."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--episodes", type=int, default=8)
    options = parser.parse_args()
    rows = []
    for name, order in SCRIPTS.items():
        outcome = grow_in_order(order, range(options.episodes))
        rows.append([name, f"{outcome.test_accuracy:.1f}", f"{outcome.objective_return:.2f}"])
    print(table(["slots, in order", "test accuracy", "objective return"], rows))


if __name__ == "__main__":
    main()
