"""What the policies reach on held-out seeds, as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from esper_agent.evaluate import SUMMARY, Episode, Estimate, estimate
from esper_agent.report.tables import table


def results_table(rows: Sequence[Episode], results: Mapping[str, Mapping[str, Estimate]], trained: str) -> str:
    """Mean and interval of every policy, and how far the trained one leads, episode by episode."""
    returns: dict[str, dict[int, float]] = {}
    for played in rows:
        returns.setdefault(played.agent, {})[played.evaluation_seed] = played.objective_return
    lines = []
    for agent, columns in results.items():
        lead = [returns[trained][seed] - other for seed, other in returns[agent].items()]
        cells = [_interval(column) for column in columns.values()]
        cells.append("" if agent == trained else _interval(estimate(lead), sign="+"))
        lines.append([f"<b>{escape(agent)}</b>" if agent == trained else escape(agent), *cells])
    return table("What the policies reach", ["policy", *SUMMARY, "lead of the trained policy"], lines)


def _interval(value: Estimate, sign: str = "") -> str:
    if math.isnan(value.mean):  # an episode that was cut short
        return "–"
    digits = 2 if abs(value.mean) < 100 else 0
    low, high = f"{value.low:{sign},.{digits}f}", f"{value.high:{sign},.{digits}f}"
    return f"{value.mean:{sign},.{digits}f} <small>{low} to {high}</small>"
