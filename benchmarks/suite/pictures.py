"""Pictures of results as SVG that stands alone, in the reader's choice of light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.suite.statistics import Interval

PALETTE = (
    ("#1f5fc4", "#74a9ff"),
    ("#b4540a", "#f0a35e"),
    ("#157a4b", "#62cf98"),
    ("#8a3ab0", "#cf9bea"),
    ("#6b7480", "#a3adb8"),
    ("#c23b3b", "#ef8484"),
    ("#0d7f8c", "#5fd0dd"),
    ("#8a6d00", "#dcc04a"),
)
"""Colours on light and on dark paper. When they come round again, dots are hollow and lines dashed."""
DASHES = ("", "7 4", "2 3")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Range:
    """Values from low to high along an axis."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], *, margin: float = 0.06) -> Range:
        """A range with some room on both sides."""
        low, high = min(values), max(values)
        room = margin * ((high - low) or abs(high) or 1.0)
        return cls(low - room, high + room)

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 6) -> list[float]:
        """Round numbers in the range."""
        rough = (self.high - self.low) / count
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough * (1 - 1e-9))
        return [round(i * step, 10) for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Plot:
    """The area in which values are drawn."""

    x: Range
    y: Range
    width: int = 860
    height: int = 400
    left: int = 58
    right: int = 210
    top: int = 14
    bottom: int = 46

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point."""
        return (
            self.left + (self.width - self.left - self.right) * self.x.share(x),
            self.top + (self.height - self.top - self.bottom) * (1 - self.y.share(y)),
        )

    def frame(self, x_title: str, y_title: str) -> list[str]:
        """Grid, numbers and titles."""
        shapes, right, foot = [], self.width - self.right, self.height - self.bottom
        for value in self.y.ticks():
            y = self.at(self.x.low, value)[1]
            shapes.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            shapes.append(f'<text x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
        for value in self.x.ticks():
            x = self.at(value, self.y.low)[0]
            shapes.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{foot}" y2="{foot + 5}"/>')
            shapes.append(f'<text x="{x:.1f}" y="{foot + 19}" text-anchor="middle">{_number(value)}</text>')
        shapes.append(
            f'<text x="{(self.left + right) / 2}" y="{self.height - 6}" text-anchor="middle">{x_title}</text>'
        )
        middle = (self.top + foot) / 2
        shapes.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{y_title}</text>')
        return shapes


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:g}"


def front(results: Mapping[str, tuple[float, Interval]], x_title: str, y_title: str) -> str:
    """Quality against cost: a dot with its interval for every agent, and the line of those that none dominates.

    Args:
        results: cost and quality by agent.
        x_title: what the cost is.
        y_title: what the quality is.
    """
    costs = [cost for cost, _ in results.values()]
    bounds = [bound for _, quality in results.values() for bound in (quality.low, quality.high)]
    plot = Plot(Range.around(costs), Range.around(bounds))
    shapes = plot.frame(x_title, y_title)
    best = undominated({agent: (cost, quality.value) for agent, (cost, quality) in results.items()})
    path = " ".join("{:.1f},{:.1f}".format(*plot.at(results[agent][0], results[agent][1].value)) for agent in best)
    shapes.append(f'<polyline class="front" points="{path}"/>')
    labels = {}
    for i, (agent, (cost, quality)) in enumerate(results.items()):
        x, y = plot.at(cost, quality.value)
        low, high = plot.at(cost, quality.low)[1], plot.at(cost, quality.high)[1]
        shapes.append(f'<line class="stroke c{i % 8}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        shapes.append(_dot(i, x, y))
        labels[agent] = (i, y, f"{agent} {quality.value:.1f}")
    return _svg(plot, shapes + _legend(plot, labels), f"{y_title} against {x_title}")


def _dot(index: int, x: float, y: float) -> str:
    kind = "hollow" if index // 8 % 2 else "fill"
    return f'<circle class="{kind} c{index % 8}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def undominated(results: Mapping[str, tuple[float, float]]) -> list[str]:
    """Agents than which none is both cheaper and better, from the cheapest to the dearest."""
    chosen, best = [], -math.inf
    for agent, (_, quality) in sorted(results.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            chosen.append(agent)
            best = quality
    return chosen


def intervals(results: Mapping[str, Interval], title: str) -> str:
    """A line for every agent: its estimate and its interval, the best above."""
    ordered = sorted(results.items(), key=lambda item: -item[1].value)
    bounds = [bound for _, interval in ordered for bound in (interval.low, interval.high)]
    plot = Plot(
        Range.around(bounds), Range(0, len(ordered)), height=60 + 24 * len(ordered), left=170, right=110, bottom=42
    )
    shapes, foot = [], plot.height - plot.bottom
    for value in plot.x.ticks():
        x = plot.at(value, 0)[0]
        shapes.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{plot.top}" y2="{foot}"/>')
        shapes.append(f'<text x="{x:.1f}" y="{foot + 17}" text-anchor="middle">{_number(value)}</text>')
    middle = (plot.left + plot.width - plot.right) / 2
    shapes.append(f'<text x="{middle}" y="{plot.height - 6}" text-anchor="middle">{title}</text>')
    names = list(results)
    for row, (agent, interval) in enumerate(ordered):
        colour = f"c{names.index(agent) % 8}"
        x, y = plot.at(interval.value, len(ordered) - row - 0.5)
        low, high = plot.at(interval.low, 0)[0], plot.at(interval.high, 0)[0]
        shapes.append(f'<line class="stroke {colour}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(_dot(names.index(agent), x, y))
        shapes.append(f'<text x="{plot.left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(agent)}</text>')
        shapes.append(f'<text x="{plot.width - plot.right + 10}" y="{y + 4:.1f}">{interval.value:.2f}</text>')
    return _svg(plot, shapes, title)


def curves(lines: Mapping[str, Sequence[Points]], x_title: str, y_title: str) -> str:
    """Learning curves: for every agent the mean over its trainings, in the band from the lowest to the highest."""
    everything = [point for runs in lines.values() for run in runs for point in run]
    plot = Plot(Range(0, max(x for x, _ in everything)), Range.around([y for _, y in everything]))
    shapes, labels = plot.frame(x_title, y_title), {}
    for i, (agent, runs) in enumerate(lines.items()):
        steps = list(zip(*runs, strict=False))  # as far as all of its trainings have come
        mean = [(at[0][0], sum(y for _, y in at) / len(at)) for at in steps]
        if len(runs) > 1:
            around = [(at[0][0], min(y for _, y in at)) for at in steps]
            around += [(at[0][0], max(y for _, y in at)) for at in reversed(steps)]
            shapes.append(f'<polygon class="band c{i % 8}" points="{_path(plot, around)}"/>')
        shapes.append(f'<polyline class="curve c{i % 8}"{_dash(i)} points="{_path(plot, mean)}"/>')
        last = mean[-1][1]
        labels[agent] = (i, plot.at(0, last)[1], f"{agent} {last:.2f}")
    return _svg(plot, shapes + _legend(plot, labels, lines=True), f"{y_title} over {x_title}")


def _dash(index: int) -> str:
    dash = DASHES[index // 8 % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _path(plot: Plot, points: Points) -> str:
    return " ".join("{:.1f},{:.1f}".format(*plot.at(x, y)) for x, y in points)


def _legend(plot: Plot, labels: Mapping[str, tuple[int, float, str]], *, lines: bool = False) -> list[str]:
    """Names at the right, at the height of what they name, moved apart where they would overlap."""
    ordered = sorted(labels.values(), key=lambda label: label[1])
    heights: list[float] = []
    for _, y, _ in ordered:
        heights.append(max(y + 4, heights[-1] + 16 if heights else y + 4))
    # What was pushed beyond the foot moves up again, from the last on.
    limit = plot.height - plot.bottom + 4.0
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], limit)
        limit = heights[i] - 16
    x = plot.width - plot.right + 16
    shapes = []
    for (i, _, text), y in zip(ordered, heights, strict=True):
        line = f'<line class="curve c{i % 8}"{_dash(i)} x1="{x - 4}" x2="{x + 16}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"/>'
        shapes.append(line if lines else _dot(i, x + 6, y - 4))
        shapes.append(f'<text class="name c{i % 8}" x="{x + 22}" y="{y:.1f}">{escape(text)}</text>')
    return shapes


def _svg(plot: Plot, shapes: Sequence[str], described: str) -> str:
    colours = "".join(f".c{i} {{ --colour: {light}; }}\n" for i, (light, _) in enumerate(PALETTE))
    dark = "".join(f".c{i} {{ --colour: {colour}; }} " for i, (_, colour) in enumerate(PALETTE))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {plot.width} {plot.height}" role="img" '
        f'aria-label="{escape(described)}"><style>\n'
        "svg { --paper: #fff; --soft: #5b6672; --grid: #e3e7ec; background: var(--paper); }\n"
        f"{colours}"
        "@media (prefers-color-scheme: dark) { svg { --paper: #14181d; --soft: #9aa5b1; --grid: #2b323b; } "
        f"{dark}}}\n"
        "text { font: 13px sans-serif; fill: var(--soft); } .name { fill: var(--colour); }\n"
        ".grid { stroke: var(--grid); } .fill { fill: var(--colour); }\n"
        ".hollow { fill: var(--paper); stroke: var(--colour); stroke-width: 2; }\n"
        ".stroke { stroke: var(--colour); stroke-width: 2.5; }\n"
        ".curve { fill: none; stroke: var(--colour); stroke-width: 2; }\n"
        ".band { fill: var(--colour); opacity: 0.15; }\n"
        ".front { fill: none; stroke: var(--soft); stroke-dasharray: 5 4; }\n"
        f"</style>{''.join(shapes)}</svg>\n"
    )
