from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from esper_env.lifecycle.stages import Stage
from esper_env.render.frame import PAYS
from esper_env.render.picture import ACCURACY, ALARM, COLOURS, HEIGHT, INK, PERMANENT, WIDTH, picture
from esper_env.render.text import text
from tests.env.render.episodes import LAYOUTS, SCRIPT, STAGES, crowded, in_stage, watched

READABLE = 3.5
"""The least contrast between words and what they stand on."""


def contrast(colour, ground):
    """By the definition of the W3C: 1 for the same colour, 21 for black on white."""

    def luminance(rgb):
        shares = np.array(rgb) / 255
        return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    dark, light = sorted((luminance(colour), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


def holds(pixels, colour):
    return bool((pixels == np.array(colour, np.uint8)).all(-1).any())


def test_pictures_are_rgb_and_change_with_every_epoch(frames):
    pictures = [picture(frame) for frame in frames]
    for pixels in pictures:
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert pixels.dtype == np.uint8
    assert all((a != b).any() for a, b in pairwise(pictures))
    np.testing.assert_array_equal(picture(frames[-1]), pictures[-1])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_drawn_in_its_colour(frames, stage):
    assert holds(picture(in_stage(frames[0], stage)), COLOURS[stage])
    assert (picture(in_stage(frames[0], stage)) != picture(frames[0])).any() or stage == Stage.DORMANT


def test_alpha_is_opacity(frames):
    def seed(alpha):
        frame = in_stage(frames[-1], Stage.BLENDING)
        slots = (frame.slots[0], replace(frame.slots[1], alpha=alpha), frame.slots[2])
        return picture(replace(frame, slots=slots))[160:200, 500:530].mean()

    assert seed(0.1) > seed(0.5) > seed(1.0)


def test_the_curves_and_a_rollback_are_drawn(frames):
    first, last = picture(frames[0]), picture(frames[-1])
    chart = np.s_[340:500, 90:640]
    for colour in (ACCURACY, PERMANENT):
        assert holds(last[chart], colour)
    assert not holds(last[chart], ALARM)
    lost = replace(frames[-1], epochs=(*frames[-1].epochs[:-1], replace(frames[-1].now, rolled_back=True)))
    assert holds(picture(lost)[chart], ALARM)
    assert "rolled back" in text(lost)
    assert (first[chart] != last[chart]).any()


@pytest.mark.parametrize("options", [{"task": "digits_deep"}, {"num_slots": 1}, {"task": "shapes"}])
def test_hosts_of_any_number_of_slots_are_drawn(options):
    for frame in watched(SCRIPT[:3], **options):
        assert holds(picture(frame), ACCURACY)
        assert text(frame).count("DORMANT") >= len(frame.slots) - 1


@pytest.mark.parametrize(("name", "num_slots"), LAYOUTS)
def test_the_words_of_every_task_stand_apart_within_the_picture_and_whole(sketch, name, num_slots):
    for turn in range(0, len(STAGES), 2):
        frame = crowded(name, num_slots, turn)
        unended = replace(frame, test_accuracy=None)
        for drawn in (sketch(frame), sketch(unended), sketch(replace(frame, epochs=frame.epochs[:1], action=""))):
            for said, (left, top, right, bottom) in drawn.placed:
                assert 0 <= left <= right <= WIDTH, said
                assert 0 <= top <= bottom <= HEIGHT, said
                assert "…" not in said
            for (said, one), (other, two) in combinations(drawn.placed, 2):
                apart = one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
                assert apart, (said, other)
            assert f"task {name}" in drawn.told


@pytest.mark.parametrize("turn", range(len(STAGES)))
def test_words_can_be_told_from_what_they_stand_on(sketch, turn):
    for num_slots in (1, 3, 5):
        drawn = sketch(crowded("cifar10_deep_multichannel", num_slots, turn))
        for at, said, colour in drawn.said:
            assert contrast(colour or INK, drawn.under(at)) >= READABLE, said


def test_the_words_of_a_host_fit_its_blocks(sketch):
    for name, num_slots in LAYOUTS:
        drawn = sketch(crowded(name, num_slots, 0))
        blocks = [(x, x + width) for (x, y), (width, height), _ in drawn.boxes if height == 48]
        for said, (left, _, right, _) in drawn.placed:
            if said.startswith(("block ", "blocks ", "width ")) or said.endswith(" channels"):
                assert any(begin <= left and right <= end for begin, end in blocks), said


def test_what_is_longer_than_a_picture_is_cut(sketch, frames):
    slots = tuple(replace(slot, blueprint="endless" * 20) for slot in frames[-1].slots)
    drawn = sketch(replace(frames[-1], slots=slots, task="endless" * 40))
    assert sum("…" in said for said, _ in drawn.placed) == 1 + len(slots)
    assert all(0 <= left <= right <= WIDTH for _, (left, _, right, _) in drawn.placed)


def test_terms_without_room_are_taken_together(frames):
    verdict = np.s_[530:, 660:]
    many = replace(frames[-1], terms={f"term{i}": 0.5 for i in range(30)}, test_accuracy=50.0)
    np.testing.assert_array_equal(picture(many)[verdict], picture(replace(many, terms={}))[verdict])


def test_the_picture_tells_what_was_done_what_came_of_it_and_what_it_paid(sketch, frames):
    assert "none yet" in sketch(frames[0]).told
    for frame in frames[1:]:
        drawn = sketch(frame)
        assert f"epoch {frame.now.number} of 12" in drawn.told
        assert f"{frame.now.value:.1f} %" in drawn.told
        assert f"task digits 390 parameters + {sum(slot.params for slot in frame.slots)} in seeds" in drawn.told
        assert frame.action in drawn.told
        assert ("not legal: it waited instead" in drawn.told) == (not frame.executed)
        for event in frame.news():
            assert str(event) in drawn.told
        assert drawn.beside("Reward of this epoch")[0][0] == f"{frame.reward:+.3f}"
        for name, value in frame.terms.items():
            if abs(value) >= 0.0005:
                meaning, paid = drawn.beside(name)
                assert meaning[0] == PAYS[name].brief
                assert paid == (f"{value:+.3f}", ACCURACY if value > 0 else ALARM)
    assert not frames[-1].executed


def test_the_picture_names_every_slot_and_what_is_in_it(sketch, frames):
    for frame in frames:
        drawn = sketch(frame)
        for number, slot in enumerate(frame.slots):
            assert f"slot {number}: {slot.blueprint or 'empty'}" in drawn.told
            assert slot.stage == Stage.DORMANT or slot.stage.name in drawn.told
    said = [(words, colour) for _, words, colour in sketch(in_stage(frames[-1], Stage.HOLDING)).said]
    assert ("worth -2.5 points", ALARM) in said
    assert "0.40" in [words for words, _ in said]
    assert "7 parameters" in [words for words, _ in said]


def test_the_verdict_is_of_the_test_data(sketch, frames):
    assert "The end" not in sketch(frames[-1]).told
    assert "The end: 12.5 % on the test data" in sketch(replace(frames[-1], test_accuracy=12.5)).told


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_the_bar_of_a_slot_is_as_full_as_its_alpha(sketch, frames, alpha):
    frame = in_stage(frames[0], Stage.BLENDING)
    frame = replace(frame, slots=(frame.slots[0], replace(frame.slots[1], alpha=alpha), frame.slots[2]))
    bars = [(corner, size, fill) for corner, size, fill in sketch(frame).boxes if size[1] == 9]
    (whole, full) = bars
    assert (whole[0], full[0], full[2]) == (full[0], whole[0], COLOURS[Stage.BLENDING])
    assert full[1][0] == pytest.approx(alpha * whole[1][0])


@pytest.mark.parametrize("target", [0.0, 0.25, 0.7, 1.0])
def test_a_mark_on_the_bar_stands_where_alpha_goes_and_is_gone_once_it_is_there(sketch, frames, target):
    def marks(alpha):
        frame = in_stage(frames[0], Stage.BLENDING)
        moved = replace(frame.slots[1], alpha=alpha, target=target)
        drawn = sketch(replace(frame, slots=(frame.slots[0], moved, frame.slots[2])))
        ((left, _), (width, _), _), *_ = [box for box in drawn.boxes if box[1][1] == 9]
        across = [points for points, _ in drawn.lines if len(points) == 2 and points[0][0] == points[1][0]]
        return [(x - left) / width for ((x, top), (_, bottom)) in across if bottom - top == 15]

    assert marks(0.4) == [pytest.approx(target)]
    assert marks(target) == []


def test_the_bar_of_the_episode_is_as_full_as_it_is_over(sketch, frames):
    for frame in frames:
        (whole, full) = [size[0] for _, size, _ in sketch(frame).boxes if size[1] == 8]
        assert full == pytest.approx(whole * frame.now.number / 12)


def test_the_curves_go_through_the_accuracies_and_the_epochs(sketch, frames):
    drawn = sketch(frames[-1])
    heights = {words: at[1] for at, words, _ in drawn.said if words in ("0 %", "100 %")}
    places = {words: at[0] for at, words, _ in drawn.said if words in ("0", "12")}
    for colour, name in ((ACCURACY, "value"), (PERMANENT, "committed")):
        x, y = np.transpose(drawn.curve(colour))
        percent = [getattr(epoch, name) for epoch in frames[-1].epochs]
        np.testing.assert_allclose(100 * (y - heights["0 %"]) / (heights["100 %"] - heights["0 %"]), percent, atol=1e-6)
        np.testing.assert_allclose(12 * (x - places["0"]) / (places["12"] - places["0"]), range(len(SCRIPT) + 1))


def test_what_happened_is_marked_on_the_curve_where_it_began(sketch, frames):
    drawn = sketch(frames[-1])
    curve = drawn.curve(ACCURACY)
    marks = [(centre, fill) for centre, radius, fill in drawn.dots if radius == 4.5]
    assert marks == [
        (curve[event.epoch - 1], COLOURS[event.stage])
        for event in frames[-1].events()
        if event.stage not in (Stage.EMBARGOED, Stage.RESETTING, Stage.DORMANT)
    ]
    assert len(marks) == 7


def test_the_life_of_a_slot_has_the_colours_of_its_stages_over_their_epochs(sketch, frames):
    drawn = sketch(frames[-1])
    (zero, one) = (drawn.curve(ACCURACY)[epoch][0] for epoch in (0, 1))
    bands = [(corner, size, fill) for corner, size, fill in drawn.boxes if size[1] == 15]
    heights = sorted({corner[1] for corner, _, _ in bands})
    for slot, height in enumerate(heights):
        lived = [Stage.DORMANT] * len(SCRIPT)
        for corner, size, fill in bands:
            if corner[1] == height and fill in COLOURS.values():
                begin, length = round((corner[0] - zero) / (one - zero)), round(size[0] / (one - zero))
                lived[begin : begin + length] = [fill] * length
        want = [epoch.stages[slot] for epoch in frames[-1].epochs[1:]]
        assert lived == [stage if stage == Stage.DORMANT else COLOURS[stage] for stage in want]
    assert len(heights) == 3
