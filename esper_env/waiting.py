"""The waiting twin: what becomes of the same host when nothing is ever done. The natural control of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from esper_env.actions import CANONICAL_ACTION
from esper_env.arrays import Floats
from esper_env.config import EnvConfig
from esper_env.info import report
from esper_env.options import resolve
from esper_env.simulation import Simulation

SERIES = ("train_loss", "val_loss", "val_accuracy", "score", "committed_accuracy", "objective_reward", "flops")
_ONE = np.ones(1, bool)


@dataclass(frozen=True)
class WaitingTwin:
    """A whole episode of waiting: read-only arrays whose entry t is what `info` says after t epochs."""

    train_loss: Floats
    val_loss: Floats
    val_accuracy: Floats
    score: Floats
    committed_accuracy: Floats
    objective_reward: Floats
    flops: Floats
    reward: Floats
    """The reward of the configured mode."""
    test_accuracy: float
    """At the end of the episode."""

    @property
    def objective_return(self) -> float:
        """The undiscounted sum of the objective."""
        return float(self.objective_reward.sum())


def waiting_twin(task: str = "digits", seed: int = 0, **options: Any) -> WaitingTwin:
    """The trajectory of a `SeedEnv` with these options after `reset(seed=seed)` when every action is WAIT.

    It is played once and then kept. Planting never shifts a host's data, so until a seed of an episode with the same
    seed blends in, its losses are these bit for bit; in a vector environment they are close.
    """
    return _wait(resolve({"task": task} | options)[0], seed)


@lru_cache(maxsize=1024)
def _wait(config: EnvConfig, seed: int) -> WaitingTwin:
    task = resolve({"task": config.task, "num_slots": config.num_slots})[1]
    simulation = Simulation(config, task, 1)
    simulation.reset(_ONE, [seed])
    reports, rewards, over = [report(simulation)], [0.0], False
    while not over:
        outcome = simulation.step(CANONICAL_ACTION[None])
        reports.append(report(simulation))
        rewards.append(float(outcome.reward[0]))
        over = bool(outcome.terminated[0])
    series = {name: np.array([entry[name][0] for entry in reports]) for name in SERIES} | {"reward": np.array(rewards)}
    for array in series.values():
        array.setflags(write=False)
    return WaitingTwin(**series, test_accuracy=float(reports[-1]["test_accuracy"][0]))
