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

MATMUL_WEIGHTS, MATMUL_POSITIONS = 128, 4
"""With at least so many weights, on at most so many positions, a 1×1 convolution is faster as a matrix product."""
HALVED_POSITIONS = 1024
"""With at least so many positions maps are halved faster by adding up their parts than by pooling."""
SUMMED_POSITIONS = 16
"""With at least so many positions per channel GroupNorm of a stack is faster by its own sums,"""
NATIVE_POSITIONS, NATIVE_CHANNELS = 1024, 8
"""but not with at least so many of both: torch's kernel works in vectors there."""
NORM_EPSILON = 1e-5
"""Added to variances; torch's default."""


def as_rows(x: Tensor, n: int) -> Tensor:
    """Maps `[batch, n * channels, h, w]` as rows `[batch * positions, n, channels]`, without a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, n, x.shape[1] // n)


def conv(x: Tensor, weight: Tensor, depthwise: bool = False) -> Tensor:
    """Shape-preserving convolution without bias; weight `[n, out, in, k, k]` (`in` is 1 when depthwise)."""
    n, out, into, kernel = weight.shape[:4]
    if kernel == 1 and n == 1:
        return F.linear(x.permute(0, 2, 3, 1), weight.view(out, into)).permute(0, 3, 1, 2)
    if kernel == 1 and into * out >= MATMUL_WEIGHTS and x.shape[2] * x.shape[3] <= MATMUL_POSITIONS:
        return _mix_channels(x, weight.view(n, out, into))
    groups = n * out if depthwise else n
    return F.conv2d(x, weight.flatten(0, 1), padding=kernel // 2, groups=groups)


def _mix_channels(x: Tensor, weight: Tensor) -> Tensor:
    """1×1 convolution as products of matrices; weight `[n, out, in]`."""
    (batch, _, height, width), (n, out, _) = x.shape, weight.shape
    mixed = linear(as_rows(x, n).transpose(0, 1), weight.transpose(1, 2))
    return mixed.transpose(0, 1).reshape(batch, height, width, n * out).permute(0, 3, 1, 2)


def _sum_maps(x: Tensor) -> Tensor:
    """Sum over batch and positions per channel, in an order that does not depend on how many channels there are."""
    pooled = F.avg_pool2d(x, x.shape[2:]).flatten(1)
    return pooled.T.contiguous().sum(1) * (x.shape[2] * x.shape[3])


def _sum_batch(x: Tensor) -> Tensor:
    """Sum of `[batch, n, c]` over the batch, in an order that does not depend on n."""
    return x.flatten(1).T.contiguous().sum(1).view(x.shape[1:])


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


class _NormedSpread(Function):
    """ReLU of GroupNorm of a 1×1 convolution of one channel, all in one pass over the maps.

    The convolution only scales the image, so mean and variance over its outputs follow from those of the image and
    of the weights, and all three steps together are one affine function of the image for each channel.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        first, second = _average(image, len(weight)), _average(image.square(), len(weight))  # [batch, n, 1]
        mean = first * weight.mean(1, keepdim=True)
        variance = second * weight.square().mean(1, keepdim=True) - mean.square()
        rstd = variance.clamp_min_(0).add_(NORM_EPSILON).rsqrt_()
        slope, offset = weight * scale * rstd, shift - mean * scale * rstd
        wide = image.permute(0, 2, 3, 1).repeat_interleave(weight.shape[1], 3).permute(0, 3, 1, 2)
        out = (wide * _per_map(slope)).add_(_per_map(offset)).relu_()
        ctx.save_for_backward(image, wide, weight, scale, first, second, mean, rstd, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, wide, weight, scale, first, second, mean, rstd, out = ctx.saved_tensors
        batch, n, height, width = image.shape
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        plain, imaged = _average(grad, n), _average(grad * wide, n)
        normed = (weight * imaged - mean * plain) * rstd
        # What the norm takes from each gradient: its mean, and its part along the normalised map.
        centre, along = (scale * plain).mean(2, keepdim=True), (scale * normed).mean(2, keepdim=True)
        pull = along * (weight * second - mean * first) * rstd
        weight_grad = _sum_batch((scale * imaged - centre * first - pull) * rstd)
        positions = height * width
        back = None
        if ctx.needs_input_grad[0]:
            total, squared = weight.sum(1, keepdim=True), weight.square().sum(1, keepdim=True)
            maps, rows = (
                grad.permute(0, 2, 3, 1).view(batch, height, width, n, -1),
                image.permute(0, 2, 3, 1).unsqueeze(-1),
            )
            through = (maps * (weight * scale)).sum(-1, keepdim=True) - (centre * total)[:, None, None]
            lean = (along * rstd)[:, None, None] * (rows * squared - (mean * total)[:, None, None])
            back = ((through - lean) * rstd[:, None, None]).squeeze(-1).permute(0, 3, 1, 2)
        return back, weight_grad * positions, _sum_batch(normed) * positions, _sum_batch(plain) * positions


class _NormedMaps(Function):
    """ReLU of GroupNorm, times a factor per channel where there is one, in few passes over the maps.

    With mean and variance at hand the norm is one affine function of the map for each channel. Both directions need
    sums over positions only, and those of the factor's gradient are among them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, factor: Tensor | None) -> Tensor:
        ctx.shape, groups = scale.shape, len(scale) * norm_groups(scale.shape[1])
        scale, shift = scale.reshape(groups, -1), shift.reshape(groups, -1)
        mean = _average(x, groups).mean(2, keepdim=True)
        variance = _average(x.square(), groups).mean(2, keepdim=True) - mean.square()
        rstd = variance.clamp_min_(0).add_(NORM_EPSILON).rsqrt_()
        slope = scale * rstd
        offset = shift - mean * slope
        out = torch.addcmul(_per_map(offset), x, _per_map(slope)).relu_()
        ctx.save_for_backward(x, out, scale, mean, rstd, slope, offset, factor)
        return out if factor is None else out * factor.reshape(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, out, scale, mean, rstd, slope, offset, factor = ctx.saved_tensors
        groups, positions = len(scale), x.shape[2] * x.shape[3]
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        plain, mapped = _average(grad, groups), _average(grad * x, groups)
        factor_grad, through = None, slope
        if factor is not None:
            factor_grad = _sum_batch(slope * mapped + offset * plain).view_as(factor) * positions
            wide = factor.reshape(groups, -1)
            plain, mapped, through = plain * wide, mapped * wide, slope * wide
        normed = (mapped - mean * plain) * rstd
        back = None
        if ctx.needs_input_grad[0]:
            # What the norm takes from each gradient: its mean, and its part along the normalised map.
            centre, along = (scale * plain).mean(2, keepdim=True), (scale * normed).mean(2, keepdim=True) * rstd
            level, lean = (along * mean - centre) * rstd, -along * rstd
            back = torch.addcmul(_per_map(level.expand_as(slope)), x, _per_map(lean.expand_as(slope)))
            back.addcmul_(grad, _per_map(through))
        scale_grad, shift_grad = _sum_batch(normed).view(ctx.shape), _sum_batch(plain).view(ctx.shape)
        return back, scale_grad * positions, shift_grad * positions, factor_grad


def _average(x: Tensor, groups: int) -> Tensor:
    """Mean over positions of maps, as `[batch, groups, channels of a group]`."""
    return F.avg_pool2d(x, x.shape[2:]).reshape(len(x), groups, -1)


def _per_map(v: Tensor) -> Tensor:
    """`[batch, groups, channels]` as 1×1 maps, to be broadcast over positions."""
    return v.reshape(len(v), -1, 1, 1)


def norm_relu(x: Tensor, n: int, scale: Tensor, shift: Tensor, factor: Tensor | None = None) -> Tensor:
    """ReLU of GroupNorm, times a factor per channel where given; scale, shift and factor are `[n, channels]`."""
    channels, positions = scale.shape[1], x.shape[2] * x.shape[3]
    large = positions >= NATIVE_POSITIONS and channels >= NATIVE_CHANNELS
    if n > 1 and positions >= SUMMED_POSITIONS * channels and not large:
        normed: Tensor = _NormedMaps.apply(x, scale, shift, factor)  # type: ignore[no-untyped-call]
        return normed
    x = F.relu_(group_norm(x, n, scale, shift))
    return x if factor is None else channel_scale(x, factor)


def conv_norm_relu(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, factor: Tensor | None = None) -> Tensor:
    """Convolution as in `conv`, GroupNorm and ReLU, times a factor per channel where given; all three `[n, out]`."""
    n, out, into, kernel = weight.shape[:4]
    if kernel == 1 and into == 1 and n > 1 and norm_groups(out) == 1 and factor is None:
        normed: Tensor = _NormedSpread.apply(x, weight.view(n, out), scale, shift)  # type: ignore[no-untyped-call]
        return normed
    return norm_relu(conv(x, weight), n, scale, shift, factor)


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
        if factor.shape == product.shape:
            return back, product
        if len(factor) == 1:
            return back, _sum_maps(product).view(factor.shape)
        return back, F.avg_pool2d(product, product.shape[2:]) * (product.shape[2] * product.shape[3])


def rescale(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply maps by a factor per channel, `[batch, n * channels, 1, 1]`, or the same for the batch with 1.

    A factor of the shape of the maps is one per position.
    """
    scaled: Tensor = _Rescale.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


def channel_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Multiply each channel by its own factor; scale `[n, channels]`."""
    factor = scale.reshape(1, -1, 1, 1)
    return x * factor if len(scale) == 1 else rescale(x, factor)


class _Halve(Function):
    """Mean over 2×2 windows of maps with an even number of rows and columns, as `[batch, h, w, channels]`.

    Whole rows are added first, then neighbouring columns: long sums, which are fast where channels are few. Each of
    the four pixels gets a quarter of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width * channels)
        pairs = (rows[:, :, 0] + rows[:, :, 1]).view(batch, height // 2, width // 2, 2, channels)
        return (pairs[..., 0, :] + pairs[..., 1, :]).mul_(0.25)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        batch, height, width, channels = grad.shape
        quarter = (grad * 0.25).unsqueeze(3)
        rows = torch.cat((quarter, quarter), 3).view(batch, height, 1, -1)
        return torch.cat((rows, rows), 2).view(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def halve(x: Tensor) -> Tensor:
    """Mean over 2×2 windows; what an odd edge leaves over is dropped."""
    height, width = x.shape[2:]
    if height * width < HALVED_POSITIONS or height % 2 or width % 2:
        return F.avg_pool2d(x, 2)
    halved: Tensor = _Halve.apply(x)  # type: ignore[no-untyped-call]
    return halved.permute(0, 3, 1, 2)


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
