"""The info dict: one table of what every step reports, for all environments at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esper_env.lifecycle.stages import FOSSIL, PRESENT
from esper_env.simulation import Simulation


@dataclass(frozen=True)
class Entry:
    """One key of info: what it means, and its array `[envs, ...]`."""

    meaning: str
    read: Callable[[Simulation], npt.NDArray[Any]]


INFO: dict[str, Entry] = {
    "epoch": Entry("epochs trained in this episode", lambda s: s.signals.epoch),
    "train_loss": Entry("mean training loss of the epoch, 0 before the first", lambda s: s.signals.train_loss),
    "val_loss": Entry("validation loss of the main network", lambda s: s.signals.loss),
    "val_accuracy": Entry("its validation accuracy in percent", lambda s: s.signals.accuracy),
    "score": Entry("what the reward measures, 0 to 100: the accuracy in classification", lambda s: s.signals.score),
    "committed_accuracy": Entry(
        "validation accuracy of the host with its fossilized seeds alone", lambda s: s.counters.committed_accuracy
    ),
    "objective_reward": Entry("this step's objective terms, whatever the reward mode", lambda s: s.counters.objective),
    "test_accuracy": Entry(
        "test accuracy of the committed network after the last step, -1 before", lambda s: s.counters.test_accuracy
    ),
    "host_params": Entry("parameters of the host alone", lambda s: np.full(s.envs, s.host_params)),
    "seed_params": Entry("parameters of all seeds present", lambda s: s.slots.params.sum(1)),
    "flops": Entry("floating-point operations of training and evaluation so far", lambda s: s.counters.flops),
    "action_executed": Entry("False when the action ran as WAIT because it was illegal", lambda s: s.counters.executed),
    "rolled_back": Entry("True when the governor restored the host in this step", lambda s: s.counters.rolled_back),
    "seeds_created": Entry("seeds germinated so far", lambda s: s.counters.created),
    "seeds_fossilized": Entry("seeds made permanent so far", lambda s: s.counters.fossilized),
    "contributing_fossilized": Entry(
        "fossilized seeds whose removal would cost accuracy",
        lambda s: (FOSSIL.take(s.slots.stage) & (s.slots.contribution > 0)).sum(1),
    ),
    "seeds_pruned": Entry("seeds pruned so far, by the agent or the governor", lambda s: s.counters.pruned),
    "shapley": Entry(
        "Shapley value of each slot's seed, in points",
        lambda s: np.where(PRESENT.take(s.slots.stage), s.slots.shapley, 0.0),
    ),
    "coalition_score": Entry(
        "score with the seeds of some slots alone, one per bit mask; -1 in an epoch that measures none",
        lambda s: s.coalition_score,
    ),
    "stage": Entry("stage of each slot", lambda s: s.slots.stage.astype(np.int64)),
    "alpha": Entry("alpha of each slot", lambda s: s.alpha()),
}


def report(simulation: Simulation) -> dict[str, npt.NDArray[Any]]:
    """Every entry of the table, copied."""
    return {name: np.array(entry.read(simulation)) for name, entry in INFO.items()}
