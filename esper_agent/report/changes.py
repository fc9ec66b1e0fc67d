"""What the policy does and is paid for: a family of metrics at the beginning and at the end of the training."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from esper_agent.metrics import Metrics
from esper_agent.report.tables import bar, table


def then_and_now(updates: Sequence[Metrics], prefix: str, unit: str, *, percent: bool) -> str:
    """The metrics of a family in the first and the last tenth of the training, the last one with a bar."""
    tenth = max(1, len(updates) // 10)
    names = [name for name in updates[0] if name.startswith(prefix)]
    now = {name: _mean(updates[-tenth:], name) for name in names}
    largest = max((abs(value) for value in now.values()), default=1.0) or 1.0
    rows = []
    for name in sorted(names, key=lambda name: -abs(now[name])):
        values = [
            f"{v:.1%}" if percent else f"{round(v, 3) + 0.0:+.3f}" for v in (_mean(updates[:tenth], name), now[name])
        ]
        drawn = bar(abs(now[name]) / largest, loss=now[name] < 0)
        rows.append([escape(name.removeprefix(prefix)), *values, drawn])
    head = [prefix.removesuffix("/"), "first tenth", "last tenth", "as a bar"]
    return table(f"{unit}, at the beginning and the end of the training", head, rows)


def _mean(updates: Sequence[Metrics], name: str) -> float:
    values = [update[name] for update in updates if name in update]
    return sum(values) / len(values) if values else float("nan")
