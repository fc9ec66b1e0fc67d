"""What the monitors said while the policy learned."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from esper_agent.metrics import Metrics, warnings


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
