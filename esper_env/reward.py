"""The reward: an honest objective paid as it happens, and shaping that is a potential of the whole state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import attrgetter
from typing import Any

import numpy as np

from esper_env.actions import Op
from esper_env.arrays import Arrays, Bools, Floats, Ints
from esper_env.config import ConfigError, RewardConfig, unknown_name
from esper_env.lifecycle.stages import BLENDED, FOSSIL, Stage

YOUNG = 5
"""Age below which `minimal` punishes a prune."""

STANDARD = RewardConfig()
"""The weights that the objective is measured at."""
OBJECTIVE_WEIGHTS = (
    "progress",
    "rent",
    "shock",
    "germinate_cost",
    "set_alpha_cost",
    "prune_cost",
    "fossilize_cost",
    "governor",
)
"""Weights that its terms depend on."""
_objective_weights = attrgetter(*OBJECTIVE_WEIGHTS)

STAGE_WEIGHT: Floats = np.zeros(len(Stage))
STAGE_WEIGHT[[Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED]] = 1, 2, 3.5, 5.5, 6


@dataclass
class Moment(Arrays):
    """What the reward needs to know about a state: `[envs]` scores and `[envs, slots]` seeds."""

    score: Floats
    committed: Floats
    stage: Ints
    shapley: Floats
    alpha: Floats
    algorithm: Ints
    params: Ints
    age: Ints


@dataclass
class Transition:
    """One step: the states around it, and what was in force in the epoch trained between them.

    `trained_*` are `[envs, slots]`, taken before the governor pruned anything, so that its prunes cost no shock.
    `after` is taken after everything, a rollback included. `op` is the op executed, WAIT where it was refused.
    """

    before: Moment
    after: Moment
    trained_alpha: Floats
    trained_params: Ints
    trained_algorithm: Ints
    op: Ints
    slot: Ints
    rolled_back: Bools
    terminated: Bools
    hindsight: Floats
    max_epochs: int
    budget: float


Terms = dict[str, Floats]
RewardFunction = Callable[[Transition, RewardConfig], Terms]


def progress(step: Transition, config: RewardConfig) -> Floats:
    """The change of the score."""
    return config.progress * (step.after.score - step.before.score)


def forfeit(step: Transition, config: RewardConfig) -> Floats:
    """At the end, the part of the score that was never made permanent is lost."""
    return np.where(step.terminated, config.progress * (step.after.committed - step.after.score), 0.0)


def rent(step: Transition, config: RewardConfig) -> Floats:
    """Blended parameters cost by size and time."""
    used = (step.trained_alpha * step.trained_params).sum(1)
    return np.asarray(-config.rent / step.max_epochs / step.budget * used)


def shock(step: Transition, config: RewardConfig) -> Floats:
    """Changing alpha at once costs more than changing it gradually."""
    old, now = step.before.alpha, step.trained_alpha
    jolt = (now - old) ** 2
    # Where one side is 0 both formulas agree, so only a seed blended on both sides can tell a switch.
    switched = step.before.algorithm != step.trained_algorithm
    if switched.any():
        jolt = np.where(switched, old**2 + now**2, jolt)
    params = np.where(step.trained_params > 0, step.trained_params, step.before.params)
    return np.asarray(-config.shock / step.budget * (jolt * params).sum(1))


def op_cost(step: Transition, config: RewardConfig) -> Floats:
    """A small price on every executed op that changes something."""
    prices = _prices(config.germinate_cost, config.set_alpha_cost, config.prune_cost, config.fossilize_cost)
    return -prices.take(step.op)


@cache
def _prices(germinate: float, set_alpha: float, prune: float, fossilize: float) -> Floats:
    prices = np.zeros(len(Op))
    prices[[Op.GERMINATE, Op.SET_ALPHA_TARGET, Op.PRUNE, Op.FOSSILIZE]] = germinate, set_alpha, prune, fossilize
    return prices


def governor(step: Transition, config: RewardConfig) -> Floats:
    """The price of a rollback."""
    return np.where(step.rolled_back, -config.governor, 0.0)


def attribution_potential(moment: Moment, config: RewardConfig) -> Floats:
    """What the blended seeds add to the score, each its Shapley value."""
    return np.asarray(config.attribution * np.where(BLENDED.take(moment.stage), moment.shapley, 0.0).sum(1))


def stage_potential(moment: Moment, config: RewardConfig) -> Floats:
    """How far the seeds have come."""
    return np.asarray(config.stage * STAGE_WEIGHT.take(moment.stage).sum(1))


def potential(moment: Moment, config: RewardConfig) -> Floats:
    """Φ of the whole state, `[envs]`."""
    return attribution_potential(moment, config) + stage_potential(moment, config)


def _shaping(step: Transition, config: RewardConfig, phi: Callable[[Moment, RewardConfig], Floats]) -> Floats:
    """γΦ(s') - Φ(s), with Φ = 0 after the last step: it sums to nothing over an episode, so it cannot be farmed."""
    return np.where(step.terminated, 0.0, config.gamma * phi(step.after, config)) - phi(step.before, config)


OBJECTIVE = ("progress", "forfeit", "rent", "shock", "op_cost", "governor")


def objective_terms(step: Transition, config: RewardConfig) -> Terms:
    """What the episode is really worth."""
    return {
        "progress": progress(step, config),
        "forfeit": forfeit(step, config),
        "rent": rent(step, config),
        "shock": shock(step, config),
        "op_cost": op_cost(step, config),
        "governor": governor(step, config),
    }


def shaped_terms(step: Transition, config: RewardConfig) -> Terms:
    """The objective, the shaping and the hindsight."""
    return objective_terms(step, config) | {
        "attribution": _shaping(step, config, attribution_potential),
        "stage": _shaping(step, config, stage_potential),
        "hindsight": step.hindsight,
    }


def simplified_terms(step: Transition, config: RewardConfig) -> Terms:
    """The score, and a price on doing anything."""
    return {
        "progress": progress(step, config),
        "forfeit": forfeit(step, config),
        "activity": np.where(step.op != Op.WAIT, -config.simplified_cost, 0.0),
    }


def sparse_terms(step: Transition, config: RewardConfig) -> Terms:
    """Only the result, at the end: the committed score and the size of what was committed."""
    fossil_params = np.where(FOSSIL.take(step.after.stage), step.after.params, 0).sum(1)
    return {
        "committed": np.where(step.terminated, config.progress * step.after.committed, 0.0),
        "size": np.where(step.terminated, -config.rent / step.budget * fossil_params, 0.0),
    }


def minimal_terms(step: Transition, config: RewardConfig) -> Terms:
    """The result, and a price on pruning a seed before it could show anything."""
    age = step.before.age[np.arange(len(step.op)), step.slot]
    hasty = (step.op == Op.PRUNE) & (age < YOUNG)
    return sparse_terms(step, config) | {"early_prune": np.where(hasty, -config.minimal_prune_cost, 0.0)}


REWARDS: dict[str, RewardFunction] = {
    "shaped": shaped_terms,
    "objective": objective_terms,
    "simplified": simplified_terms,
    "sparse": sparse_terms,
    "minimal": minimal_terms,
}


def register_reward(name: str, function: RewardFunction) -> None:
    """Make `function` available as the reward mode `name`; it returns the named terms `[envs]` of a transition."""
    if not isinstance(name, str) or not callable(function):
        raise ConfigError(f"register_reward takes a name and a function, got {name!r} and {function!r}.")
    if REWARDS.get(name, function) is not function:
        raise ConfigError(f"A reward named {name!r} exists already; choose another name.")
    REWARDS[name] = function


def resolve(reward: str | Mapping[str, Any] | RewardConfig | None) -> RewardConfig:
    """The reward that a user asked for: a mode's name, a dict of weights (maybe with `mode`), or a config."""
    if isinstance(reward, str):
        reward = {"mode": reward}
    config = RewardConfig.from_mapping("reward", reward)
    if config.mode not in REWARDS:
        raise ConfigError(unknown_name("reward mode", config.mode, REWARDS))
    return config


def terms(transition: Transition, config: RewardConfig) -> Terms:
    """The named terms that `config.mode` pays for this step, `[envs]` each."""
    return REWARDS[config.mode](transition, config)


def term_names(transition: Transition, config: RewardConfig) -> list[str]:
    """Names of the terms that `config.mode` pays, in their order; refuses a mode whose terms are no arrays `[envs]`."""
    paid, envs = terms(transition, config), len(transition.op)
    if not isinstance(paid, Mapping) or not paid or not all(isinstance(name, str) for name in paid):
        raise ConfigError(f"Reward {config.mode!r} must return a dict with at least one named term, got {paid!r}.")
    for name, term in paid.items():
        if not isinstance(term, np.ndarray) or term.shape != (envs,):
            raise ConfigError(
                f"Reward {config.mode!r} must pay every term as an array with a number for each of the {envs} "
                f"environments; its {name!r} is {term!r}."
            )
    return list(paid)


def total(terms: Terms) -> Floats:
    """The reward: the terms added in their order, so that whoever adds them again gets the same number."""
    return reduce(np.add, terms.values())


def objective(transition: Transition, config: RewardConfig, paid: Terms | None = None) -> Floats:
    """The objective, whatever the mode pays and at whatever weights, so that returns can be compared.

    Built-in modes that pay it at its own weights have it in `paid`.
    """
    if paid is not None and config.mode in ("shaped", "objective") and _standard(config):
        return total({name: paid[name] for name in OBJECTIVE})
    return total(objective_terms(transition, STANDARD))


def _standard(config: RewardConfig) -> bool:
    return _objective_weights(config) == _objective_weights(STANDARD)
