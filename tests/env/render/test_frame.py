from dataclasses import replace

import pytest

from esper_env.actions import Op, Style
from esper_env.lifecycle.stages import Stage
from esper_env.render.frame import PAYS, words
from esper_env.render.text import text
from esper_env.reward import REWARDS
from tests.conftest import action
from tests.env.render.episodes import SCRIPT, in_stage, watched

DURATIONS = ("at once", "over 3 epochs", "over 5 epochs", "over 8 epochs")


def test_events_are_what_happened_to_the_slots(frames):
    said = [(event.epoch, event.slot, event.stage) for event in frames[-1].events()]
    assert said == [
        (1, 0, Stage.GERMINATED),
        (2, 0, Stage.TRAINING),
        (3, 0, Stage.BLENDING),
        (4, 2, Stage.GERMINATED),
        (6, 0, Stage.HOLDING),
        (7, 0, Stage.FOSSILIZED),
        (8, 2, Stage.PRUNED),
        (9, 2, Stage.EMBARGOED),
    ]
    assert [str(event) for event in frames[7].news()] == ["slot 0 is FOSSILIZED"]


def test_a_frame_holds_the_whole_episode_and_the_reward_of_its_last_step(frames):
    assert [epoch.number for epoch in frames[-1].epochs] == list(range(len(SCRIPT) + 1))
    assert frames[5].epochs == frames[-1].epochs[:6]
    assert frames[1].terms["op_cost"] == pytest.approx(-0.02)
    assert frames[-1].reward == pytest.approx(sum(frames[-1].terms.values()))


@pytest.mark.parametrize("op", Op)
def test_every_op_is_said_in_words(op):
    assert words(action(op, 2, "conv_heavy"), 3).startswith(f"{op.name}: ")


@pytest.mark.parametrize(("target", "alpha"), list(enumerate(("0.5", "0.7", "1"))))
@pytest.mark.parametrize(("speed", "time"), list(enumerate(DURATIONS)))
def test_where_alpha_is_taken_is_said_as_a_number_and_in_what_time(target, alpha, speed, time):
    vector = action(Op.SET_ALPHA_TARGET, 1, style=Style.GATED_GATE, target=target, speed=speed)
    assert words(vector, 3) == f"SET_ALPHA_TARGET: take alpha in slot 1 to {alpha} {time}, style GATED_GATE"


@pytest.mark.parametrize("style", Style)
def test_the_style_of_a_seed_is_said_when_it_is_planted_and_its_blend_from_then_on(style, sketch):
    planted, *_, blended = watched([action(Op.GERMINATE, 1, "norm", style), *[action(Op.ADVANCE, 1)] * 2])[1:]
    assert planted.action.endswith(f"slot 1, style {style.name}")
    for frame in (planted, blended):
        (_, algorithm) = style.name.rsplit("_", 1)
        assert [slot.blend for slot in frame.slots] == ["", algorithm, ""]
        assert f"blend {algorithm}" in sketch(frame).told
        (row,) = [line for line in text(frame).splitlines() if line.startswith("slot 1") and "norm" in line]
        assert algorithm in row.split()


def test_a_ramp_is_said_to_run_only_until_it_has_ended():
    steps = [action(Op.GERMINATE, 0, "norm", tempo=0, target=1), *[action(Op.ADVANCE, 0)] * 2, *[action()] * 4]
    seen = [frame.slots[0] for frame in watched([*steps, action(Op.PRUNE, 0, speed=1), action()])]
    blending = [slot for slot in seen if slot.stage == Stage.BLENDING]
    assert {slot.meaning for slot in blending} == {"alpha goes to 0.7", "alpha rests at 0.7", "fades out"}
    for slot in blending:
        assert slot.moving == (abs(slot.alpha - slot.target) > 1e-9)
        assert (slot.meaning == "alpha rests at 0.7") == (slot.alpha == pytest.approx(0.7) and not slot.moving)


@pytest.mark.parametrize(("points", "worth"), [(-0.04, "0.0"), (0.04, "0.0"), (-0.06, "-0.1"), (12.34, "+12.3")])
def test_what_is_worth_nothing_has_no_sign(sketch, frames, points, worth):
    frame = in_stage(frames[-1], Stage.HOLDING)
    slots = tuple(replace(slot, contribution=points) for slot in frame.slots)
    shown = replace(frame, slots=slots)
    assert f"worth {worth} points" in sketch(shown).told
    (row,) = [line for line in text(shown).splitlines() if line.startswith("slot 1") and "attention" in line]
    assert worth in row.split()


@pytest.mark.parametrize("mode", [mode for mode in REWARDS if REWARDS[mode].__module__ == "esper_env.reward"])
def test_every_term_of_the_reward_is_explained(mode):
    (frame,) = watched([], reward=mode)
    assert frame.terms
    assert set(frame.terms) <= set(PAYS)


def test_numbers_outside_the_action_space_are_said_as_they_are():
    assert words([99, -1, 7, 0, 0, 0, 0, Op.GERMINATE], 3) == "GERMINATE: plant -1 in slot 99, style 7"
    assert words([0, 0, 0, 0, 0, 0, 0, 17], 3) == "17: there is no such op"


@pytest.mark.parametrize(("slots", "blocks"), [(3, [(1, 1), (2, 2), (3, 3)]), (2, [(1, 2), (3, 3)]), (1, [(1, 3)])])
def test_every_block_stands_before_a_slot(slots, blocks):
    assert [slot.blocks for slot in watched([], num_slots=slots)[0].slots] == blocks
