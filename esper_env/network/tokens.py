"""Stacked layers for sequences: n language models computed by one kernel.

At slots a text is a feature map like any other, `[batch, n * width, positions, 1]` in channels_last. Inside blocks
and blueprints it is rows `[batch * positions, n, width]`, which is the same memory, or vectors
`[n, batch * positions, width]`, a view of it. No layer lets a position see what comes after it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.network.layers import as_rows, linear


def as_vectors(x: Tensor, n: int) -> Tensor:
    """Maps as vectors `[n, batch * positions, width]`, without a copy."""
    return as_rows(x, n).transpose(0, 1)


def rows_as_maps(rows: Tensor, batch: int) -> Tensor:
    """The inverse of `as_rows`."""
    return rows.reshape(batch, -1, 1, rows.shape[1] * rows.shape[2]).permute(0, 3, 1, 2)


def as_maps(v: Tensor, batch: int) -> Tensor:
    """The inverse of `as_vectors`."""
    return rows_as_maps(v.transpose(0, 1), batch)


def embed(tokens: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Tokens `[batch, n, length]` as maps, by tables `[n, vocabulary, width]` and `[n, positions, width]`."""
    n, vocabulary, width = table.shape
    batch, _, length = tokens.shape
    first = torch.arange(n, device=tokens.device)[:, None] * vocabulary
    # All of one host, then all of the next: the order in which gradients add up must not depend on the neighbours.
    words = F.embedding((tokens + first).transpose(0, 1), table.flatten(0, 1))
    embedded = words + positions[:, None, :length]
    return as_maps(embedded.view(n, batch * length, width), batch)


def layer_norm(rows: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """LayerNorm of rows `[positions, n, width]`; scale and shift are `[n, width]`."""
    normed = F.layer_norm(rows, rows.shape[-1:])
    return normed if scale is None or shift is None else torch.addcmul(shift, normed, scale)


def attend(qkv: Tensor, batch: int, heads: int, mask: Tensor | None = None) -> Tensor:
    """Causal self-attention of vectors `[n, batch * positions, 3 * width]`, which hold queries, keys and values.

    Args:
        qkv: what attends to what, and gets what.
        batch: sequences per network.
        heads: attention heads.
        mask: `[positions, positions]`, True where a position may look; everything before it when None.

    Returns:
        Vectors `[n, batch * positions, width]`.
    """
    n, rows, wide = qkv.shape
    parts = qkv.reshape(n * batch, rows // batch, 3, heads, wide // (3 * heads)).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask, is_causal=mask is None)
    return attended.transpose(1, 2).reshape(n, rows, wide // 3)


def self_attention(v: Tensor, into: Tensor, out: Tensor, batch: int, heads: int) -> Tensor:
    """Causal self-attention of vectors, with its projections `[n, width, 3 * width]` and `[n, width, width]`."""
    return linear(attend(linear(v, into), batch, heads), out)


def perceive(v: Tensor, into: Tensor, out: Tensor) -> Tensor:
    """Two linear layers with a GELU between them."""
    return linear(F.gelu(linear(v, into)), out)


def attention_macs(positions: int, reach: int, width: int) -> int:
    """Multiply-accumulates of scores and sums, where each position looks at so many."""
    return 2 * positions * reach * width
