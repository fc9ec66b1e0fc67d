"""Figures of the agent: what collecting costs beside the simulation, what learning costs beside collecting."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from benchmarks.throughput.figures import Bar, Figure, Work, ratio
from benchmarks.throughput.states import TASK
from esper_agent.config import PPOConfig
from esper_agent.learning.ppo import PPO
from esper_agent.policies.registry import create_policy
from esper_agent.rollout import make_rollouts
from esper_agent.rollout.batched import BatchedRollouts
from esper_agent.rollout.environment import SeedTorchEnv
from esper_agent.rollout.rollouts import Rollouts
from esper_env.env import SeedEnv
from esper_env.simulation import Simulation

ENVS, EPOCHS, COMPARED_STEPS = 32, 50, 10
OPTIONS: dict[str, Any] = {"task": TASK}


class Inside:
    """Wall time spent inside a simulation: its steps and resets, features and masks."""

    def __init__(self, simulation: Simulation) -> None:
        self.seconds = 0.0
        for name in ("step", "reset", "features", "masks"):
            setattr(simulation, name, self._timed(getattr(simulation, name)))

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object, **options: object) -> object:
            begun = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds += time.perf_counter() - begun
            return result

        return timed


def collecting_and_learning(rounds: int) -> list[Figure]:
    """Whole episodes with the default agent: time beside the simulation, and of the update, on one thread."""
    policy = create_policy("lstm", SeedEnv(**OPTIONS), seed=0)
    env = SeedTorchEnv(ENVS, **OPTIONS)
    inside = Inside(env._vector._simulation)
    ppo = PPO(policy, PPOConfig(), num_envs=ENVS, seed=0)
    beside, learning, detail = [], [], []
    with closing(BatchedRollouts(env, policy, steps=EPOCHS, seed=0)) as rollouts:
        for _ in range(1 + max(2, rounds // 5)):
            inside.seconds, begun = 0.0, time.perf_counter()
            rollout = rollouts.collect()
            collected = time.perf_counter()
            ppo.update(rollout)
            learned = time.perf_counter() - collected
            collected -= begun
            beside.append(100 * (collected - inside.seconds) / collected)
            learning.append(100 * learned / collected)
            detail.append((collected, learned))
    seconds = np.median(detail[1:], axis=0)
    figures = [
        Figure("collecting: beside the simulation", "%", np.array(beside[1:]), Bar(12, at_least=False)),
        Figure("update against collecting", "%", np.array(learning[1:]), Bar(15, at_least=False)),
    ]
    return [
        Figure(f.name, f.unit, f.samples, f.bar, {"s collecting": seconds[0], "s update": seconds[1]}) for f in figures
    ]


def backends(rounds: int) -> list[Figure]:
    """Two workers of half the hosts each against one process with two threads, by the clock on the wall."""
    with ExitStack() as stack:

        def work(backend: str) -> Work:
            policy = create_policy("lstm", SeedEnv(**OPTIONS), seed=0)
            rollouts: Rollouts = stack.enter_context(
                closing(
                    make_rollouts(
                        backend,
                        policy,
                        num_envs=ENVS,
                        steps=COMPARED_STEPS,
                        env_options=OPTIONS,
                        seed=0,
                        threads=2,
                        workers=2,
                    )
                )
            )
            return lambda: rollouts.collect().numel()

        sides = {"parallel, 2 workers": work("parallel"), "batched, 2 threads": work("batched")}
        name = f"K={ENVS}, time of parallel workers against batched threads"
        return [ratio(name, sides, rounds, clock=time.perf_counter)]
