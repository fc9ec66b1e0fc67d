"""What pages can ask for, and how it comes into them.

A page asks for text with a line such as `<!-- generated: heads -->`, or `<!-- generated: tasks digits -->`. The text
stands below it in the page, up to `<!-- end -->`, so that it can be read wherever the page is.

What only the built site can show is asked for with a line such as `<!-- built: curves -->`. The paragraph right below
it, if there is one, is for readers of the page itself, and gives way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from docs.generator import (
    actions,
    agent,
    api,
    configuration,
    diagrams,
    lifecycle,
    observation,
    reward,
    simulation,
    speed,
    tasks,
)
from esper_env.config import unknown_name

SECTIONS: dict[str, Callable[..., str]] = {
    "heads": actions.heads,
    "causal": actions.causal,
    "op-by-stage": actions.op_by_stage,
    "blueprints": actions.blueprints,
    "stages": lifecycle.stages,
    "gates": lifecycle.gates,
    "base-features": observation.base_features,
    "slot-features": observation.slot_features,
    "info": observation.info_keys,
    "signals": simulation.signal_numbers,
    "reward-terms": reward.term_table,
    "reward-modes": reward.mode_table,
    "reward-weights": reward.weight_table,
    "stage-weights": reward.stage_weights,
    "panics": simulation.panics,
    "governor": simulation.governor_numbers,
    "streams": simulation.streams,
    "ids": configuration.ids,
    "arguments": configuration.arguments,
    "lifecycle-options": configuration.lifecycle_options,
    "training-options": configuration.training_options,
    "task-index": tasks.index,
    "tasks": tasks.sections,
    "policies": agent.policies,
    "backends": agent.backends,
    "commands": agent.commands,
    "train-options": agent.train_options,
    "ppo-options": agent.ppo_options,
    "policy-options": agent.policy_options,
    "speed": speed.speed,
}
"""The text that each name stands for; `tasks` takes a page as its argument."""

BUILT: dict[str, Callable[..., str]] = {
    "lifecycle-diagram": diagrams.lifecycle,
    "curves": diagrams.curves,
    "host": tasks.host,
    "api": api.reference,
}
"""Drawings in the colours of the site, and the reference; `host` takes a task as its argument, `api` a module."""

_ASKED = r"([\w-]+)(?: ([\w.]+))? -->$"
GENERATED = re.compile(
    rf"^<!-- generated: {_ASKED}(?:(?:(?!^<!-- generated: ).)*?^<!-- end -->$)?", re.MULTILINE | re.DOTALL
)
"""A line that asks, with the text below it; one that was just written has none yet."""
PLACE = re.compile(rf"^<!-- built: {_ASKED}(?:\n.+)*", re.MULTILINE)


def fill(page: str) -> str:
    """A page with all the text that it asks for, in place of what stood there."""

    def block(asked: re.Match[str]) -> str:
        line = asked[0].partition("\n")[0]
        return f"{line}\n\n{_answer(SECTIONS, asked)}\n\n<!-- end -->"

    return GENERATED.sub(block, page)


def build(page: str) -> str:
    """A page with what only the built site can show."""
    return PLACE.sub(lambda asked: _answer(BUILT, asked), page)


def _answer(known: Mapping[str, Callable[..., str]], asked: re.Match[str]) -> str:
    name, argument = asked.groups()
    if name not in known:
        raise KeyError(unknown_name("section", name, known))
    return known[name](*([] if argument is None else [argument]))
