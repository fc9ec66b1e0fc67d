"""The table of what pages can ask for, and how it comes into them.

A page asks with a line such as `<!-- generated: heads -->`, or `<!-- generated: tasks digits -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

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
    "lifecycle-diagram": diagrams.lifecycle,
    "curves": diagrams.curves,
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
    "api": api.reference,
}
"""What each name stands for; those of `tasks` and `api` take an argument."""

MARKER = re.compile(r"^<!-- generated: ([\w-]+)(?: ([\w.]+))? -->$", re.MULTILINE)


def fill(page: str) -> str:
    """A page with everything in it that it asks for."""
    return MARKER.sub(_section, page)


def _section(marker: re.Match[str]) -> str:
    name, argument = marker.groups()
    if name not in SECTIONS:
        raise KeyError(unknown_name("section", name, SECTIONS))
    return SECTIONS[name](*([] if argument is None else [argument]))
