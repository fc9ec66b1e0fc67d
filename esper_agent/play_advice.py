"""Advice for a person who plays: what a policy would do in their place, and what it expects of every op."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy.typing as npt
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from esper_agent.policies.actor_critic import ActorCritic, Judgement
from esper_agent.policies.registry import create_policy
from esper_agent.runs import load_policy, value_unit
from esper_agent.spec import EnvSpec
from esper_env.actions import Op
from esper_env.config import ConfigError
from esper_env.render.frame import words
from esper_env.vector_env import SeedVectorEnv

WIDTH, LABEL = 80, "advice    "


class Adviser:
    """A policy that watches an episode which somebody else plays.

    Args:
        name: what to call it.
        policy: what `create_policy` makes.
        spec: sizes of the environment.
        scale: reward that the policy's values count as one.
    """

    def __init__(self, name: str, policy: TensorDictModuleBase, spec: EnvSpec, scale: float = 1.0) -> None:
        self._name, self._policy, self._spec, self._scale = name, policy, spec, scale
        self._state: TensorDict | None = None

    def advise(self, observation: Mapping[str, npt.NDArray[Any]]) -> list[str]:
        """What it would do and why, in lines; to be asked once in every step, for it may remember."""
        td = self._memory()
        td.update({name: torch.from_numpy(array)[None] for name, array in observation.items()})
        judgement = self._policy.judge(td) if isinstance(self._policy, ActorCritic) else None
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            acted = self._policy(td)
        self._state = acted
        would = "would" if judgement is None else "would most likely"  # it draws
        advice = f"{self._name} {would} {words(acted['action'][0].tolist(), self._spec.num_slots)}"
        lines = wrap(advice, WIDTH, initial_indent=LABEL, subsequent_indent=" " * len(LABEL))
        return lines if judgement is None else [*lines, *self._reasons(judgement)]

    def _memory(self) -> TensorDict:
        """What the policy remembers of the steps before."""
        keys = self._policy.state_keys if isinstance(self._policy, ActorCritic) else []
        if self._state is None:
            td = self._policy.initial_state(1) if keys else TensorDict(batch_size=[1])
        else:
            td = self._state["next"].select(*keys) if keys else TensorDict(batch_size=[1])
        td["is_init"] = torch.full((1, 1), self._state is None)
        return td

    def _reasons(self, judgement: Judgement) -> list[str]:
        """The probability of every legal op and, where the critic tells, the return it expects from it."""
        chances, values = judgement.distribution.op_log_probs[0].exp(), self._scale * judgement.values[0]
        legal = [op for op in sorted(Op, key=lambda op: -chances[op]) if chances[op] > 0]
        per_op = len(values) == len(Op)
        told = [f"{op.name} {chances[op]:.0%}" + (f" Q {values[op]:+.2f}" if per_op else "") for op in legal]
        told += [] if per_op else [f"V {values[0]:+.2f}"]
        # Each pair stays together: no-break spaces inside, ordinary ones between.
        joined = "   ".join(each.replace(" ", "\N{NO-BREAK SPACE}") for each in told)
        lines = wrap(joined, WIDTH, initial_indent=" " * len(LABEL), subsequent_indent=" " * len(LABEL))
        return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def find_adviser(name: str, env: Any, which: str = "best") -> Adviser:
    """The trained policy of the run in folder `name`, or the policy of that name.

    Raises:
        ConfigError: when there is neither, or the run's policy does not fit the environment.
    """
    spec = EnvSpec.of(env)
    run = Path(name)
    if not run.is_dir():
        if len(run.parts) > 1:
            raise ConfigError(
                f"There is no run in {run}, and no policy has such a name: "
                "give the folder of a run, or a policy that esper list policies names."
            )
        policy = create_policy(name, spec, seed=0)
        if isinstance(policy, ActorCritic):
            raise ConfigError(f"Policy {name!r} has learned nothing yet: give the folder of a run that trained it.")
        return Adviser(name, policy, spec)
    trained, config = load_policy(run, which)
    spec.require(EnvSpec.of(SeedVectorEnv(**config.env_options)), run)  # which knows all options of a training
    return Adviser(run.name, trained, spec, value_unit(run, which))
