"""Action masks of the present state, from the legality array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esper_env.actions import ACTION_HEADS, CAUSAL_HEADS, HEAD_INDEX, NOOP, Op, head_sizes
from esper_env.arrays import Arrays, Bools


@dataclass
class Masks(Arrays):
    """`heads` is `[envs, sum(nvec)]` in head order; `slot_by_op` is the joint truth `[envs, ops, slots]`."""

    heads: Bools
    slot_by_op: Bools


def head_slices(num_slots: int, num_blueprints: int) -> dict[str, slice]:
    """Where each head's choices lie in the flat mask."""
    spans, start = {}, 0
    for name, size in zip(HEAD_INDEX, head_sizes(num_slots, num_blueprints), strict=True):
        spans[name] = slice(start, start + size)
        start += size
    return spans


_OPS_OF_HEAD = {
    head: [op for op in Op if head in CAUSAL_HEADS[op]] for head in HEAD_INDEX if head not in ("op", "slot")
}


def masks(legal: Bools, plantable: Bools) -> Masks:
    """Every head's valid choices, given `legal[env, op, slot]` and the plantable blueprints.

    A head that cannot matter in a state allows exactly its canonical value, so that every head always allows
    something. The rows of WAIT and of ops that are legal nowhere allow the canonical slot only.
    """
    envs, _, num_slots = legal.shape
    spans = head_slices(num_slots, len(plantable))
    legal_op = legal.any(2)
    acting = legal.copy()
    acting[:, Op.WAIT] = False

    slot = acting.any(1)
    slot[:, 0] |= ~slot.any(1)
    canonical_slot = np.arange(num_slots) == slot.argmax(1)[:, None]
    slot_by_op = np.where(acting.any(2)[:, :, None], acting, canonical_slot[:, None, :])

    flat = np.zeros((envs, spans["op"].stop), bool)
    flat[:, spans["slot"]] = slot
    flat[:, spans["op"]] = legal_op
    for head in ACTION_HEADS:
        if head.name in ("slot", "op"):
            continue
        matters = legal_op[:, _OPS_OF_HEAD[head.name]].any(1)[:, None]
        choices = plantable if head.name == "blueprint" else np.ones(head.size, bool)
        idle = np.arange(len(choices)) == (NOOP if head.name == "blueprint" else head.canonical)
        flat[:, spans[head.name]] = np.where(matters, choices, idle)
    return Masks(flat, slot_by_op)
