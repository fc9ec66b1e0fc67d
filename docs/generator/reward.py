"""Reward terms, modes and weights; what a weight is for is found by changing it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from docs.generator.markdown import attribute_docs, code, codes, default, first_line, table
from esper_env import reward, scaffolding
from esper_env.actions import Op
from esper_env.config import RewardConfig
from esper_env.lifecycle.stages import Stage
from esper_env.reward import OBJECTIVE, REWARDS, STAGE_WEIGHT, Moment, Transition

MEANING: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(reward, name) for name in OBJECTIVE},
    "attribution": reward.attribution_potential,
    "stage": reward.stage_potential,
    "hindsight": scaffolding.settle,
}
SHIPPED = tuple(mode for mode, function in REWARDS.items() if function.__module__ == reward.__name__)
"""The modes that come with the package, without those that a user registered."""


def _moment(score: float, stage: Stage, alpha: float) -> Moment:
    """One state per op, each with one seed."""
    envs = len(Op)

    def slots(value: float, kind: type = float) -> Any:
        return np.full((envs, 1), value, kind)

    return Moment(
        score=np.full(envs, score),
        committed=np.full(envs, score / 2),
        stage=slots(stage, int),
        shapley=slots(score / 10),
        alpha=slots(alpha),
        algorithm=slots(0, int),
        params=slots(100, int),
        age=slots(1, int),
    )


def _transition(hindsight: float) -> Transition:
    """The last step of six episodes, one for each op, in which everything that costs or pays happens."""
    yes = np.ones(len(Op), bool)
    return Transition(
        before=_moment(30.0, Stage.BLENDING, 0.4),
        after=_moment(50.0, Stage.FOSSILIZED, 1.0),
        trained_alpha=np.full((len(Op), 1), 1.0),
        trained_params=np.full((len(Op), 1), 100),
        trained_algorithm=np.zeros((len(Op), 1), int),
        op=np.arange(len(Op)),
        slot=np.zeros(len(Op), int),
        rolled_back=yes,
        terminated=np.arange(len(Op)) > 0,
        hindsight=np.full(len(Op), hindsight),
        max_epochs=50,
        budget=100.0,
    )


def terms(mode: str, config: RewardConfig | None = None, hindsight: float = 1.0) -> dict[str, Any]:
    """The named terms that a mode pays in that step."""
    return REWARDS[mode](_transition(hindsight), config or RewardConfig())


def term_table() -> str:
    """The terms of the default mode: what they are, and to which part they belong."""
    rows = []
    for name in terms("shaped"):
        part = "objective" if name in OBJECTIVE else "hindsight" if name == "hindsight" else "shaping"
        rows.append((code(name), part, _meaning(name)))
    return table(("Term", "Part", "Meaning"), rows)


def _meaning(name: str) -> str:
    if name == "hindsight":
        return first_line(scaffolding).removeprefix("Hindsight: ").capitalize()
    return first_line(MEANING[name])


def mode_table() -> str:
    """Every mode, and the terms that it pays."""
    rows = ((code(mode), first_line(REWARDS[mode]), codes(terms(mode))) for mode in SHIPPED)
    return table(("Mode", "Meaning", "Terms"), rows)


def weight_table() -> str:
    """Every option of `RewardConfig`: its default, and the terms that change with it."""
    docs, rows = attribute_docs(RewardConfig), []
    for field in fields(RewardConfig):
        rows.append((code(field.name), default(field), codes(weighed(field.name)), docs.get(field.name, "")))
    return table(("Option", "Default", "Changes the terms", "Meaning"), rows)


def weighed(option: str) -> list[str]:
    """The terms, of whatever mode, that a weight is in."""
    config = RewardConfig()
    value = getattr(config, option)
    if isinstance(value, str):
        return []
    other = replace(config, **{option: value / 2})
    found = []
    for mode in SHIPPED:
        mine, theirs = terms(mode, config), terms(mode, other)
        found += [name for name in mine if not np.array_equal(mine[name], theirs[name])]
    if f"config.{option}" in inspect.getsource(scaffolding.settle):
        found.append("hindsight")
    return list(dict.fromkeys(found))


def stage_weights() -> str:
    """How much the stage potential gives to a seed in each stage."""
    rows = ((code(stage.name), f"{STAGE_WEIGHT[stage]:g}") for stage in Stage if STAGE_WEIGHT[stage])
    return table(("Stage", "Weight"), rows)
