"""The actor-critic: a policy network as a TensorDict module that acts, judges states and unrolls sequences."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs.transforms import TensorDictPrimer

from esper_agent.policies.distribution import OP, ActionLayout, FactoredDistribution
from esper_agent.spec import OBSERVATION_KEYS


class Network(Protocol):
    """What an `ActorCritic` asks of its network; `PolicyNetwork` is the one that ships."""

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the recurrent state, without batch dimensions; `{}` without memory."""

    @property
    def judges_ops(self) -> bool:
        """Are the values Q(s, op), rather than V(s)?"""

    def __call__(
        self, features: Tensor, blueprint_index: Tensor, is_init: Tensor, *state: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """One step `[n, ...]`: logits for `ActionLayout`, Q(s, op) `[n, ops]` or V(s) `[n, 1]`, next state."""

    def unroll(
        self, features: Tensor, blueprint_index: Tensor, is_init: Tensor, *state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sequences `[n, time, ...]` from the state before their first step: logits and values."""


@dataclass(frozen=True)
class Judgement:
    """What the policy thinks of states: how it would act, and what it expects."""

    distribution: FactoredDistribution
    values: Tensor
    """Q(s, op) `[..., ops]`, or V(s) `[..., 1]`."""

    @property
    def _judges_ops(self) -> bool:
        return self.values.shape[-1] > 1

    @property
    def state_value(self) -> Tensor:
        """V(s) `[..., 1]`: Σ_op π(op | s) Q(s, op), or the critic's own V(s)."""
        if not self._judges_ops:
            return self.values
        return (self.distribution.op_log_probs.exp() * self.values).sum(-1, keepdim=True)

    def action_value(self, action: Tensor) -> Tensor:
        """Q(s, op) `[..., 1]` of the op in `action` `[..., 8]`; V(s) for a critic of states."""
        if not self._judges_ops:
            return self.values
        return self.values.gather(-1, action[..., OP, None])


class ActorCritic(TensorDictModuleBase):  # type: ignore[misc]
    """A policy that learns: reads an observation and its recurrent state, writes an action and its worth.

    | key | shape | |
    |---|---|---|
    | `features`, `blueprint_index`, `action_mask`, `slot_by_op` | as observed | in |
    | `is_init` | 1 | in: does an episode begin here? (TorchRL's `InitTracker`) |
    | `recurrent_state_h`, `recurrent_state_c` | layers, units | in, with memory (see `make_tensordict_primer`) |
    | `action` | 8 | out, int64 |
    | `action_log_prob` | 8 | out: per head, 0 where the head does not matter |
    | `state_action_value`, `state_value` | 1 | out: Q(s, op taken) and V(s) |
    | `("next", "recurrent_state_h")`, … | layers, units | out, with memory |

    Acting draws from `generator` (seed it with `seed`) at `temperature`, or takes the mode under
    `set_exploration_type(ExplorationType.DETERMINISTIC)`; `action_log_prob` is that of temperature 1 all the same.
    It never builds a graph; `unroll` does.
    """

    def __init__(self, layout: ActionLayout, network: Network, *, autocast: bool = False) -> None:
        super().__init__()
        self.layout = layout
        self.network = network
        self.autocast = autocast
        self.generator: torch.Generator | None = None
        self.temperature = 1.0
        self.state_keys = list(network.state_shapes)
        self.in_keys = [*OBSERVATION_KEYS, "is_init", *self.state_keys]
        self.out_keys = [
            "action",
            "action_log_prob",
            "state_action_value",
            "state_value",
            *(("next", key) for key in self.state_keys),
        ]

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """Act: one step for every element of `td`."""
        with torch.no_grad():
            judgement, state = self._step(td)
            deterministic = interaction_type() in (InteractionType.DETERMINISTIC, InteractionType.MODE)
            distribution = judgement.distribution
            action = distribution.mode() if deterministic else distribution.sample(self.generator, self.temperature)
            td.set("action", action)
            td.set("action_log_prob", distribution.log_prob(action))
            td.set("state_action_value", judgement.action_value(action))
            td.set("state_value", judgement.state_value)
            for key, tensor in state.items():
                td.set(("next", key), tensor)
        return td

    def judge(self, td: TensorDictBase) -> Judgement:
        """Judge every element of `td` as one step from its own recurrent state, without a graph."""
        with torch.no_grad():
            return self._step(td)[0]

    def unroll(self, td: TensorDictBase) -> Judgement:
        """Judge sequences, time being the last batch dimension, from the recurrent state stored at their start."""
        self._require_state(td)
        flat = td.reshape(-1, td.shape[-1])
        with self._precision():
            logits, values = self.network.unroll(
                flat["features"],
                flat["blueprint_index"],
                flat["is_init"].squeeze(-1),
                *(flat[key][:, 0] for key in self.state_keys),
            )
        return self._judgement(td, logits, values)

    def seed(self, seed: int) -> None:
        """Draw actions from a generator of this policy's own, which starts here."""
        self.generator = torch.Generator(self.layout.index.device).manual_seed(seed)

    def initial_state(self, *batch: int) -> TensorDict:
        """`is_init` and an empty recurrent state, for acting outside a TorchRL environment."""
        device = self.layout.index.device
        state = {key: torch.zeros(*batch, *shape) for key, shape in self.network.state_shapes.items()}
        return TensorDict({"is_init": torch.ones(*batch, 1, dtype=torch.bool), **state}, batch, device=device)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that makes a TorchRL environment carry the recurrent state.

        `torchrl.modules.utils.get_primers_from_module(policy)` finds it too.
        """
        return TensorDictPrimer(
            {key: Unbounded(shape) for key, shape in self.network.state_shapes.items()}, expand_specs=True
        )

    def _step(self, td: TensorDictBase) -> tuple[Judgement, dict[str, Tensor]]:
        self._require_state(td)
        flat = td.select(*self.in_keys).reshape(-1)
        with self._precision():
            logits, values, state = self.network(
                flat["features"],
                flat["blueprint_index"],
                flat["is_init"].squeeze(-1),
                *(flat[key] for key in self.state_keys),
            )
        named = zip(self.state_keys, state, strict=True)
        return self._judgement(td, logits, values), {
            key: tensor.float().reshape(*td.shape, *tensor.shape[1:]) for key, tensor in named
        }

    def _judgement(self, td: TensorDictBase, logits: Tensor, values: Tensor) -> Judgement:
        distribution = self.layout(logits.reshape(*td.shape, -1), td["action_mask"], td["slot_by_op"])
        return Judgement(distribution, values.float().reshape(*td.shape, -1))

    def _require_state(self, td: TensorDictBase) -> None:
        missing = [key for key in ("is_init", *self.state_keys) if td.get(key) is None]
        if missing:
            raise KeyError(
                f"{', '.join(missing)} missing: without it the policy would silently forget everything at each step. "
                "Append InitTracker() and policy.make_tensordict_primer() to a TorchRL environment's transforms, or "
                "start from policy.initial_state(n) and carry ('next', ...) over by hand."
            )

    def _precision(self) -> AbstractContextManager[Any]:
        # The cache of cast weights is off: filled without a graph, it would starve the next pass of gradients.
        device = self.layout.index.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.autocast, cache_enabled=False)
