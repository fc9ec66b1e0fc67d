"""Masks against a plain reading of domain.md §7."""

import numpy as np
import pytest

from esper_env.actions import Op, action_heads
from esper_env.config import LifecycleConfig
from esper_env.lifecycle.legality import legality
from esper_env.lifecycle.state import Slots
from esper_env.masks import head_slices, masks
from tests.env.lifecycle_reference import (
    BLUEPRINT_NAMES,
    HEADS,
    HEADS_THAT_MATTER,
    OPS,
    random_config,
    random_plantable,
    random_states,
)

SIZES = {"style": 4, "tempo": 3, "alpha_target": 3, "alpha_speed": 4, "alpha_curve": 5}
CANONICAL = {"blueprint": 0, "style": 2, "tempo": 1, "alpha_target": 2, "alpha_speed": 0, "alpha_curve": 0}


def plain_masks(legal: np.ndarray, plantable: list[bool]) -> tuple[dict[str, list[bool]], list[list[bool]]]:
    """One environment's masks, read off the page; `legal[op, slot]`."""
    num_slots = legal.shape[1]
    usable = [op for op in range(1, 6) if any(legal[op, s] for s in range(num_slots))]
    slot = [any(legal[op, s] for op in usable) for s in range(num_slots)]
    if not any(slot):
        slot[0] = True
    canonical_slot = slot.index(True)
    heads = {"slot": slot, "op": [op == 0 or op in usable for op in range(6)]}
    for head, canonical in CANONICAL.items():
        matters = any(head in HEADS_THAT_MATTER[OPS[op]] for op in usable)
        if head == "blueprint":
            heads[head] = [plantable[b] if matters else b == canonical for b in range(len(plantable))]
        else:
            heads[head] = [matters or value == canonical for value in range(SIZES[head])]
    rows = []
    for op in range(6):
        if op in usable:
            rows.append([bool(legal[op, s]) for s in range(num_slots)])
        else:
            rows.append([s == canonical_slot for s in range(num_slots)])
    return heads, rows


def lawful(rng: np.random.Generator, envs: int, num_slots: int, plantable: list[bool]) -> np.ndarray:
    slots, epoch, accuracy = random_states(rng, envs, num_slots)
    return legality(slots, epoch, accuracy, np.array(plantable), random_config(rng, num_slots))


def arbitrary(rng: np.random.Generator, envs: int, num_slots: int, plantable: list[bool]) -> np.ndarray:
    legal = rng.random((envs, 6, num_slots)) < rng.choice([0.02, 0.2, 0.8], (envs, 1, 1))
    legal[:, Op.WAIT] = True
    legal[:, Op.GERMINATE] &= any(plantable)
    return legal


@pytest.mark.parametrize("states", [lawful, arbitrary])
@pytest.mark.parametrize("seed", range(4))
def test_masks_are_what_the_plain_reading_says(seed: int, states) -> None:
    rng = np.random.default_rng(seed)
    for num_slots in (1, 3, 5):
        plantable = random_plantable(rng)
        legal = states(rng, 300, num_slots, plantable)
        found = masks(legal, np.array(plantable))
        spans = head_slices(num_slots, len(plantable))
        for env in range(300):
            heads, rows = plain_masks(legal[env], plantable)
            assert {name: found.heads[env, span].tolist() for name, span in spans.items()} == heads
            assert found.slot_by_op[env].tolist() == rows


@pytest.mark.parametrize("states", [lawful, arbitrary])
def test_every_head_and_every_row_has_a_choice_and_the_canonical_action_lies_inside(states) -> None:
    rng = np.random.default_rng(9)
    for num_slots in (1, 3, 5):
        plantable = random_plantable(rng)
        found = masks(states(rng, 1000, num_slots, plantable), np.array(plantable))
        spans = head_slices(num_slots, len(plantable))
        for span in spans.values():
            assert found.heads[:, span].any(1).all()
        assert found.slot_by_op.any(2).all()
        assert found.heads[:, spans["op"]][:, Op.WAIT].all()
        canonical = found.heads[:, spans["slot"]].argmax(1)
        assert (found.slot_by_op[:, Op.WAIT].argmax(1) == canonical).all()
        assert (found.slot_by_op[:, Op.WAIT].sum(1) == 1).all()


def test_noop_is_allowed_only_while_nothing_can_be_planted() -> None:
    rng = np.random.default_rng(3)
    plantable = random_plantable(rng)
    legal = lawful(rng, 2000, 3, plantable)
    blueprint = masks(legal, np.array(plantable)).heads[:, head_slices(3, len(plantable))["blueprint"]]
    germinate = legal[:, Op.GERMINATE].any(1)
    assert germinate.any()
    assert not germinate.all()
    np.testing.assert_array_equal(blueprint[:, 0], ~germinate)


def test_masks_neither_change_nor_share_the_legality_that_they_are_made_of() -> None:
    legal = lawful(np.random.default_rng(1), 50, 3, [False, True])
    before = legal.copy()
    found = masks(legal, np.array([False, True]))
    found.heads[:], found.slot_by_op[:] = False, False
    np.testing.assert_array_equal(legal, before)
    assert masks(legal, np.array([False, True])).heads.any()


@pytest.mark.parametrize("num_slots", [1, 3, 5])
def test_the_flat_mask_is_laid_out_in_the_order_of_the_heads(num_slots: int) -> None:
    spans = head_slices(num_slots, len(BLUEPRINT_NAMES))
    sizes = [head.size for head in action_heads(num_slots)]
    assert list(spans) == HEADS
    assert [span.stop - span.start for span in spans.values()] == sizes
    assert [span.start for span in spans.values()] == [sum(sizes[:i]) for i in range(8)]


def test_a_fresh_environment_of_three_slots_may_wait_or_germinate_anywhere() -> None:
    plantable = np.array([name in ("conv_light", "norm") for name in BLUEPRINT_NAMES])
    legal = legality(Slots.dormant(1, 3), np.zeros(1, np.int64), np.zeros(1), plantable, LifecycleConfig())
    found = masks(legal, plantable)
    assert found.heads.shape == (1, 41)
    assert found.slot_by_op.shape == (1, 6, 3)
    text = {name: "".join("01"[int(v)] for v in found.heads[0, span]) for name, span in head_slices(3, 13).items()}
    assert text == {
        "slot": "111",
        "blueprint": "0101000000000",
        "style": "1111",
        "tempo": "111",
        "alpha_target": "111",
        "alpha_speed": "1000",
        "alpha_curve": "10000",
        "op": "110000",
    }
    rows = ["".join("01"[int(v)] for v in row) for row in found.slot_by_op[0]]
    assert rows == ["100", "111", "100", "100", "100", "100"]
