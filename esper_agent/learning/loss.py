"""The headwise clipped PPO loss: every head has its own ratio, and its own steps where it counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor

from esper_agent.config import PPOConfig
from esper_agent.policies.actor_critic import Judgement
from esper_agent.policies.distribution import OP
from esper_env.actions import HEAD_NAMES, Op

MAX_LOG_RATIO = 20.0
"""Beyond this a ratio overflows, and its unused branch would turn gradients into NaN."""


@dataclass(frozen=True)
class Loss:
    """What one minibatch costs, and how far the policy has moved since the rollout."""

    total: Tensor
    kl: Tensor
    metrics: dict[str, Tensor]


def ppo_loss(judgement: Judgement, batch: TensorDictBase, config: PPOConfig) -> Loss:
    """The loss of the present policy's judgement on steps `[..., ]` of a rollout.

    Reads `action`, `action_log_prob`, `probabilities` (of every choice of each head, given the op and the slot taken),
    `advantage` (per head), `value_target` and, for value clipping, the values stored in the rollout. The ratio of a
    head that did not matter is exactly 1 and counts nowhere.
    """
    distribution, action = judgement.distribution, batch["action"]
    mattered = distribution.matters(action[..., OP])
    log_ratio = distribution.log_prob(action) - batch["action_log_prob"]
    entropy = distribution.head_entropy(action)

    def head_mean(x: Tensor) -> Tensor:
        return _masked_mean(x, mattered, over_all=config.head_average == "steps")

    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    gain = torch.minimum(ratio * batch["advantage"], clipped * batch["advantage"])
    policy_loss = -head_mean(gain).sum()

    weights = torch.tensor([config.entropy_weights.get(name, 0.0) for name in HEAD_NAMES], device=entropy.device)
    freedom = distribution.head_freedom(action) if config.entropy_from == "beginner" else entropy
    entropy_bonus = (weights * head_mean(freedom)).sum()

    error = _squared_error(judgement, batch, config)
    value_loss = error.mean()

    total = policy_loss - config.entropy_coefficient * entropy_bonus + config.value_coefficient * value_loss
    with torch.no_grad():
        divergence = distribution.divergence(batch["probabilities"], action)
        kl = divergence.sum(-1).mean()
        metrics = {
            "loss/total": total,
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "loss/entropy_bonus": entropy_bonus,
            "kl/total": kl,
            "ratio/min": ratio.min(),
            "ratio/max": ratio.max(),
            **_by_head("kl", _seen_mean(divergence, mattered)),
            **_by_head("clip_fraction", _seen_mean(((ratio - 1).abs() > config.clip).float(), mattered)),
            **_by_head("entropy", _seen_mean(entropy, distribution.could_choose(action[..., OP]))),
            **_by_head("entropy_possible", _seen_mean(distribution.head_entropy(), distribution.could_matter())),
            **_value_loss_by_op(error, action[..., OP]),
        }
    return Loss(total, kl, {name: metric.detach() for name, metric in metrics.items()})


def explained_variance(value: Tensor, target: Tensor, floor: float = 0.01) -> Tensor:
    """1 - Var(target - value) / Var(target); the floor keeps it sane where returns hardly vary."""
    return 1 - (target - value).var(correction=0) / target.var(correction=0).clamp_min(floor)


def normalised_error(value: Tensor, target: Tensor, floor: float = 0.01) -> Tensor:
    """Root mean squared error over the targets' standard deviation, with the same floor."""
    return ((target - value).square().mean() / target.var(correction=0).clamp_min(floor)).sqrt()


def _squared_error(judgement: Judgement, batch: TensorDictBase, config: PPOConfig) -> Tensor:
    value = judgement.action_value(batch["action"])
    target: Tensor = batch["value_target"]
    error = (value - target).square()
    if config.value_clip is not None:
        seen = batch["state_action_value"]
        near = seen + (value - seen).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (near - target).square())
    return error.squeeze(-1)


def _masked_mean(x: Tensor, mask: Tensor, *, over_all: bool = False) -> Tensor:
    """Sum where the mask holds, per last dimension, over the number of such steps, or of all."""
    rows = mask.flatten(0, -2)
    count = torch.full_like(rows[0], len(rows), dtype=torch.int64) if over_all else rows.sum(0).clamp_min(1)
    return torch.where(rows, x.flatten(0, -2), 0.0).sum(0).div(count)


def _seen_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The same for reporting: NaN where the mask holds nowhere, so that nothing seen is not taken for zero."""
    seen = mask.flatten(0, -2).any(0)
    return _masked_mean(x, mask).where(seen, torch.nan)


def _by_head(name: str, values: Tensor) -> dict[str, Tensor]:
    return {f"{name}/{head}": value for head, value in zip(HEAD_NAMES, values.unbind(), strict=True)}


def _value_loss_by_op(error: Tensor, op: Tensor) -> dict[str, Tensor]:
    taken = op.unsqueeze(-1) == torch.arange(len(Op), device=op.device)
    means = _seen_mean(error.unsqueeze(-1).expand_as(taken), taken)
    return {f"value_loss/{name}": mean for name, mean in zip(Op.__members__, means.unbind(), strict=True)}
