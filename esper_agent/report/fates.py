"""Which blueprints are planted where, and what becomes of the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from esper_agent.recording import Recording
from esper_agent.report.tables import shares, table
from esper_env.actions import HEAD_INDEX, Op, blueprint_names
from esper_env.lifecycle.stages import LIVE, Stage

FATES = ("fossilized", "pruned", "unfinished")
"""What can become of a seed by the end of its episode."""


@dataclass(frozen=True)
class Planting:
    """A seed and what became of it."""

    blueprint: str
    slot: int
    fate: str


def plantings(
    actions: Iterable[Sequence[int]], executed: Iterable[bool], stages: Sequence[Sequence[int]]
) -> Iterator[Planting]:
    """The seeds of an episode, given the action of every step, whether it was legal, and the stages after it."""
    names = blueprint_names()
    for t, (action, legal) in enumerate(zip(actions, executed, strict=True)):
        if legal and action[HEAD_INDEX["op"]] == Op.GERMINATE:
            slot = int(action[HEAD_INDEX["slot"]])
            fate = _fate(row[slot] for row in stages[t:])
            yield Planting(names[action[HEAD_INDEX["blueprint"]]], slot, fate)


def _fate(stages: Iterable[int]) -> str:
    for stage in stages:
        if stage == Stage.FOSSILIZED:
            return "fossilized"
        if not LIVE[stage]:
            return "pruned"
    return "unfinished"


def plantings_of_account(account: Mapping[str, Any]) -> list[Planting]:
    """The seeds of a line of `episodes.jsonl`."""
    return list(plantings(account["action"], account["executed"], account["stage"]))


def plantings_of_recording(recording: Recording) -> list[Planting]:
    """The seeds of a recorded episode."""
    executed, stages = (recording.states[name][1:].tolist() for name in ("action_executed", "stage"))
    return list(plantings(recording.action.tolist(), executed, stages))


def told(seeds: Iterable[Planting]) -> str:
    """The seeds of an episode in words, those that were kept first."""
    counted = Counter((FATES.index(seed.fate), seed.blueprint) for seed in seeds)
    return ", ".join(
        f"{blueprint}{f' ×{count}' if count > 1 else ''} {FATES[fate]}"
        for (fate, blueprint), count in sorted(counted.items())
    )


def fates_table(seeds: Sequence[Planting]) -> str:
    """A row per blueprint: how often it was planted, what became of it, and the same by slot."""
    slots = sorted({seed.slot for seed in seeds})
    counted = Counter(seed.blueprint for seed in seeds)
    fates = (f'<i class="swatch part{i}"></i>{fate}' for i, fate in enumerate(FATES))
    head = ["blueprint", "planted", "what became of the seeds", *fates, *(f"in slot {slot}" for slot in slots)]
    rows = []
    for blueprint, count in counted.most_common():
        own = [seed for seed in seeds if seed.blueprint == blueprint]
        fate = Counter(seed.fate for seed in own)
        cells = [escape(blueprint), f"{count:,}", shares([fate[name] / count for name in FATES])]
        cells += [f"{fate[name] / count:.0%}" for name in FATES]
        rows.append([*cells, *(_in_slot([seed for seed in own if seed.slot == slot]) for slot in slots)])
    return table("Seeds by blueprint and slot", head, rows)


def _in_slot(seeds: Sequence[Planting]) -> str:
    if not seeds:
        return "0"
    kept = sum(seed.fate == "fossilized" for seed in seeds) / len(seeds)
    return f"{len(seeds):,} <small>{kept:.0%} kept</small>"
