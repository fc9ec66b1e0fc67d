"""Advantages: the λ-return against a baseline that leaves the op head its gradient."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives.value.functional import td_lambda_return_estimate

from esper_agent.policies.actor_critic import ActorCritic
from esper_agent.policies.distribution import OP
from esper_env.actions import HEAD_NAMES, Op

VALUE_AHEAD = {"factored": "state_value", "q_op": "state_action_value", "state": "state_value"}
"""Which of the stored values stands for the future in the λ-return."""

OP_BASELINE = {"factored": "state_value", "q_op": "state_action_value", "state": "state_value"}
"""What the return is compared with to judge the op. Q(s, op) contains the op being judged, which leaves nothing."""

REST_BASELINE = {"factored": "state_action_value", "q_op": "state_action_value", "state": "state_value"}
"""What the return is compared with to judge the other heads, once the op is given."""


def next_values(policy: ActorCritic, rollout: TensorDictBase, baseline: str) -> Tensor:
    """Value of each step's successor `[envs, time, 1]`.

    Inside a trajectory that is the value stored at the next step. At a truncated end and at the edge of the rollout
    it is judged from the final observation, with the hidden state after the last step (`q_op`: for the likeliest op).
    """
    stored = rollout[VALUE_AHEAD[baseline]]
    ahead = torch.cat([stored[:, 1:], torch.zeros_like(stored[:, :1])], 1)
    done, terminated = rollout["next", "done"], rollout["next", "terminated"]
    open_end = done.clone()
    open_end[:, -1] = True
    open_end &= ~terminated
    rows = open_end.squeeze(-1)
    if rows.any():
        final = rollout["next"].select(*(key for key in policy.in_keys if key != "is_init"))[rows]
        final["is_init"] = torch.zeros(len(final), 1, dtype=torch.bool, device=rows.device)
        judgement = policy.judge(final)
        likeliest = judgement.distribution.mode()
        ahead[rows] = judgement.action_value(likeliest) if baseline == "q_op" else judgement.state_value
    return ahead


def estimate_advantages(
    rollout: TensorDictBase, ahead: Tensor, *, baseline: str, gamma: float, gae_lambda: float
) -> None:
    """Write `advantage` `[envs, time, 8]` per head and `value_target` `[envs, time, 1]` into a rollout.

    Args:
        rollout: what a collector returns, `[envs, time]`, rows contiguous in time.
        ahead: `next_values`.
        baseline: `factored`, `q_op` or `state`.
        gamma: discount.
        gae_lambda: λ of the return.
    """
    after = rollout["next"]
    target = td_lambda_return_estimate(gamma, gae_lambda, ahead, after["reward"], after["done"], after["terminated"])
    advantage = (target - rollout[REST_BASELINE[baseline]]).repeat_interleave(len(HEAD_NAMES), -1)
    advantage[..., OP, None] = target - rollout[OP_BASELINE[baseline]]
    rollout.set("value_target", target)
    rollout.set("advantage", advantage)


def normalise_advantages(rollout: TensorDictBase) -> None:
    """Standardise the advantages of op over all steps, those of the rest over the steps where another head mattered."""
    advantage, op = rollout["advantage"], rollout["action"][..., OP]
    everywhere = torch.ones_like(op, dtype=torch.bool)
    is_op = torch.arange(len(HEAD_NAMES), device=op.device) == OP
    rest = int((~is_op).nonzero()[0])
    by_op = _standardise(advantage[..., OP], everywhere)
    by_rest = _standardise(advantage[..., rest], op != Op.WAIT)
    rollout.set("advantage", torch.where(is_op, by_op.unsqueeze(-1), by_rest.unsqueeze(-1)))


def _standardise(x: Tensor, counts: Tensor) -> Tensor:
    """Centre and scale by the statistics of the elements that count; fewer than two of them say nothing."""
    sample = x[counts]
    if len(sample) < 2:
        return x
    return (x - sample.mean()) / (sample.std() + 1e-8)
