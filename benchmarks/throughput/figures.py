"""A measured figure beside the bar it must reach, and how ratios are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Clock = Callable[[], float]
Work = Callable[[], int]
"""Does some work and says how many units of it were done."""


@dataclass(frozen=True)
class Bar:
    """What a figure must reach."""

    limit: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        """Does the value reach the bar?"""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """The median of some samples, with its bar if there is one."""

    name: str
    unit: str
    samples: npt.NDArray[np.float64]
    bar: Bar | None = None
    detail: Mapping[str, float] = field(default_factory=dict)
    """What the figure is made of, such as the milliseconds of both sides."""

    @property
    def value(self) -> float:
        """The median."""
        return float(np.median(self.samples))

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles."""
        low, high = np.quantile(self.samples, (0.25, 0.75))
        return float(low), float(high)

    def as_row(self) -> dict[str, Any]:
        """Plain data for the JSON file."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "quartiles": [round(edge, 4) for edge in self.spread],
            "unit": self.unit,
            "bar": None if self.bar is None else str(self.bar),
            "met": None if self.bar is None else self.bar.met(self.value),
            "samples": len(self.samples),
            "detail": {name: round(value, 4) for name, value in self.detail.items()},
        }

    def as_line(self) -> list[str]:
        """Cells for the table."""
        low, high = self.spread
        verdict = "" if self.bar is None else "yes" if self.bar.met(self.value) else "NO"
        detail = ", ".join(f"{name} {value:.3g}" for name, value in self.detail.items())
        bar = "" if self.bar is None else str(self.bar)
        return [self.name, f"{self.value:.3g} {self.unit}", f"{low:.3g} to {high:.3g}", bar, verdict, detail]


def interleave(
    sides: Mapping[str, Work], rounds: int, clock: Clock = time.process_time, *, settled: bool = False
) -> dict[str, npt.NDArray[np.float64]]:
    """Seconds per unit of work of every side in every round, all sides in turn in each round.

    What the machine does beside is thus shared by all sides. Processor time, the default, leaves out what others
    do with the core. The first round warms up and is not counted; when `settled`, each side runs once more before each
    time it counts, for a core that slept through the other side takes a while to come back.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, work in sides.items():
            if settled:
                work()
            begun = clock()
            units = work()
            seconds[name].append((clock() - begun) / units)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def ratio(
    name: str,
    sides: Mapping[str, Work],
    rounds: int,
    bar: Bar | None = None,
    clock: Clock = time.process_time,
) -> Figure:
    """How many times as long the first side takes as the second, per unit of work, as `interleave` measures it."""
    slow, fast = sides
    seconds = interleave(sides, rounds, clock)
    detail = {f"ms {side}": 1e3 * float(np.median(values)) for side, values in seconds.items()}
    return Figure(name, "×", seconds[slow] / seconds[fast], bar, detail)
