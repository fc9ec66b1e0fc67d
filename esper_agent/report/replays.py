"""Recorded episodes as the page replays them: chosen, labelled, and as compact numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from esper_agent.recording import Recording, choose
from esper_agent.report.tables import table
from esper_env.actions import CAUSAL_MASK, HEAD_INDEX, action_heads, blueprint_names
from esper_env.counterfactuals import coalitions
from esper_env.lifecycle.stages import BLENDED, COOLDOWN, Stage
from esper_env.options import resolve
from esper_env.render.frame import MEANING, PAYS, blocks_before, words
from esper_env.reward import OBJECTIVE


@dataclass(frozen=True)
class Replay:
    """A recording and what to call it."""

    label: str
    recording: Recording


def replays(trained: Sequence[Recording], others: Sequence[Recording], count: int) -> list[Replay]:
    """The best, the worst and some between of a policy, then what the others made of the same host.

    Args:
        trained: episodes of the policy that the page is about.
        others: episodes of the policies beside it; taken are those with the seed of the middle one chosen.
        count: how many of the first.
    """
    chosen = choose(trained, count)
    found = [Replay(_label(recording, _rank(place, len(trained))), recording) for place, recording in chosen.items()]
    if chosen:
        middle = list(chosen.values())[len(chosen) // 2]
        found += [
            Replay(_label(other, f"on the host of seed {other.seed}"), other)
            for other in others
            if other.seed == middle.seed
        ]
    return found


def _rank(place: int, count: int) -> str:
    if place in (1, count):
        return f"{'best' if place == 1 else 'worst'} of {count} episodes"
    return f"rank {place} of {count} episodes"


def _label(recording: Recording, which: str) -> str:
    seed = "" if recording.seed is None or str(recording.seed) in which else f", seed {recording.seed}"
    return f"{recording.agent}: {which}{seed}, returns {recording.objective_return:.2f}"


def data(shown: Sequence[Replay], env_options: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page's script needs to know."""
    config, task = resolve({name: value for name, value in env_options.items() if name not in _VECTOR})
    heads = action_heads(config.num_slots)
    channels = (slot.channels for slot in task.host.slots)
    return {
        "task": config.task,
        "epochs": config.max_epochs,
        "slots": [
            {"blocks": blocks, "channels": width}
            for blocks, width in zip(blocks_before(task.host), channels, strict=True)
        ],
        "stages": [
            {
                "name": stage.name,
                "meaning": MEANING[stage],
                "used": bool(BLENDED[stage]),
                "cooling": bool(COOLDOWN[stage]),
            }
            for stage in Stage
        ],
        "permanent": int(Stage.FOSSILIZED),
        "empty": int(Stage.DORMANT),
        "blueprints": blueprint_names(),
        "heads": [{"name": head.name, "choices": head.choices, "canonical": head.canonical} for head in heads],
        "op": HEAD_INDEX["op"],
        "matters": CAUSAL_MASK.astype(int).tolist(),
        "coalitions": coalitions(config.num_slots).tolist(),
        "objective": OBJECTIVE,
        "terms": {name: pay.meaning for name, pay in PAYS.items()},
        "replays": [_numbers(replay, config.num_slots) for replay in shown],
    }


_VECTOR = ("chunk", "threads", "max_episode_steps")


def _numbers(replay: Replay, num_slots: int) -> dict[str, Any]:
    """A recording as plain data; what is not known is left out."""
    recording = replay.recording
    states = recording.states
    series = {
        "accuracy": "val_accuracy",
        "score": "score",
        "committed": "committed_accuracy",
        "test": "test_accuracy",
        "executed": "action_executed",
        "rolled_back": "rolled_back",
        "host_params": "host_params",
        "params": "seed_params",
        "objective": "objective_reward",
        "shapley": "shapley",
        "coalition": "coalition_score",
        "stage": "stage",
        "alpha": "alpha",
        "blueprint": "blueprint_index",
    }
    told = {short: _compact(states[name]) for short, name in series.items() if name in states}
    told |= {
        "label": replay.label,
        "total": round(recording.objective_return, 4),
        "action": recording.action.tolist(),
        "said": [words(action, num_slots) for action in recording.action.tolist()],
        "terms": {name: _compact(term, 4) for name, term in recording.terms.items()},
    }
    if recording.probabilities is not None:
        sizes = [head.size for head in action_heads(num_slots)]
        chances = np.where(np.isnan(recording.probabilities), -1, recording.probabilities)
        told["chances"] = [[_compact(p[:n]) for p, n in zip(step, sizes, strict=True)] for step in chances]
    if recording.values is not None:
        told["values"] = _compact(recording.values)
    if recording.chosen is not None:
        told["chosen"] = _compact(recording.chosen)
    return told


def _compact(array: npt.NDArray[Any], digits: int = 3) -> Any:
    """Rounded numbers, without a point where they are whole; null for what is not one."""
    return _short(np.round(array.astype(float), digits).tolist())


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(each) for each in value]
    if value != value:
        return None
    return int(value) if value == int(value) else value


def as_table(replay: Replay) -> str:
    """An episode as a table: for those who would rather read than watch, and for browsers without scripts."""
    recording, names = replay.recording, blueprint_names()
    states = recording.states
    slots = range(states["stage"].shape[1])
    rows = []
    for epoch in range(1, recording.steps + 1):
        said = words(recording.action[epoch - 1].tolist(), len(slots))
        refused = "" if states["action_executed"][epoch] else " (not legal: it waited)"
        seeds = []
        for slot in slots:
            stage, blueprint = Stage(states["stage"][epoch, slot]), states["blueprint_index"][epoch, slot]
            alpha = f" {states['alpha'][epoch, slot]:.2f}" if BLENDED[stage] else ""
            seeds.append("" if stage == Stage.DORMANT else f"{names[blueprint]} {stage.name}{alpha}")
        reward = sum(term[epoch - 1] for term in recording.terms.values())
        accuracy = f"{states['val_accuracy'][epoch]:.1f} %"
        rows.append([str(epoch), escape(said + refused), accuracy, *map(escape, seeds), f"{reward:+.3f}"])
    head = ["epoch", "decision", "accuracy", *(f"slot {slot}, alpha" for slot in slots), "reward"]
    return table(replay.label, head, rows)
