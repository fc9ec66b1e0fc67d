"""Playing held-out episodes: any policy, or recorded actions, through the one evaluation of `esper_agent`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from esper_agent.evaluate import Episode, evaluate
from esper_env.actions import CANONICAL_ACTION
from esper_env.arrays import Ints


@dataclass(frozen=True)
class Played:
    """Episodes, and the actions `[steps, 8]` of each."""

    episodes: list[Episode]
    actions: list[Ints]


def in_company(seeds: Sequence[int]) -> list[int]:
    """The seeds to play, with another where there is only one.

    A host alone runs on other kernels than a stack, with other bits; with a companion the bits of an episode depend on
    nothing but its seed and its actions.
    """
    return [*seeds, seeds[0] + 1] if len(seeds) == 1 else list(seeds)


def play(
    policy: TensorDictModuleBase,
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    agent: str,
    training_seed: int = -1,
    temperature: float = 1.0,
    threads: int = 1,
) -> Played:
    """Play one episode per seed, drawing at this temperature, and record the actions."""
    company = in_company(seeds)
    taken: list[Ints] = []

    def record(module: torch.nn.Module, inputs: Any, acted: TensorDictBase) -> None:
        taken.append(acted["action"].numpy(force=True).copy())

    handle = policy.register_forward_hook(record)
    try:
        episodes = evaluate(
            policy,
            env_options,
            company,
            agent=agent,
            training_seed=training_seed,
            temperature=temperature,
            threads=min(threads, len(company)),
        )[: len(seeds)]
    finally:
        handle.remove()
    steps = np.stack(taken, 1)
    return Played(episodes, [steps[i, : episode.env_steps] for i, episode in enumerate(episodes)])


def tuned_returns(
    policy: TensorDictModuleBase,
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    temperatures: Sequence[float],
    *,
    threads: int = 1,
) -> dict[float, float]:
    """What a learned policy returns on average at each temperature, on seeds that settings are chosen by."""
    found = {}
    for temperature in temperatures:
        played = play(policy, env_options, seeds, agent="", temperature=temperature, threads=threads)
        found[temperature] = float(np.mean([episode.objective_return for episode in played.episodes]))
    return found


class Recorded(TensorDictModuleBase):  # type: ignore[misc]
    """Does again what was done: recorded actions `[episodes][steps, 8]`, and WAIT when they are at an end."""

    def __init__(self, actions: Sequence[Ints]) -> None:
        super().__init__()
        self.actions = actions
        self.step = 0
        self.in_keys, self.out_keys = ["is_init"], ["action"]

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """The next action of every episode; a companion without a recording waits."""
        chosen = np.tile(CANONICAL_ACTION, (*td.batch_size, 1))
        for env, actions in enumerate(self.actions):
            if self.step < len(actions):
                chosen[env] = actions[self.step]
        self.step += 1
        td.set("action", torch.from_numpy(chosen))
        return td


def replay(
    actions: Sequence[Ints],
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    agent: str,
    training_seed: int = -1,
    threads: int = 1,
) -> list[Episode]:
    """What recorded actions score, one sequence per seed."""
    policy = Recorded(actions)
    return play(policy, env_options, seeds, agent=agent, training_seed=training_seed, threads=threads).episodes


def with_planning(episodes: Sequence[Episode], spent: Sequence[tuple[float, int]]) -> list[Episode]:
    """Episodes that cost as much more, in FLOPs and epochs, as was spent on planning each."""
    return [
        replace(row, flops=row.flops + flops, env_steps=row.env_steps + steps)
        for row, (flops, steps) in zip(episodes, spent, strict=True)
    ]
