"""Figures of speed for the hosts of other tasks: photographs, by random pixels, and texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.throughput.figures import Bar, Figure, Work, interleave
from benchmarks.throughput.states import MIXES, alone, blending, naive, naive_steps, steps
from esper_env.simulation import Simulation
from esper_env.tasks import TASKS, register_task
from esper_env.tasks.data import Dataset, Split

PHOTOGRAPHS = {"cifar10_impaired": (Bar(3.0), (4, 8, 16)), "cifar10_baseline": (Bar(1.6), (1, 2, 4))}
"""Tasks with their bars, and the hosts per stack that are tried; 1 stands for hosts that run alone."""
BLENDED_BAR = Bar(3.0)
HOSTS = 16
MIX = MIXES[0]


@dataclass(frozen=True)
class Noise:
    """Random pixels in the shape of CIFAR-10, few enough that an epoch is short."""

    generated = False

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """The same noise for everybody."""
        rng = np.random.default_rng(0)

        def draw(count: int) -> Split:
            pixels = rng.normal(0, 1, (count, 32, 32, 3)).astype(np.float32)
            return Split(pixels, rng.integers(0, 10, count))

        return Dataset(draw(512), draw(256), draw(256))


_NOISE = Noise()


def photographs(rounds: int) -> list[Figure]:
    """Hosts of CIFAR-10 at the best chunk against the naive environment, without augmentation on either side."""
    figures = []
    for name, (bar, chunks) in PHOTOGRAPHS.items():
        task = register_task(replace(TASKS[name], name=f"noise_{name}", source=_NOISE, augment=False)).name
        sides = {"naive": naive_steps([naive(name=task)])}
        sides |= {f"chunk {chunk}": _alone(task, chunk) for chunk in chunks}
        figures.append(_best(f"{name}: no seeds, best chunk against naive", sides, rounds, bar))
        if name == "cifar10_baseline":
            sides = {"naive": naive_steps([naive(MIX, name=task)])}
            sides |= {f"chunk {chunk}": _blending(task, chunk) for chunk in chunks}
            figures.append(_best(f"{name}: three blending seeds, best chunk against naive", sides, rounds, BLENDED_BAR))
    return figures


def _alone(task: str, chunk: int) -> Work:
    return steps([alone(1 if chunk == 1 else HOSTS, task=task, chunk=chunk)])


def _blending(task: str, chunk: int) -> Work:
    return steps([blending(1 if chunk == 1 else HOSTS, [MIX], task=task, chunk=chunk)])


def _best(name: str, sides: dict[str, Work], rounds: int, bar: Bar) -> Figure:
    """The quickest of all sides against the first."""
    seconds = interleave(sides, max(rounds // 3, 2))
    slow, *others = seconds
    best = min(others, key=lambda side: float(np.median(seconds[side])))
    detail = {f"ms {side}": 1e3 * float(np.median(values)) for side, values in seconds.items()}
    return Figure(f"{name} ({best})", "×", seconds[slow] / seconds[best], bar, detail)


def texts(rounds: int) -> list[Figure]:
    """Language hosts: many stacked against one."""
    figures = []
    for state, make in (("no seeds", alone), ("three blending seeds", _blending_texts)):
        sides = {"K=1": steps([make(1, task="story_grammar")]), "K=16": steps([make(HOSTS, task="story_grammar")])}
        seconds = interleave(sides, max(rounds // 3, 2))
        detail = {f"ms {side}": 1e3 * float(np.median(values)) for side, values in seconds.items()}
        bar = Bar(1.5) if make is alone else None
        figures.append(
            Figure(f"story_grammar: {state}, K=16 against K=1", "×", seconds["K=1"] / seconds["K=16"], bar, detail)
        )
    return figures


def _blending_texts(envs: int, task: str) -> Simulation:
    return blending(envs, [("attention", "mlp_small", "lora")], task=task)
