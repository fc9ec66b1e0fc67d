"""The health of the policy's heads while it learned, and what the monitors said."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from esper_agent.metrics import MONITORS, Metrics, warnings
from esper_agent.report.tables import line, table
from esper_env.actions import HEAD_NAMES

COLUMNS = {"kl": "KL", "clip_fraction": "clipped", "gradient_norm": "gradient norm"}
"""Families of metrics with one for each head, beside the entropy."""


def heads_table(updates: Sequence[Metrics]) -> str:
    """A row per head: how its entropy went, and where it and other signs of life stand in the last tenth."""
    last = updates[-max(1, len(updates) // 10) :]
    rows = []
    for head in HEAD_NAMES:
        entropy = [update[f"entropy/{head}"] for update in updates if f"entropy/{head}" in update]
        cells = [head, line(entropy, 0.0, 1.0), _mean(last, f"entropy/{head}")]
        rows.append([*cells, *(_mean(last, f"{family}/{head}") for family in COLUMNS), _verdict(last, head)])
    names = ["head", "entropy over the training", "entropy", *COLUMNS.values(), "state"]
    return table("Health of the heads", names, rows)


def _mean(updates: Sequence[Metrics], name: str) -> str:
    values = [update[name] for update in updates if name in update]
    return f"{sum(values) / len(values):.3g}" if values else "-"


def _verdict(updates: Sequence[Metrics], head: str) -> str:
    name = f"entropy/{head}"
    low = next(monitor.low for monitor in MONITORS if monitor.metric == name)
    known = [update[name] for update in updates if name in update]
    if not known:
        return "never had a choice"
    return "explores" if sum(known) / len(known) >= low else "<b>has stopped exploring</b>"


def health(updates: Sequence[Metrics]) -> str:
    """Every monitor that spoke, how often, and what it said last."""
    told: dict[str, list[str]] = {}
    for update in updates:
        for warning in warnings(update):
            told.setdefault(warning.split(" is ")[0], []).append(warning)
    lines = [
        f"<li>{len(said)} of {len(updates)} updates, most recently: {escape(said[-1])}</li>" for said in told.values()
    ]
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>No monitor had anything to say.</p>"
