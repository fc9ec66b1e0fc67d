"""Which blueprints are planted, and what becomes of the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from esper_agent.report.tables import row, table
from esper_env.actions import HEAD_INDEX, Op, blueprint_names
from esper_env.lifecycle.stages import Stage


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


def fates_table(accounts: Sequence[Mapping[str, Any]]) -> str:
    """The fates as a table."""
    lines = [row("th", ["", "planted", "fossilized", "pruned", "unfinished at the end"])]
    for name, counts in sorted(fates(accounts).items(), key=lambda item: -item[1]["planted"]):
        shares = (f"{counts[fate] / counts['planted']:.0%}" for fate in ("fossilized", "pruned", "unfinished"))
        lines.append(row("td", [escape(name), f"{counts['planted']:,}", *shares]))
    return table(lines)
