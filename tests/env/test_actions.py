"""The action tables and the codec, against tables written out from domain.md §1."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from esper_env.actions import (
    ACTION_HEADS,
    ALPHA_SPEEDS,
    ALPHA_TARGETS,
    BLUEPRINTS,
    CAUSAL_HEADS,
    CAUSAL_MASK,
    CURVE_STEEPNESS,
    HEAD_INDEX,
    HEAD_NAMES,
    NOOP,
    STYLE_ALGORITHM,
    STYLE_CURVE,
    TEMPOS,
    Algorithm,
    Curve,
    Op,
    Style,
    action_heads,
    blueprint_names,
    decode,
    head_sizes,
)
from esper_env.lifecycle.stages import Stage
from tests.env.lifecycle_reference import ALGORITHMS, BLUEPRINT_NAMES, CURVES, HEADS, HEADS_THAT_MATTER, OPS, STAGES

HUGE = [-1, -2, -(2**62), 2**62, 13, 100]
SIZES = {"slot": 3, "blueprint": 13, "style": 4, "tempo": 3, "alpha_target": 3, "alpha_speed": 4, "alpha_curve": 5}
CANONICAL = {
    "slot": "0",
    "blueprint": "noop",
    "style": "SIGMOID_ADD",
    "tempo": "STANDARD",
    "alpha_target": "FULL",
    "alpha_speed": "INSTANT",
    "alpha_curve": "LINEAR",
    "op": "WAIT",
}


def one(op: int = 0, **heads: int) -> np.ndarray:
    return np.array([[{**heads, "op": op}.get(name, 0) for name in HEADS]])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.tuples(*[st.one_of(st.integers(0, 5), st.sampled_from(HUGE))] * 8), min_size=1, max_size=6))
def test_whatever_it_is_given_the_codec_returns_values_of_the_simulation(rows: list[tuple[int, ...]]) -> None:
    actions = decode(np.array(rows), 3, 13)
    assert set(actions.op.tolist()) <= set(range(6))
    assert set(actions.slot.tolist()) <= set(range(3))
    assert set(actions.blueprint.tolist()) <= set(range(13))
    assert set(actions.algorithm.tolist()) <= set(range(3))
    assert set(actions.first_curve.tolist()) <= set(range(5))
    assert set(actions.tempo.tolist()) <= {3, 5, 8}
    assert set(actions.alpha_target.tolist()) <= {0.5, 0.7, 1.0}
    assert set(actions.alpha_speed.tolist()) <= {0, 3, 5, 8}
    assert set(actions.alpha_curve.tolist()) <= set(range(5))
    sizes = {**SIZES, "op": 6}
    for row, in_space in zip(rows, actions.in_space, strict=True):
        given_heads = dict(zip(HEADS, row, strict=True))
        op = given_heads["op"]
        inside = 0 <= op < 6 and all(0 <= given_heads[h] < sizes[h] for h in HEADS_THAT_MATTER[OPS[op]])
        assert in_space == inside


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(-2, 14)] * 8), min_size=1, max_size=6))
def test_a_batch_decodes_to_what_its_rows_decode_to_alone(rows: list[tuple[int, ...]]) -> None:
    together = decode(np.array(rows), 3, 13)
    for i, row in enumerate(rows):
        alone = decode(np.array([row]), 3, 13)
        for name, values in vars(together).items():
            assert values[i] == getattr(alone, name)[0], name


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8])
def test_any_integer_type_decodes_alike(dtype: type) -> None:
    rows = np.random.default_rng(0).integers(-1, 14, (200, 8))
    wide, narrow = decode(rows, 3, 13), decode(rows.astype(dtype), 3, 13)
    for name, values in vars(wide).items():
        np.testing.assert_array_equal(values, getattr(narrow, name), name)


@pytest.mark.parametrize("op", [-1, 6, -(2**62), 2**62])
def test_an_op_outside_the_space_is_a_wait_that_does_not_execute(op: int) -> None:
    actions = decode(one(op), 3, 13)
    assert (actions.op.item(), actions.in_space.item()) == (Op.WAIT, False)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("head", list(SIZES))
@pytest.mark.parametrize("op", Op)
def test_a_value_outside_the_space_is_flagged_exactly_when_its_head_matters(op: Op, head: str, value: int) -> None:
    actions = decode(one(op, **{head: value}), 3, 13)
    assert actions.op.item() == op
    assert actions.in_space.item() is (head not in HEADS_THAT_MATTER[op.name])


def test_a_value_outside_the_space_becomes_the_canonical_one() -> None:
    actions = decode(np.array([[-1, 99, -1, 99, -1, 99, -1, 0]]), 3, 13)
    assert (actions.slot.item(), actions.blueprint.item()) == (0, NOOP)
    assert (actions.algorithm.item(), actions.first_curve.item()) == (Algorithm.ADD, Curve.SIGMOID)
    assert (actions.tempo.item(), actions.alpha_target.item()) == (5, 1.0)
    assert (actions.alpha_speed.item(), actions.alpha_curve.item()) == (0, Curve.LINEAR)


def test_decoding_leaves_the_vectors_alone() -> None:
    vectors = np.array([[-1, 99, -1, 99, -1, 99, -1, 77]])
    before = vectors.copy()
    decode(vectors, 3, 13)
    np.testing.assert_array_equal(vectors, before)


def test_heads_ops_and_choices_are_those_of_the_domain_in_its_order() -> None:
    choices = {head.name: head.choices for head in ACTION_HEADS}
    assert list(choices) == list(HEAD_NAMES) == HEADS
    assert choices == {
        "slot": ("0", "1", "2"),
        "blueprint": tuple(BLUEPRINT_NAMES),
        "style": ("LINEAR_ADD", "LINEAR_MULTIPLY", "SIGMOID_ADD", "GATED_GATE"),
        "tempo": ("FAST", "STANDARD", "SLOW"),
        "alpha_target": ("HALF", "SEVENTY", "FULL"),
        "alpha_speed": ("INSTANT", "FAST", "MEDIUM", "SLOW"),
        "alpha_curve": tuple(CURVES),
        "op": tuple(OPS),
    }
    assert [(op.name, op.value) for op in Op] == [(name, i) for i, name in enumerate(OPS)]
    assert [HEAD_INDEX[name] for name in HEADS] == list(range(8))


def test_stages_are_numbered_as_in_the_one_hot_encoding() -> None:
    assert [(stage.name, stage.value) for stage in Stage] == [(name, i) for i, name in enumerate(STAGES)]


def test_canonical_values_are_those_of_the_domain() -> None:
    assert {head.name: head.choices[head.canonical] for head in ACTION_HEADS} == CANONICAL


def test_which_head_matters_for_which_op_is_the_causal_table() -> None:
    assert {op.name: set(heads) for op, heads in CAUSAL_HEADS.items()} == HEADS_THAT_MATTER
    for op in Op:
        for i, head in enumerate(HEADS):
            assert CAUSAL_MASK[op, i] == (head == "op" or head in HEADS_THAT_MATTER[op.name])


@pytest.mark.parametrize("num_slots", [3, 5])
def test_head_sizes_follow_the_number_of_slots(num_slots: int) -> None:
    expected = (num_slots, 13, 4, 3, 3, 4, 5, 6)
    assert head_sizes(num_slots, 13) == expected
    assert tuple(head.size for head in action_heads(num_slots)) == expected


def test_three_slots_make_41_choices_and_further_blueprints_widen_their_head() -> None:
    assert sum(head_sizes(3, 13)) == 41
    assert head_sizes(3, 15)[1] == 15
    heads = action_heads(2, ("noop", "mine"))
    assert heads[1].choices == ("noop", "mine")


@pytest.mark.parametrize(
    ("style", "algorithm", "curve"),
    [
        ("LINEAR_ADD", "ADD", "LINEAR"),
        ("LINEAR_MULTIPLY", "MULTIPLY", "LINEAR"),
        ("SIGMOID_ADD", "ADD", "SIGMOID"),
        ("GATED_GATE", "GATE", "LINEAR"),
    ],
)
def test_a_style_means_an_algorithm_and_a_first_curve(style: str, algorithm: str, curve: str) -> None:
    actions = decode(one(Op.GERMINATE, style=Style[style]), 3, 13)
    assert Algorithm(actions.algorithm.item()).name == algorithm
    assert Curve(actions.first_curve.item()).name == curve
    assert STYLE_ALGORITHM[Style[style]] == Algorithm[algorithm]
    assert STYLE_CURVE[Style[style]] == Curve[curve]


def test_choices_mean_the_epochs_alphas_and_steepnesses_of_the_domain() -> None:
    assert TEMPOS.tolist() == [3, 5, 8]
    assert ALPHA_TARGETS.tolist() == [0.5, 0.7, 1.0]
    assert ALPHA_SPEEDS.tolist() == [0, 3, 5, 8]
    assert {curve.name: k for curve, k in CURVE_STEEPNESS.items()} == {
        "SIGMOID_GENTLE": 6,
        "SIGMOID": 12,
        "SIGMOID_SHARP": 24,
    }
    assert [algorithm.name for algorithm in Algorithm] == ALGORITHMS


CONVOLUTIONAL = {"conv_light", "depthwise", "bottleneck", "conv_small", "conv_heavy"}
LANGUAGE = {"lora", "lora_large", "mlp_small", "mlp", "flex_attention"}


def test_every_blueprint_suits_the_topologies_of_the_domain_and_noop_none() -> None:
    rows = {row.name: set(row.topologies) for row in BLUEPRINTS if row.name in BLUEPRINT_NAMES}
    both = {"attention", "norm"}
    assert rows == (
        {"noop": set()}
        | {name: {"cnn"} for name in CONVOLUTIONAL}
        | {name: {"transformer"} for name in LANGUAGE}
        | {name: {"cnn", "transformer"} for name in both}
    )
    assert blueprint_names()[: len(BLUEPRINT_NAMES)] == tuple(BLUEPRINT_NAMES)
    assert blueprint_names()[NOOP] == "noop"
