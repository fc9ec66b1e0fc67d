"""The learning curve: objective return against environment steps, beside what the policies reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from esper_agent.evaluate import Estimate
from esper_agent.metrics import Metrics


@dataclass(frozen=True)
class Frame:
    """Where values lie on the picture."""

    steps: float
    low: float
    high: float
    width: int = 900
    height: int = 380
    left: int = 46
    right: int = 200
    top: int = 12
    bottom: int = 42

    def x(self, steps: float) -> float:
        """Horizontal place of a number of environment steps."""
        return self.left + (self.width - self.left - self.right) * steps / self.steps

    def y(self, value: float) -> float:
        """Vertical place of a return."""
        share = (value - self.low) / (self.high - self.low)
        return self.top + (self.height - self.top - self.bottom) * (1 - share)


def curve(runs: Sequence[Sequence[Metrics]], results: Mapping[str, Mapping[str, Estimate]], trained: str) -> str:
    """Objective return of the training episodes against steps, with what the policies reach on held-out seeds.

    Args:
        runs: metrics of every update, for one run or for several of the same policy.
        results: what `summarise` returns.
        trained: name of the policy that was trained.
    """
    name = "episode/objective_return"
    lines = [[(row["steps"], row[name]) for row in updates if name in row] for updates in runs]
    held_out = {agent: columns["objective return"] for agent, columns in results.items()}
    values = [value for line in lines for _, value in line]
    values += [bound for e in held_out.values() for bound in (e.low, e.high)]
    margin = 0.05 * (max(values) - min(values) or 1.0)
    frame = Frame(max(updates[-1]["steps"] for updates in runs), min(values) - margin, max(values) + margin)
    shapes = _axes(frame)
    for column, (agent, reached) in enumerate(held_out.items()):
        shapes += _reached(frame, reached, _colour(agent, trained), column, is_line=agent != trained)
    width = 2 if len(lines) == 1 else 1.5
    for line in lines:
        path = " ".join(f"{frame.x(steps):.1f},{frame.y(value):.1f}" for steps, value in line)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="var(--trained)" stroke-width="{width}"/>')
    shapes += _labels(frame, held_out, trained)
    described = (
        f"Objective return over {frame.steps:,.0f} environment steps{' beside the baselines' if held_out else ''}"
    )
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{described}">{"".join(shapes)}</svg>'
    )


def _colour(agent: str, trained: str) -> str:
    return "var(--trained)" if agent == trained else f"var(--{agent}, var(--ink))"


def _axes(frame: Frame) -> list[str]:
    shapes = []
    end = frame.width - frame.right
    for value in _ticks(frame.low, frame.high):
        y = frame.y(value)
        shapes.append(f'<line x1="{frame.left}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--grid)"/>')
        shapes.append(f'<text x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    shapes.append(f'<text x="{frame.left + 6}" y="{frame.top + 4}">objective return</text>')
    foot = frame.height - frame.bottom
    for steps in _ticks(0, frame.steps):
        shapes.append(f'<text x="{frame.x(steps):.1f}" y="{foot + 18}" text-anchor="middle">{steps:,.0f}</text>')
    middle = (frame.left + end) / 2
    shapes.append(f'<text x="{middle}" y="{frame.height - 6}" text-anchor="middle">environment steps</text>')
    return shapes


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers in a range."""
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _reached(frame: Frame, value: Estimate, colour: str, column: int, *, is_line: bool) -> list[str]:
    """A policy's result: its interval beyond the end of the curve, and for a baseline a line to compare with."""
    end, y, top, bottom = frame.width - frame.right, *(f"{frame.y(v):.1f}" for v in (value.mean, value.high, value.low))
    x = end + 12 + 11 * column
    line = (
        f'<line x1="{frame.left}" x2="{x}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="1.5" '
        'stroke-dasharray="6 4" opacity="0.8"/>'
    )
    interval = f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="{colour}" stroke-width="2"/>'
    dot = f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>'
    return [line, interval, dot] if is_line else [interval, dot]


def _labels(frame: Frame, held_out: Mapping[str, Estimate], trained: str) -> list[str]:
    """Names at the right of what they name, moved apart where they would overlap."""
    shapes, last = [], float("-inf")
    x = frame.width - frame.right + 24 + 11 * len(held_out)
    for agent, value in sorted(held_out.items(), key=lambda item: -item[1].mean):
        last = max(frame.y(value.mean) + 4, last + 16)
        weight = ' font-weight="bold"' if agent == trained else ""
        shapes.append(
            f'<text x="{x}" y="{last:.1f}" style="fill:{_colour(agent, trained)}"{weight}>'
            f"{escape(agent)} {value.mean:.2f}</text>"
        )
    return shapes


COLOURS = """:root {
  color-scheme: light dark;
  --ink: #1d2530; --soft: #5b6672; --paper: #fff; --grid: #e3e7ec;
  --trained: #1f5fc4; --wait: #6b7480; --random: #b4540a; --schedule: #157a4b; --heuristic: #8a3ab0; --loss: #c23b3b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e8ed; --soft: #9aa5b1; --paper: #14181d; --grid: #2b323b;
    --trained: #74a9ff; --wait: #a3adb8; --random: #f0a35e; --schedule: #62cf98; --heuristic: #cf9bea; --loss: #ef8484;
  }
}
"""
