"""Action masks of the present state, from the legality array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from esper_env.actions import ACTION_HEADS, CAUSAL_MASK, HEAD_INDEX, Op, head_sizes
from esper_env.arrays import Arrays, Bools


@dataclass
class Masks(Arrays):
    """`heads` is `[envs, sum(nvec)]` in head order; `slot_by_op` is the joint truth `[envs, ops, slots]`."""

    heads: Bools
    slot_by_op: Bools


@cache
def head_slices(num_slots: int, num_blueprints: int) -> dict[str, slice]:
    """Where each head's choices lie in the flat mask."""
    spans, start = {}, 0
    for name, size in zip(HEAD_INDEX, head_sizes(num_slots, num_blueprints), strict=True):
        spans[name] = slice(start, start + size)
        start += size
    return spans


@cache
def _by_ops(num_slots: int, plantable: bytes) -> Bools:
    """The flat mask of every set of legal ops, `[set, choice]`, but for the slots: they differ by the state.

    A head that cannot matter for any of the ops allows exactly its canonical value.
    """
    blueprints = np.frombuffer(plantable, bool)
    sizes, spans = head_sizes(num_slots, len(blueprints)), head_slices(num_slots, len(blueprints))
    sets = np.arange(1 << len(Op), dtype=np.uint8)[:, None]
    legal_op = np.unpackbits(sets, axis=1, count=len(Op), bitorder="little").astype(bool)
    choices = np.ones(sum(sizes), bool)
    choices[spans["blueprint"]] = blueprints
    canonical = [np.arange(size) == head.canonical for head, size in zip(ACTION_HEADS, sizes, strict=True)]
    matters = legal_op @ np.repeat(CAUSAL_MASK, sizes, axis=1)
    heads = np.where(matters, choices, np.concatenate(canonical))
    heads[:, spans["op"]] = legal_op
    return heads


def masks(legal: Bools, plantable: Bools) -> Masks:
    """Every head's valid choices, given `legal[env, op, slot]` and the plantable blueprints.

    A head that cannot matter in a state allows exactly its canonical value, so that every head always allows
    something. The rows of WAIT and of ops that are legal nowhere allow the canonical slot only.
    """
    num_slots = legal.shape[2]
    legal_op = np.asarray(legal.any(2))
    ops = np.packbits(legal_op, axis=1, bitorder="little")[:, 0]

    slot = legal[:, Op.WAIT + 1 :].any(1)
    canonical_slot = np.asarray(np.arange(num_slots) == slot.argmax(1)[:, None])
    slot_by_op = np.where(legal_op[:, :, None], legal, canonical_slot[:, None])
    slot_by_op[:, Op.WAIT] = canonical_slot

    heads = _by_ops(num_slots, plantable.tobytes()).take(ops, axis=0)
    heads[:, head_slices(num_slots, len(plantable))["slot"]] = slot | canonical_slot
    return Masks(heads, slot_by_op)
