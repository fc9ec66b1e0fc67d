"""`greedy`: tries plausible actions on forks of the present state, and takes the one that pays best.

An expensive reference: whoever may fork the world and look ahead for some epochs needs no policy. What the forks
train and evaluate is counted, in FLOPs and in steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.suite.playing import Played, in_company, replay, with_planning
from esper_env.actions import CANONICAL_ACTION, HEAD_INDEX, Op, blueprint_names
from esper_env.arrays import Bools, Floats, Ints
from esper_env.lifecycle.stages import Stage
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.options import resolve
from esper_env.spaces import Observation
from esper_env.testing import legal_slots
from esper_env.vector_env import SeedVectorEnv

PLANTED = ("conv_light", "depthwise")
"""Blueprints that are tried: a dear and a cheap one that both see neighbouring pixels."""
OP, SLOT, BLUEPRINT = (HEAD_INDEX[name] for name in ("op", "slot", "blueprint"))
GROUP = 10
"""Episodes planned together, after which a killed run goes on."""


@dataclass
class Plan:
    """What was decided in some episodes, and what looking ahead has cost, `[episodes]`."""

    actions: Ints
    """`[episodes, steps, 8]`."""
    flops: Floats
    steps: Ints

    @property
    def spent(self) -> list[tuple[float, int]]:
        """FLOPs and epochs that planning each episode has cost."""
        return list(zip(self.flops.tolist(), self.steps.tolist(), strict=True))


def plan(env_options: Mapping[str, Any], seeds: Sequence[int], *, every: int, horizon: int, threads: int = 1) -> Plan:
    """Decide whole episodes.

    In every `every`-th epoch each candidate is carried out on a fork, which then only finishes what it has begun, for
    `horizon` epochs; it is worth what the objective pays in that time, less the rent that its seeds will cost until
    the end. In the other epochs, and where there is nothing to choose, what has been begun is finished.
    """
    count = len(seeds)
    company = in_company(seeds)
    made = {"threads": min(threads, len(company)), "autoreset_mode": "disabled", **env_options}
    with closing(SeedVectorEnv(len(company), **made)) as env, closing(SeedVectorEnv(len(company), **made)) as fork:
        observation, info = env.reset(seed=company)
        fork.reset(seed=company)
        rent = _rent_per_parameter(env_options)
        taken: list[Ints] = []
        flops, steps = np.zeros(len(company)), np.zeros(len(company), np.int64)
        for epoch in range(env.config.max_epochs):
            choices = candidates(observation, info) if epoch % every == 0 else [finishing(observation, info)]
            action, best = choices[0], np.full(len(company), -np.inf)
            contested = np.logical_or.reduce([_differs(choice, choices[0]) for choice in choices])
            if contested.any():
                state, left = env.get_state(), env.config.max_epochs - epoch
                for choice in choices:
                    differs = contested & (_differs(choice, choices[0]) | (choice is choices[0]))
                    fork.set_state(state)
                    value, spent = _probe(fork, choice, min(horizon, left), left, rent)
                    # Where a candidate is no other than the first, nobody would have tried it.
                    better = differs & (value > best)
                    action, best = np.where(better[:, None], choice, action), np.where(better, value, best)
                    flops += np.where(differs, spent - info["flops"], 0.0)
                    steps += np.where(differs, min(horizon, left), 0)
            taken.append(action)
            observation, _, _, _, info = env.step(action)
    return Plan(np.stack(taken, 1)[:count], flops[:count], steps[:count])


def candidates(observation: Observation, info: Mapping[str, Any]) -> list[Ints]:
    """Plausible actions `[envs, 8]`: finish what is begun, plant in the first or last free slot, prune the worst.

    Where one is not legal it is replaced by the first.
    """
    first = finishing(observation, info)
    legal = legal_slots(observation)
    free, found = legal[:, Op.GERMINATE], [first]
    room: Bools = np.asarray(free.any(1))
    for slot in (free.argmax(1), free.shape[1] - 1 - free[:, ::-1].argmax(1)):
        for name in PLANTED:
            choice = np.tile(CANONICAL_ACTION, (len(first), 1))
            choice[:, OP], choice[:, SLOT], choice[:, BLUEPRINT] = Op.GERMINATE, slot, blueprint_names().index(name)
            found.append(np.where(room[:, None], choice, first))
    holding: Bools = legal[:, Op.PRUNE] & (info["stage"] == Stage.HOLDING)
    worst = np.where(holding, info["shapley"], np.inf).argmin(1)
    choice = np.tile(CANONICAL_ACTION, (len(first), 1))
    choice[:, OP], choice[:, SLOT] = Op.PRUNE, worst
    held: Bools = np.asarray(holding.any(1))
    found.append(np.where(held[:, None], choice, first))
    return found


def finishing(observation: Observation, info: Mapping[str, Any]) -> Ints:
    """Make permanent what helps, move on what can move on, wait otherwise: actions `[envs, 8]`."""
    legal = legal_slots(observation)
    action = np.tile(CANONICAL_ACTION, (len(legal), 1))
    for op, slots in (
        (Op.ADVANCE, legal[:, Op.ADVANCE]),
        (Op.FOSSILIZE, legal[:, Op.FOSSILIZE] & (info["shapley"] > 0)),
    ):
        able = slots.any(1)
        action[:, OP] = np.where(able, op, action[:, OP])
        action[:, SLOT] = np.where(able, slots.argmax(1), action[:, SLOT])
    return action


def _differs(choice: Ints, other: Ints) -> Bools:
    """Where do two choices `[envs, 8]` differ?"""
    return np.asarray((choice != other).any(1))


def _probe(fork: SeedVectorEnv, action: Ints, epochs: int, left: int, rent: float) -> tuple[Floats, Floats]:
    """What the objective pays on a fork, less the rent until the end; and the FLOPs that have been spent by then."""
    value = np.zeros(len(action))
    for epoch in range(epochs):
        observation, _, _, _, info = fork.step(action)
        value += info["objective_reward"]
        if epoch + 1 < epochs:
            action = finishing(observation, info)
    return value - rent * (left - epochs) * info["seed_params"], info["flops"]


def _rent_per_parameter(env_options: Mapping[str, Any]) -> float:
    """What a parameter in use costs in an epoch."""
    config, task = resolve(env_options)
    blueprint = IMPLEMENTATIONS[task.budget_blueprint, task.host.topology]
    budget = sum(blueprint.size(shape.channels) for shape in task.host.slots)
    return config.reward.rent / config.max_epochs / budget


def play_greedily(
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    agent: str,
    threads: int = 1,
    every: int = 3,
    horizon: int = 12,
) -> Played:
    """Plan episodes, play what was planned, and add what planning has cost."""
    planned = plan(env_options, seeds, every=every, horizon=horizon, threads=threads)
    actions = list(planned.actions)
    rows = replay(actions, env_options, seeds, agent=agent, threads=threads)
    return Played(with_planning(rows, planned.spent), actions)
