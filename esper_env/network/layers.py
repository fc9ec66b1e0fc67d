"""Stacked layers: n networks computed by one kernel.

Maps are `[batch, n * channels, height, width]` in channels_last, vectors are `[n, batch, features]`, and every
parameter has a leading axis of n. Hosts and blueprints are written in these layers alone, so the choice of
kernel stays in this file. For n ≥ 2 all of them give each network the same bits whatever its neighbours are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

Float32 = npt.NDArray[np.float32]


def conv(x: Tensor, weight: Tensor, depthwise: bool = False) -> Tensor:
    """Shape-preserving convolution without bias; weight `[n, out, in, k, k]` (`in` is 1 when depthwise)."""
    n, out, into, kernel = weight.shape[:4]
    if kernel == 1 and n == 1:
        return F.linear(x.permute(0, 2, 3, 1), weight.view(out, into)).permute(0, 3, 1, 2)
    if kernel == 1 and into == 1:
        return spread_channel(x, weight.view(n, out))
    groups = n * out if depthwise else n
    return F.conv2d(x, weight.flatten(0, 1), padding=kernel // 2, groups=groups)


class _SpreadChannel(Function):
    """A 1×1 convolution of one channel to several: an outer product, for which convolutions have no good kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.permute(0, 2, 3, 1).unsqueeze(-1) * weight
        return rows.flatten(3).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        batch, n, height, width = x.shape
        rows = grad.permute(0, 2, 3, 1).reshape(batch, height, width, n, -1)
        back = (rows * weight).sum(-1).permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None
        product = (rows * x.permute(0, 2, 3, 1).unsqueeze(-1)).flatten(3).permute(0, 3, 1, 2)
        return back, _sum_maps(product).view(n, -1)


def spread_channel(x: Tensor, weight: Tensor) -> Tensor:
    """1×1 convolution of n maps of one channel each; weight `[n, out]`."""
    spread: Tensor = _SpreadChannel.apply(x, weight)  # type: ignore[no-untyped-call]
    return spread


def _sum_maps(x: Tensor) -> Tensor:
    """Sum over batch and positions per channel, in an order that does not depend on how many channels there are."""
    pooled = F.avg_pool2d(x, x.shape[2:]).flatten(1)
    return pooled.T.contiguous().sum(1) * (x.shape[2] * x.shape[3])


def norm_groups(channels: int) -> int:
    """Groups of every GroupNorm."""
    return max(1, channels // 16)


def group_norm(x: Tensor, n: int, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """GroupNorm of each of the n maps; scale and shift are `[n, channels]`."""
    groups = n * norm_groups(x.shape[1] // n)
    if scale is None or shift is None:
        return F.group_norm(x, groups)
    if scale.requires_grad and not x.requires_grad:
        # torch 2.13 on CPU crashes in this backward when a channels_last input requires no gradient.
        x = x.detach().requires_grad_()
    return F.group_norm(x, groups, scale.flatten(), shift.flatten())


class _Rescale(Function):
    """Maps times a factor per channel, whose gradient sums do not depend on how many channels are stacked.

    Those of a plain product do: torch adds up columns of channels_last maps in blocks, and the order within a
    column depends on its block.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, factor = ctx.saved_tensors
        back = grad * factor if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return back, None
        product = grad * x
        if len(factor) == 1:
            return back, _sum_maps(product).view(factor.shape)
        return back, F.avg_pool2d(product, product.shape[2:]) * (product.shape[2] * product.shape[3])


def rescale(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply maps by a factor per channel, `[batch, n * channels, 1, 1]`, or the same for the batch with 1."""
    scaled: Tensor = _Rescale.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


def channel_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Multiply each channel by its own factor; scale `[n, channels]`."""
    factor = scale.reshape(1, -1, 1, 1)
    return x * factor if len(scale) == 1 else rescale(x, factor)


def pool_to_vectors(x: Tensor, n: int) -> Tensor:
    """Mean over positions: maps to vectors `[n, batch, channels]`.

    avg_pool2d, unlike a mean or adaptive pooling, does not depend on the number of stacked channels.
    """
    pooled = F.avg_pool2d(x, x.shape[2:])
    return pooled.reshape(x.shape[0], n, -1).transpose(0, 1)


def vectors_to_maps(v: Tensor) -> Tensor:
    """Vectors `[n, batch, channels]` as 1×1 maps, to be broadcast over positions."""
    return v.transpose(0, 1).reshape(v.shape[1], -1, 1, 1)


def linear(v: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Vectors `[n, batch, in]` times weight `[n, in, out]`, plus bias `[n, out]`.

    The matrix kernels of a CPU round by where a result lies in memory. A batch that is a multiple of 16 puts each of
    the n on a boundary of 64 bytes, so that its bits do not depend on its place in the stack.
    """
    batch = v.shape[1]
    if batch % 16:
        v = F.pad(v, (0, 0, 0, -batch % 16))
    product = torch.bmm(v, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), v, weight)
    return product[:, :batch]


def class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy `[n, batch]` of logits `[n, batch, classes]` and labels `[n, batch]`.

    torch's kernel over a last axis of ten is scalar; over the first axis it is many times faster. There it works in
    vectors, and rounds what is left over at the end differently: hence whole multiples of 16 samples per network.
    """
    n, batch, classes = logits.shape
    fill = -batch % 16
    columns = F.pad(logits, (0, 0, 0, fill)).permute(2, 0, 1).reshape(1, classes, -1)
    losses = F.cross_entropy(columns, F.pad(labels, (0, fill)).reshape(1, -1), reduction="none")
    return losses.view(n, -1)[:, :batch]


def conv_bound(into: int, kernel: int) -> float:
    """Largest initial weight of a convolution: 1/√fan-in."""
    return float((into * kernel * kernel) ** -0.5)


def conv_init(rng: np.random.Generator, out: int, into: int, kernel: int) -> Float32:
    """Weight of one convolution `[out, in, k, k]`, uniform in ±1/√fan-in."""
    bound = conv_bound(into, kernel)
    return rng.uniform(-bound, bound, (out, into, kernel, kernel)).astype(np.float32)


def linear_init(rng: np.random.Generator, into: int, out: int) -> Float32:
    """Weight of one linear layer `[in, out]`, uniform in ±1/√fan-in."""
    bound = into**-0.5
    return rng.uniform(-bound, bound, (into, out)).astype(np.float32)


def full(value: float, *shape: int) -> Float32:
    """A constant parameter."""
    return np.full(shape, value, np.float32)


def macs(parameters: dict[str, Float32], positions: int) -> int:
    """Multiply-accumulates per sample of convolutions over `positions` and of linear layers on pooled vectors."""
    return sum(p.size * (positions if p.ndim == 4 else 1) for p in parameters.values() if p.ndim in (2, 4))
