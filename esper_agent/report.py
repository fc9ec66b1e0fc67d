"""A run as one page that needs nothing else: how it learned, what it reaches beside the baselines, what it does."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from esper_agent.evaluate import (
    SUMMARY,
    Episode,
    Estimate,
    estimate,
    evaluate_named,
    evaluate_run,
    held_out_seeds,
    summarise,
    table,
    write_csv,
)
from esper_agent.loggers import read_metrics
from esper_agent.metrics import Metrics, warnings
from esper_agent.policies.baselines import BASELINES
from esper_agent.train import TrainConfig, load_config
from esper_env.actions import HEAD_INDEX, Op, blueprint_names
from esper_env.lifecycle.stages import Stage

LATEST = 500
"""Episodes of the end of the training that the fate of seeds is counted over."""


def evaluate_baselines(config: TrainConfig, episodes: int, *, threads: int = 1) -> list[Episode]:
    """What the policies that do not learn reach in the environment of a run."""
    return evaluate_named(BASELINES, config.env_options, held_out_seeds(episodes), threads=threads)


def write_report(
    run: Path, episodes: int, *, which: str = "best", threads: int = 1, baselines: Sequence[Episode] | None = None
) -> tuple[str, Path]:
    """Evaluate a run's policy and the baselines on held-out seeds and draw the page.

    Args:
        run: folder of the run.
        episodes: held-out episodes per policy.
        which: checkpoint of the run, `best` or `last`.
        threads: stacks of hosts run at the same time.
        baselines: what `evaluate_baselines` returned, where that has been done already.

    Returns:
        The table of results as text, and the path of the page; rows go to `evaluation.csv` beside it.
    """
    config = load_config(run)
    rows = evaluate_run(run, config.env_options, held_out_seeds(episodes), which=which, threads=threads)
    rows += evaluate_baselines(config, episodes, threads=threads) if baselines is None else baselines
    write_csv(run / "evaluation.csv", rows)
    return table(summarise(rows)), write_page(run, config, rows, which)


def write_page(run: Path, config: TrainConfig, rows: Sequence[Episode] = (), which: str = "last") -> Path:
    """Draw the page of a run from its files and from `rows`, the evaluation if there was one."""
    page = run / "report.html"
    page.write_text(render(run, config, rows, which))
    return page


def render(run: Path, config: TrainConfig, rows: Sequence[Episode], which: str) -> str:
    """The page."""
    updates = _updates(run / "metrics.csv")
    accounts = _accounts(run / "episodes.jsonl")
    results = summarise(rows)
    return PAGE.format(
        title=escape(f"{config.policy} on {config.task}"),
        facts=escape(
            f"{run} · seed {config.seed} · {updates[-1]['steps']:,.0f} environment steps, updates: {len(updates):,}"
        ),
        results=_results(rows, results, config.policy) if rows else "",
        results_note=escape(
            f"Mean and 95 % bootstrap interval over the same {len(rows) // len(results)} held-out episodes for all; "
            f"{config.policy} is the {which} checkpoint and acts by the mode. The lead is taken episode by episode."
            if rows
            else f"Not evaluated yet: esper report {run} plays held-out episodes with it and with the baselines."
        ),
        colours=COLOURS,
        curve=curve([updates], results, config.policy),
        curve_note=HELD_OUT if rows else "",
        ops=_then_and_now(updates, "op/", "share of steps", percent=True),
        fates=_fates(accounts),
        fates_note=f"Seeds planted in the last {len(accounts):,} training episodes, actions drawn rather than chosen.",
        terms=_then_and_now(updates, "reward/", "sum over an episode", percent=False),
        health=_health(updates),
    )


def _updates(path: Path) -> list[Metrics]:
    return [{name: float(value) for name, value in row.items() if value} for row in read_metrics(path)]


def _accounts(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines[-LATEST:]]


# Results


def _results(rows: Sequence[Episode], results: Mapping[str, Mapping[str, Estimate]], trained: str) -> str:
    returns: dict[str, dict[int, float]] = {}
    for row in rows:
        returns.setdefault(row.agent, {})[row.evaluation_seed] = row.objective_return
    lines = [_row("th", ["", *SUMMARY, "lead of the trained policy"])]
    for agent, columns in results.items():
        lead = [returns[trained][seed] - other for seed, other in returns[agent].items()]
        cells = [_interval(column) for column in columns.values()]
        cells.append("" if agent == trained else _interval(estimate(lead), sign="+"))
        lines.append(_row("td", [f"<b>{escape(agent)}</b>" if agent == trained else escape(agent), *cells]))
    return _table(lines)


def _interval(value: Estimate, sign: str = "") -> str:
    digits = 2 if abs(value.mean) < 100 else 0
    low, high = f"{value.low:{sign},.{digits}f}", f"{value.high:{sign},.{digits}f}"
    return f"{value.mean:{sign},.{digits}f} <small>{low} to {high}</small>"


# What the policy does


def _then_and_now(updates: Sequence[Metrics], prefix: str, unit: str, *, percent: bool) -> str:
    """The metrics of a family in the first and the last tenth of the training, the last one with a bar."""
    tenth = max(1, len(updates) // 10)
    names = [name for name in updates[0] if name.startswith(prefix)]
    now = {name: _mean(updates[-tenth:], name) for name in names}
    largest = max((abs(value) for value in now.values()), default=1.0) or 1.0
    lines = [_row("th", ["", f"{unit}, first tenth", "last tenth", ""])]
    for name in sorted(names, key=lambda name: -abs(now[name])):
        values = [
            f"{v:.1%}" if percent else f"{round(v, 3) + 0.0:+.3f}" for v in (_mean(updates[:tenth], name), now[name])
        ]
        bar = f'<i style="width:{8 * abs(now[name]) / largest:.2f}em"{" class=loss" * (now[name] < 0)}></i>'
        lines.append(_row("td", [escape(name.removeprefix(prefix)), *values, bar]))
    return _table(lines)


def _mean(updates: Sequence[Metrics], name: str) -> float:
    values = [row[name] for row in updates if name in row]
    return sum(values) / len(values) if values else float("nan")


def fates(accounts: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """For each blueprint, how many seeds were planted and what became of them."""
    counted: dict[str, Counter[str]] = {}
    names = blueprint_names()
    for account in accounts:
        for t, (action, executed) in enumerate(zip(account["action"], account["executed"], strict=True)):
            if executed and action[HEAD_INDEX["op"]] == Op.GERMINATE:
                slot = action[HEAD_INDEX["slot"]]
                fate = _fate(stages[slot] for stages in account["stage"][t:])
                counted.setdefault(names[action[HEAD_INDEX["blueprint"]]], Counter()).update(["planted", fate])
    return counted


def _fate(stages: Iterable[int]) -> str:
    for stage in stages:
        if stage == Stage.FOSSILIZED:
            return "fossilized"
        if stage not in (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING):
            return "pruned"
    return "unfinished"


def _fates(accounts: Sequence[Mapping[str, Any]]) -> str:
    lines = [_row("th", ["", "planted", "fossilized", "pruned", "unfinished at the end"])]
    for name, counts in sorted(fates(accounts).items(), key=lambda item: -item[1]["planted"]):
        shares = (f"{counts[fate] / counts['planted']:.0%}" for fate in ("fossilized", "pruned", "unfinished"))
        lines.append(_row("td", [escape(name), f"{counts['planted']:,}", *shares]))
    return _table(lines)


def _health(updates: Sequence[Metrics]) -> str:
    told: dict[str, list[str]] = {}
    for row in updates:
        for warning in warnings(row):
            told.setdefault(warning.split(" is ")[0], []).append(warning)
    lines = [
        f"<li>{len(said)} of {len(updates)} updates, most recently: {escape(said[-1])}</li>" for said in told.values()
    ]
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>No monitor had anything to say.</p>"


def _table(lines: Sequence[str]) -> str:
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _row(kind: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"


# The learning curve


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

HELD_OUT = "Dots with 95 % intervals, and dashed lines: trained policy and baselines on held-out seeds."

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{colours}body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2.5rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.7rem; margin: 0; }}
h2 {{ font-size: 1.1rem; margin: 2.5rem 0 .5rem; }}
p, small, th {{ color: var(--soft); }}
p {{ font-size: .9rem; max-width: 46rem; margin: .4rem 0; }}
svg {{ width: 100%; height: auto; }}
svg text {{ font: 13px system-ui, sans-serif; fill: var(--soft); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }}
th, td {{ text-align: right; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--grid); white-space: nowrap; }}
th {{ font-weight: normal; font-size: .85rem; }}
th:first-child, td:first-child, td:last-child:has(i) {{ text-align: left; }}
i {{ display: inline-block; height: .7em; background: var(--trained); border-radius: 2px; }}
i.loss {{ background: var(--loss); }}
li {{ font-size: .9rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{facts}</p>
<h2>What it reaches</h2>
{results}
<p>{results_note}</p>
<h2>How it learned</h2>
{curve}
<p>Line: mean objective return of the episodes that ended in each update, on training seeds with actions drawn.
{curve_note}</p>
<h2>What it does</h2>
{ops}
<h2>What it plants, and what becomes of it</h2>
{fates}
<p>{fates_note}</p>
<h2>What it is paid for</h2>
{terms}
<p>Means over training episodes. The shaping terms attribution and stage are potentials: discounted, each sums to zero
over an episode.</p>
<h2>What the monitors said</h2>
{health}
</body>
</html>
"""
