"""Images: how they are augmented, and the convolution that turns them into the first maps.

Images are `[hosts, n, height, width, channels]`, or `[1, n, ...]` where all hosts look at the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.network import layers

MARGIN = 4
"""Pixels by which an augmented image is shifted at most, each way."""
VIEWS = 2 * (2 * MARGIN + 1) ** 2
"""Ways to look at an image: every shift, as it is and mirrored."""


def seen(images: Tensor, views: Tensor) -> Tensor:
    """Images shifted and mirrored as their `views [hosts, n]`, numbers below `VIEWS`, say.

    What comes in from beyond the edge is 0, the mean of normalised images.
    """
    device, (hosts, count, height, width) = images.device, images.shape[:4]
    padded = F.pad(images, (0, 0, MARGIN, MARGIN, MARGIN, MARGIN))
    across = padded.shape[3]
    shift, mirrored = views[..., None] // 2, views[..., None] % 2 == 1
    rows = torch.arange(height, device=device) + shift // (2 * MARGIN + 1)
    columns = torch.arange(width, device=device) + shift % (2 * MARGIN + 1)
    columns = torch.where(mirrored, columns.flip(-1), columns)
    first = torch.arange(hosts * count, device=device).view(hosts, count, 1) * (padded.shape[2] * across)
    pixels = (first + rows * across)[..., None] + columns[..., None, :]
    return padded.flatten(0, 3).index_select(0, pixels.flatten()).view_as(images)


def conv_norm_relu(images: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`layers.conv_norm_relu` of images, without laying those of several channels side by side where that can be saved.

    What all hosts look at, as they do in evaluation, is one image for the convolution, with the filters of all of them;
    it rounds otherwise than that of images of their own, which training has. A 1×1 convolution mixes the channels of
    each host's own images first, and what is laid side by side is the smaller outcome.
    """
    n, out, into, kernel = weight.shape[:4]
    if n == 1 or into == 1 or (len(images) > 1 and kernel > 1):
        return layers.conv_norm_relu(side_by_side(images, n), weight, scale, shift)
    if len(images) > 1:
        mixed = layers.linear(images.flatten(1, 3), weight.view(n, out, into).transpose(1, 2))
        maps = side_by_side(mixed.view(*images.shape[:4], out), n)
    elif kernel == 1:
        maps = _mix(images.squeeze(0), weight.reshape(n * out, into)).permute(0, 3, 1, 2)
    else:
        maps = F.conv2d(images.squeeze(0).permute(0, 3, 1, 2), weight.flatten(0, 1), padding=kernel // 2)
    return layers.norm_relu(maps, n, scale, shift)


def _mix(images: Tensor, weight: Tensor) -> Tensor:
    """Mixtures `[..., out]` of channels; unlike a matrix product's, their bits do not depend on how many there are.

    Those of the gradient do: training never comes this way.
    """
    mixed = images[..., :1] * weight[:, 0]
    for channel in range(1, weight.shape[1]):
        mixed = mixed.addcmul(images[..., channel : channel + 1], weight[:, channel])
    return mixed


def side_by_side(images: Tensor, n: int) -> Tensor:
    """The images of n hosts side by side in channels_last, whose strides decide the layout of all that follows.

    Without the copy images of one channel would stay as they lie in memory, and the host would run in NCHW
    until a seed turns its maps: slower, and with other bits. On a CPU stacking is faster for several channels and
    permuting for one.
    """
    if n == 1:
        laid = images.squeeze(0).unsqueeze(3)
    elif images.shape[-1] == 1 or images.device.type != "cpu":
        laid = images.expand(n, *images.shape[1:]).permute(1, 2, 3, 0, 4).contiguous()
    else:
        laid = torch.stack(images.expand(n, *images.shape[1:]).unbind(), 3)
    return laid.flatten(3).permute(0, 3, 1, 2)
