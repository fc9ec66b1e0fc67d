"""Episodes recorded epoch by epoch while they are evaluated, with what the policy thought in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from esper_agent.evaluate import Observed
from esper_agent.policies.actor_critic import ActorCritic
from esper_env.arrays import Bools, Floats, Ints
from esper_env.lifecycle.stages import Stage
from esper_env.lifecycle.state import EMPTY

INFO = (
    "val_accuracy",
    "score",
    "committed_accuracy",
    "objective_reward",
    "test_accuracy",
    "action_executed",
    "rolled_back",
    "host_params",
    "seed_params",
    "shapley",
    "coalition_score",
    "stage",
    "alpha",
)
"""What is kept of info."""

UNTESTED = -1.0
"""Stands for the test accuracy before the last step."""

Series = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Recording:
    """An episode, epoch by epoch: states from the untrained host on, and the steps between them."""

    agent: str
    seed: int | None
    objective_return: float
    """What counts."""
    states: Series
    """`[steps + 1, ...]` each: `INFO` and `blueprint_index`, or what is known of them."""
    action: Ints
    """`[steps, 8]`"""
    terms: Series
    """Terms of the reward, `[steps]` each."""
    probabilities: Floats | None = None
    """Of every choice of each head given op and slot, `[steps, 8, widest]`, NaN where illegal; None if not known."""
    values: Floats | None = None
    """Expected return of each op, `[steps, ops]`, or of the state, `[steps, 1]`, in units of the reward."""
    chosen: Floats | None = None
    """Probability of what was chosen, `[steps, 8]`: all that an account of the training tells of them."""

    @property
    def steps(self) -> int:
        """Epochs trained."""
        return len(self.action)

    @classmethod
    def of_account(cls, account: Mapping[str, Any], agent: str) -> Self:
        """A line of `episodes.jsonl`, which knows less: nothing of coalitions, and of probabilities those it drew."""
        action = np.array(account["action"])
        slots = len(account["stage"][0])
        before = {"stage": [int(Stage.DORMANT)] * slots, "alpha": [0.0] * slots, "blueprint": [EMPTY] * slots}
        states = {name: np.array([first, *account[name]]) for name, first in before.items()}
        states["blueprint_index"] = states.pop("blueprint")
        states["val_accuracy"] = np.array([np.nan, *account["val_accuracy"]])
        states["action_executed"] = np.array([True, *account["executed"]], bool)
        states["test_accuracy"] = np.array([UNTESTED] * len(action) + [account["committed_test_accuracy"]])
        return cls(
            agent=agent,
            seed=None,
            objective_return=account["objective_return"],
            states=states,
            action=action,
            terms={name: np.array(term) for name, term in account["reward_terms"].items()},
            chosen=np.exp(account["log_prob"]),
        )


class Recorder:
    """An `Observer` that keeps every episode it sees in `recordings`.

    Args:
        unit: reward that a critic's values count as one (see `value_unit`).
    """

    def __init__(self, unit: float = 1.0) -> None:
        self.recordings: list[Recording] = []
        self._unit = unit

    def begin(self, agent: str, policy: TensorDictModuleBase, seeds: Sequence[int], after: Observed) -> None:
        """Take in the untrained hosts."""
        self._agent, self._seeds = agent, tuple(seeds)
        self._judge = policy.judge if isinstance(policy, ActorCritic) else None
        self._playing = np.ones(len(seeds), bool)
        self._states: list[Series] = [_state(*after)]
        self._steps: list[Series] = []
        self._terms: list[Series] = []

    def follow(self, decided: TensorDictBase, after: Observed, over: Bools) -> None:
        """Take in a step, and keep the episodes that it ended."""
        self._states.append(_state(*after))
        action = decided["action"]
        step = {"action": action.numpy(force=True).copy()}
        if self._judge is not None:
            judgement = self._judge(decided)
            chances, legal = judgement.distribution.choices(action)
            step["probabilities"] = torch.where(legal, chances, torch.nan).numpy(force=True)
            step["values"] = self._unit * judgement.values.numpy(force=True)
        self._steps.append(step)
        terms = after[1]["reward_terms"]
        self._terms.append({name: term for name, term in terms.items() if f"_{name}" in terms})
        ended = self._playing & over
        self._playing &= ~over
        if ended.any():
            whole = [_stacked(moments) for moments in (self._states, self._steps, self._terms)]
            for env in np.flatnonzero(ended).tolist():
                states, steps, terms = (
                    {name: array[:, env].copy() for name, array in series.items()} for series in whole
                )
                objective = float(states["objective_reward"][1:].sum())
                self.recordings.append(
                    Recording(self._agent, self._seeds[env], objective, states=states, terms=terms, **steps)
                )


def _state(observation: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> Series:
    return {name: info[name] for name in INFO} | {"blueprint_index": observation["blueprint_index"]}


def _stacked(moments: Sequence[Series]) -> Series:
    return {name: np.stack([moment[name] for moment in moments]) for name in moments[0]}


def choose(recordings: Sequence[Recording], count: int) -> dict[int, Recording]:
    """The best, the worst, and some between at equal distances, by their rank from 1 on."""
    ranked = sorted(recordings, key=lambda recording: -recording.objective_return)
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int).tolist()
    return {place + 1: ranked[place] for place in places}
