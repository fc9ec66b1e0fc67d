"""How seeds join the feature map: what they see of it, and what they add to it.

Rows of one bank can be in different stages. Only rows that are blended are touched in the forward pass and
every row is chosen by selection, never by multiplying with zero, so that an infinite or NaN seed in TRAINING
reaches neither its host nor a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function

from esper_env.actions import Algorithm
from esper_env.arrays import Bools, Floats, Ints
from esper_env.lifecycle.stages import BLENDED, FOSSIL, Stage
from esper_env.network.layers import as_rows, rescale
from esper_env.network.transfer import upload, upload_together


def as_maps(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_rows` for maps of the batch and size of `like`."""
    batch, _, height, width = like.shape
    return rows.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def select_rows(x: Tensor, n: int, index: Tensor) -> Tensor:
    """The maps of the networks `index` among the n of `x`."""
    return as_maps(as_rows(x, n).index_select(1, index), x)


def add_rows(out: Tensor, n: int, index: Tensor, alpha: Tensor | None, correction: Tensor) -> None:
    """Add a correction, times alpha per channel where given, to the maps `index` of `out`."""
    scaled = correction if alpha is None else correction * alpha.view(1, -1, 1, 1)
    rows = out.permute(0, 2, 3, 1).view(-1, n, out.shape[1] // n)  # a view or an error: a copy would lose the sum
    rows.index_add_(1, index, as_rows(scaled, len(index)))


@dataclass
class BankPlan:
    """What the rows of one bank do in one epoch; index tensors cover padding rows, row vectors too."""

    index: Tensor
    """Environment of each row."""
    whole: bool
    """Is the bank every host of the stack, in order?"""
    blended: Tensor
    """Rows that are added to the host."""
    blended_envs: Tensor
    alpha: Tensor
    """Alpha of the blended rows: per channel, flat, or a single number where all have the same."""
    gradient: Tensor
    """Factor on the upstream gradient: alpha, 1 in TRAINING, 0 for idle rows; per channel or single, like alpha."""
    proximal: Tensor | None
    """1 per channel in rows in TRAINING, flat; None when there are none."""
    all_training: bool
    opened: Tensor | None
    """Channels, flat, whose gradient reaches the host through the seed's input; None when there are none."""
    multiply: Tensor | None
    gate: Tensor | None
    """Channels, flat, of rows that use the algorithm; None when there are none."""
    gated: Bools | None
    """Rows that use GATE; None when there are none."""

    @property
    def running(self) -> bool:
        """Is there any row with work to do?"""
        return bool(len(self.blended)) or self.proximal is not None

    def pick(self, x: Tensor, n: int) -> Tensor:
        """The bank's rows of the stack's maps."""
        return x if self.whole else select_rows(x, n, self.index)


def plan_bank(
    index: Ints,
    held: int,
    channels: int,
    stage: Ints,
    alpha: Floats,
    algorithm: Ints,
    device: torch.device,
    open_stages: Bools = FOSSIL,
) -> BankPlan:
    """Plan the epoch of a bank from the stage, alpha and algorithm of every environment in its slot.

    In `open_stages`, a table by stage, a seed sends gradient to the host through its input.
    """

    def per_channel(values: Any) -> Tensor:
        return upload(np.repeat(values, channels), device)

    def factor(values: Floats) -> Tensor:
        same = len(values) > 0 and bool((values == values[0]).all())
        return upload(values[:1], device) if same else per_channel(values)

    def mask(rows: Bools) -> Tensor | None:
        return per_channel(rows) if rows.any() else None

    real = np.arange(len(index)) < held
    row_stage = stage[index]
    blended = real & BLENDED[row_stage]
    training = real & (row_stage == Stage.TRAINING)
    row_alpha = alpha[index].astype(np.float32)
    rows = np.flatnonzero(blended)
    gated = real & (algorithm[index] == Algorithm.GATE)
    everyone, adding, hosts = upload_together((index, rows, index[rows]), device)
    return BankPlan(
        index=everyone,
        whole=np.array_equal(index, np.arange(len(stage))),
        blended=adding,
        blended_envs=hosts,
        alpha=factor(row_alpha[rows]),
        gradient=factor(np.where(training, np.float32(1), np.where(blended, row_alpha, np.float32(0)))),
        proximal=mask(training),
        all_training=bool(training.all()),
        opened=mask(real & open_stages[row_stage]),
        multiply=mask(real & (algorithm[index] == Algorithm.MULTIPLY)),
        gate=mask(gated),
        gated=gated if gated.any() else None,
    )


class Tap(Function):
    """Hands each bank its rows of the host's map; only what is `opened` sends gradient back."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, n: int, plans: Sequence[BankPlan]) -> tuple[Tensor, ...]:
        """Select the rows of every bank."""
        ctx.n, ctx.plans, ctx.like = n, plans, h
        return tuple(plan.pick(h, n) for plan in plans)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Collect the gradients of opened rows."""
        total = torch.zeros_like(ctx.like, memory_format=torch.channels_last)
        for plan, grad in zip(ctx.plans, grads, strict=True):
            if plan.opened is None or grad is None:
                continue
            passed = torch.where(plan.opened.view(1, -1, 1, 1), grad, 0.0)
            add_rows(total, ctx.n, plan.index, None, passed)
        return total, None, None


class Blend(Function):
    """Adds the corrections to the host's map.

    The host always keeps gradient factor 1 through the skip path. A seed in TRAINING changes no value but gets
    the gradient it would have at alpha 1, plus λ times its own correction: without that term nothing in its
    gradient feels its own output, and it grows without bound.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, n: int, plans: Sequence[BankPlan], proximal: float, *corrections: Tensor
    ) -> Tensor:
        """Blended rows get alpha · u, all others are the host's bits."""
        ctx.n, ctx.plans, ctx.proximal = n, plans, proximal
        ctx.save_for_backward(*corrections)
        if len(plans) == 1 and plans[0].whole and len(plans[0].blended) == n:
            return (corrections[0] * plans[0].alpha.view(1, -1, 1, 1)).add_(h)
        out = h.clone(memory_format=torch.channels_last)
        for plan, u in zip(plans, corrections, strict=True):
            if len(plan.blended):
                chosen = u if len(plan.blended) == len(plan.index) else select_rows(u, len(plan.index), plan.blended)
                add_rows(out, n, plan.blended_envs, plan.alpha, chosen)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The host's gradient unchanged; for the seeds scaled, with the proximal pull in TRAINING."""
        upstream: list[Tensor | None] = []
        for plan, u in zip(ctx.plans, ctx.saved_tensors, strict=True):
            g = plan.pick(grad, ctx.n)
            if not plan.all_training:
                g = g * plan.gradient.view(1, -1, 1, 1)
            if plan.proximal is not None and ctx.proximal:
                positions = u.shape[0] * u.shape[2] * u.shape[3]
                pulled = g + u * (ctx.proximal / positions)
                g = pulled if plan.all_training else torch.where(plan.proximal.view(1, -1, 1, 1), pulled, g)
            upstream.append(g)
        return grad, None, None, None, *upstream


def correct(delta: Tensor, x: Tensor, multiply: Tensor | None, gate: Tensor | None, openness: Tensor | None) -> Tensor:
    """Turn a blueprint's delta into the correction u of each row's algorithm.

    Args:
        delta: f(x), maps of n rows.
        x: the seed's input.
        multiply: channels of MULTIPLY rows (u = x · tanh f), or None.
        gate: channels of GATE rows (u = g · f), or None.
        openness: g as maps of n channels, of one position or of all, needed with `gate`.
    """
    u = delta
    if multiply is not None:
        u = torch.where(multiply.view(1, -1, 1, 1), x * torch.tanh(delta), u)
    if gate is not None and openness is not None:
        per_channel = openness.repeat_interleave(delta.shape[1] // openness.shape[1], 1)
        u = torch.where(gate.view(1, -1, 1, 1), rescale(delta, per_channel), u)
    return u
