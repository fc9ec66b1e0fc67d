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
def _by_choice(num_slots: int, num_blueprints: int) -> tuple[Bools, Bools]:
    """For every choice of the flat mask: `[op, choice]` does its head matter for the op; is it canonical?"""
    sizes = head_sizes(num_slots, num_blueprints)
    canonical = [np.arange(size) == head.canonical for head, size in zip(ACTION_HEADS, sizes, strict=True)]
    return np.repeat(CAUSAL_MASK, sizes, axis=1), np.concatenate(canonical)


def masks(legal: Bools, plantable: Bools) -> Masks:
    """Every head's valid choices, given `legal[env, op, slot]` and the plantable blueprints.

    A head that cannot matter in a state allows exactly its canonical value, so that every head always allows
    something. The rows of WAIT and of ops that are legal nowhere allow the canonical slot only.
    """
    num_slots = legal.shape[2]
    spans = head_slices(num_slots, len(plantable))
    legal_op = np.any(legal, axis=2)
    acting = legal.copy()
    acting[:, Op.WAIT] = False

    slot = np.any(acting, axis=1)
    slot[:, 0] |= ~np.any(slot, axis=1)
    canonical_slot = np.arange(num_slots) == slot.argmax(1)[:, None]
    slot_by_op = np.where(np.any(acting, axis=2, keepdims=True), acting, canonical_slot[:, None, :])

    causal, idle = _by_choice(num_slots, len(plantable))
    choices = np.ones(causal.shape[1], bool)
    choices[spans["blueprint"]] = plantable
    heads = np.where(legal_op @ causal, choices, idle)
    heads[:, spans["slot"]] = slot
    heads[:, spans["op"]] = legal_op
    return Masks(heads, slot_by_op)
