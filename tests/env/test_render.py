"""Rendering: frames say what happens, in words and in pictures, and change nothing in what happens."""

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import RecordVideo

from esper_env.actions import Algorithm, Op, Style
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import Stage
from esper_env.observation import SLOT_FEATURES
from esper_env.options import resolve
from esper_env.render import screen
from esper_env.render.frame import MEANING, PAYS, blocks_before, look, words
from esper_env.render.picture import ACCURACY, ALARM, COLOURS, HEIGHT, INK, PAPER, PERMANENT, WIDTH, _font, picture
from esper_env.render.text import text
from esper_env.render.viewer import RENDER_MODES, Viewer
from esper_env.reward import REWARDS
from esper_env.simulation import Simulation
from esper_env.tasks import TASKS
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import BRIEF, BRIEF_FEW, HASTY, action, random_actions, simulate

OPTIONS = {"max_epochs": 12, "training": BRIEF, "lifecycle": HASTY}
STAGES = [stage for stage in Stage if stage != Stage.UNKNOWN]
LAYOUTS = [(name, slots) for name, task in TASKS.items() for slots in range(1, len(task.host.slot_of_block) + 1)]
"""Every task with every number of slots that it can have."""
DURATIONS = ("at once", "over 3 epochs", "over 5 epochs", "over 8 epochs")
READABLE = 3.5
"""The least contrast between words and what they stand on."""
SCRIPT = [
    action(Op.GERMINATE, 0, "conv_light"),
    action(Op.ADVANCE, 0),
    action(Op.ADVANCE, 0),
    action(Op.GERMINATE, 2, "norm"),
    action(),
    action(Op.ADVANCE, 0),
    action(Op.FOSSILIZE, 0),
    action(Op.PRUNE, 2),
    action(Op.FOSSILIZE, 1),
]
"""One seed is made permanent, another is pruned, and the last action is not legal."""


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)


def watched(steps=SCRIPT, **options):
    """Frames of a scripted episode, from epoch 0 on."""
    simulation = simulate(1, seeds=[1], **OPTIONS | options)
    frames = [look(simulation)]
    for vector in steps:
        simulation.step(np.array([vector]))
        frames.append(look(simulation, frames[-1], vector))
    return frames


@pytest.fixture(scope="module")
def frames():
    return watched()


def make(mode, **options):
    return gym.make("Esper-Seed-v0", render_mode=mode, **OPTIONS | options)


def in_stage(frame, stage):
    """The frame with a seed of this stage in slot 1."""
    slot = replace(
        frame.slots[1], stage=stage, blueprint="attention", alpha=0.4, target=0.7, contribution=-2.5, params=7
    )
    slots = (frame.slots[0], slot, frame.slots[2])
    now = replace(frame.now, stages=(frame.now.stages[0], stage, frame.now.stages[2]))
    return replace(frame, slots=slots, epochs=(*frame.epochs[:-1], now))


@cache
def untouched(name):
    """A frame of this task with a slot behind every block, and the largest seed of each; no data is read."""
    config, task = resolve({"task": name, "num_slots": len(TASKS[name].host.slot_of_block), "max_epochs": 1000})
    simulation = Simulation(config, task, 1)
    widest = max(config.blueprints, key=lambda blueprint: _font(14).getlength(blueprint))
    frame = look(simulation)
    slots = zip(frame.slots, simulation._sizes.max(1).tolist(), strict=True)
    return replace(frame, slots=tuple(replace(slot, blueprint=widest, params=largest) for slot, largest in slots))


def crowded(name, num_slots, turn):
    """The longest that a frame of this task can say: the largest seeds in all slots, a step full of news, the end.

    The slots go through all stages, `turn` by `turn`.
    """
    frame, places = untouched(name), blocks_before(TASKS[name].host.with_slots(num_slots))
    stages = tuple(STAGES[(slot + turn) % len(STAGES)] for slot in range(num_slots))
    facts = {"algorithm": Algorithm.MULTIPLY, "alpha": 0.4, "target": 0.7, "contribution": -100.0}
    slots = tuple(
        replace(frame.slots[place[1] - 1], blocks=place, stage=stage, epochs_in_stage=888, **facts)
        for place, stage in zip(places, stages, strict=True)
    )
    before = replace(frame.now, number=999, value=100.0, stages=(Stage.DORMANT,) * num_slots, alphas=(0.0,) * num_slots)
    longest = action(Op.SET_ALPHA_TARGET, num_slots - 1, style=Style.LINEAR_MULTIPLY, target=1, speed=3)
    return replace(
        frame,
        slots=slots,
        epochs=(before, replace(before, number=1000, committed=100.0, stages=stages, rolled_back=True)),
        action=words(longest, num_slots),
        executed=False,
        terms=dict.fromkeys(frame.terms, -12.345),
        test_accuracy=100.0,
    )


def contrast(colour, ground):
    """By the definition of the W3C: 1 for the same colour, 21 for black on white."""

    def luminance(rgb):
        shares = np.array(rgb) / 255
        return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    dark, light = sorted((luminance(colour), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


def holds(pixels, colour):
    return bool((pixels == np.array(colour, np.uint8)).all(-1).any())


@dataclass
class Sketch:
    """What a picture of a frame consists of, in the place of its pixels."""

    said: list = field(default_factory=list)
    """Words with where they stand and their colour."""
    boxes: list = field(default_factory=list)
    placed: list = field(default_factory=list)
    """Words with the left, top, right and bottom of what they cover."""
    dots: list = field(default_factory=list)
    lines: list = field(default_factory=list)

    def box(self, corner, size, fill=None, outline=None, *, radius=0, width=1.5):
        self.boxes.append((corner, size, fill))

    def dot(self, centre, radius, fill, outline=None):
        self.dots.append((centre, radius, fill))

    def line(self, points, colour, width):
        self.lines.append((points, colour))

    def words(self, at, words, size=14, colour=None, anchor="ls", *, bold=False):
        self.said.append((at, words, colour))
        if words:
            left, top, right, bottom = _font(size).getbbox(words, anchor=anchor, stroke_width=0.35 if bold else 0)
            self.placed.append((words, (left + at[0], top + at[1], right + at[0], bottom + at[1])))

    def pixels(self):
        return self

    @property
    def told(self):
        """All the words in the order of drawing."""
        return " ".join(words for _, words, _ in self.said)

    def beside(self, label):
        """Words and colour of what stands on the line of this label, to the right of it."""
        ((x, y),) = [at for at, words, _ in self.said if words == label]
        return [(words, colour) for at, words, colour in self.said if at[1] == y and at[0] > x]

    def under(self, at):
        """The colour of the last box at a place."""
        filled = [
            fill
            for (x, y), (width, height), fill in self.boxes
            if fill is not None and x <= at[0] <= x + width and y <= at[1] <= y + height
        ]
        return filled[-1] if filled else PAPER

    def curve(self, colour):
        """The points of the curve of this colour."""
        (points,) = [points for points, drawn in self.lines if drawn == colour and len(points) > 2]
        return points


@pytest.fixture
def sketch(monkeypatch):
    """Draws a frame as a `Sketch`."""
    monkeypatch.setattr("esper_env.render.picture.Canvas", Sketch)
    return picture


# The frame


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


# Text


def test_the_text_says_what_a_script_did(frames):
    assert "epoch 0 of 12" in text(frames[0])
    assert "action" not in text(frames[0])
    planted = text(frames[1])
    for expected in (
        "epoch 1 of 12",
        "GERMINATE: plant conv_light in slot 0",
        "slot 0 is GERMINATED",
        "op_cost -0.020",
    ):
        assert expected in planted
    blending = text(frames[4])
    for expected in ("BLENDING", "alpha goes to 1", "█", "worth", "156"):
        assert expected in blending
    assert "FOSSILIZED  3       ADD    ███████ 1.00" in text(frames[9])
    assert "·gtbbbhFFF" in text(frames[9])
    assert "····ggggx-" in text(frames[9])
    assert "(not legal: it waited)" in text(frames[9])


def test_the_curves_of_the_text_are_as_high_as_the_accuracies(frames):
    height = "▁▂▃▄▅▆▇█"
    for frame in frames:
        rows = {line.split()[0]: line[10:] for line in text(frame).splitlines() if line}
        for label, name in (("accuracy", "value"), ("permanent", "committed")):
            percent = [getattr(epoch, name) for epoch in frame.epochs]
            drawn, now = rows[label].split(maxsplit=1)
            assert [height.index(mark) for mark in drawn] == [int(p // 12.5) for p in percent]
            assert now.startswith(f"{percent[-1]:.1f} %")


def test_the_table_of_the_text_has_the_alpha_and_the_worth_of_every_seed(frames):
    view = in_stage(frames[-1], Stage.HOLDING)
    (row,) = [line for line in text(view).splitlines() if line.startswith("slot 1") and "attention" in line]
    assert row.split()[2:] == ["attention", "HOLDING", "0", "ADD", "███░░░░", "0.40", "-2.5", "7"]
    assert f"390 + {sum(slot.params for slot in view.slots)} parameters" in text(view)


def test_the_text_of_the_last_epoch_gives_the_test_accuracy():
    end = watched([action()] * 12)[-1]
    assert f"the end   {end.test_accuracy:.1f} % on the test data" in text(end)


@pytest.mark.parametrize("stage", STAGES)
def test_the_text_knows_every_stage(frames, stage):
    frame = in_stage(frames[-1], stage)
    shown = text(frame)
    assert stage.name in shown
    assert frame.slots[1].meaning in shown
    assert stage == Stage.BLENDING or frame.slots[1].meaning == MEANING[stage]
    assert "attention" in shown


def test_the_text_fits_a_terminal(frames):
    for frame in (*frames, *watched([action()] * 3, max_epochs=700)):
        assert max(map(len, text(frame).splitlines())) <= 80


@pytest.mark.parametrize(("name", "num_slots"), LAYOUTS)
def test_the_longest_text_of_every_task_fits_a_terminal_and_says_it_all(name, num_slots):
    for turn in range(0, len(STAGES), 2):
        frame = crowded(name, num_slots, turn)
        shown = text(frame)
        assert max(map(len, shown.splitlines())) <= 80
        assert f"Esper {name} " in shown
        assert f"{frame.host_params} + {sum(slot.params for slot in frame.slots)} parameters" in shown
        for slot in frame.slots:
            assert {slot.blueprint, slot.stage.name, slot.blend, str(slot.params)} <= {"", *shown.split()}
            assert slot.meaning in shown


def test_a_long_episode_is_thinned_out_and_ends_with_the_present():
    end = watched([action(Op.GERMINATE, 0, "norm"), *[action()] * 110, action(Op.PRUNE, 0)], max_epochs=112)[-1]
    life = next(line for line in text(end).splitlines() if line.startswith("slot 0"))
    assert life[10:].split()[0] == "·" + "g" * 49 + "x"


# The picture


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
                assert meaning[0] == PAYS[name]
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


# The environment


def test_a_frame_tells_what_info_and_the_observation_tell():
    env = make("ansi")
    env.reset(seed=1)
    names = [feature.name for feature in SLOT_FEATURES]
    measured = 0
    for vector in SCRIPT:
        observation, reward, *_, info = env.step(np.array(vector))
        frame = env.unwrapped._viewer.frame
        now, slots = frame.now, frame.slots
        assert now.number == info["epoch"]
        assert now.rolled_back == info["rolled_back"]
        assert now.value == pytest.approx(info["val_accuracy"])
        assert now.committed == pytest.approx(info["committed_accuracy"])
        assert (frame.host_params, frame.executed) == (info["host_params"], info["action_executed"])
        assert sum(slot.params for slot in slots) == info["seed_params"]
        assert frame.reward == pytest.approx(reward)
        np.testing.assert_array_equal([slot.stage for slot in slots], info["stage"])
        np.testing.assert_allclose([slot.alpha for slot in slots], info["alpha"])
        seen = observation["features"][-len(slots) * len(names) :].reshape(len(slots), -1)
        for slot, row in zip(slots, seen, strict=True):
            if slot.contribution is not None:
                measured += 1
                assert np.clip(slot.contribution, -10, 10) / 10 == pytest.approx(row[names.index("contribution")])
                assert slot.target == pytest.approx(row[names.index("alpha_target")])
    assert measured > 3


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_gymnasiums_checker_finds_nothing_to_say_about_rendering(mode, capsys):
    check_env(make(mode).unwrapped)


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_rendering_changes_nothing_in_the_trajectory(mode, capsys):
    env, unwatched = make(mode), make(None)
    assert data_equivalence(env.reset(seed=4), unwatched.reset(seed=4), exact=True)
    generator = np.random.default_rng(2)
    for _ in range(12):
        env.render()
        chosen = random_actions(env.unwrapped._simulation, [generator])[0]
        assert data_equivalence(env.step(chosen), unwatched.step(chosen), exact=True)
    assert data_equivalence(env.reset(), unwatched.reset(), exact=True)
    env.close()


def test_an_environment_renders_what_the_frame_says():
    env, expected = make("ansi"), watched()
    env.reset(seed=1)
    assert env.render() == text(expected[0])
    for vector, frame in zip(SCRIPT, expected[1:], strict=True):
        env.step(np.array(vector))
        assert env.render() == text(frame)
    env.reset(seed=1)
    assert env.render() == text(expected[0])


def test_lists_of_frames_are_collected():
    for mode, kind in (("rgb_array_list", np.ndarray), ("ansi_list", str)):
        env = make(mode)
        env.reset(seed=1)
        for vector in SCRIPT[:2]:
            env.step(np.array(vector))
        collected = env.render()
        assert [type(frame) for frame in collected] == [kind] * 3


def test_videos_are_recorded(tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy: pip install moviepy")
    env = RecordVideo(make("rgb_array"), str(tmp_path / "videos"), disable_logger=True)
    env.reset(seed=1)
    for _ in range(12):
        env.step(action())
    env.close()
    assert list(tmp_path.glob("videos/*.mp4"))


def test_rendering_without_a_mode_warns():
    env = SeedEnv(**OPTIONS)
    env.reset(seed=1)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    env.close()


def test_rendering_before_an_episode_is_refused():
    with pytest.raises(gym.error.ResetNeeded, match=r"reset\(\) before render\(\)"):
        SeedEnv(render_mode="ansi", **OPTIONS).render()


def test_an_unknown_mode_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'rgb_array'"):
        SeedEnv(render_mode="rgb_arrays")


def test_many_hosts_are_not_drawn_and_the_error_says_how_to_watch_one():
    with pytest.raises(ConfigError, match=r"render_mode='ansi'.* make a single environment"):
        SeedVectorEnv(2, render_mode="ansi")


def test_an_episode_of_texts_shows_the_score_that_it_pays_for(sketch):
    env = SeedEnv(task="story_grammar", max_epochs=4, training=BRIEF_FEW, render_mode="ansi")
    env.reset(seed=0)
    over = False
    while not over:
        *_, over, _, info = env.step(np.array(action()))
    frame = env._viewer.frame
    assert frame.now.value == pytest.approx(info["score"])
    assert 0 < info["score"] != pytest.approx(info["val_accuracy"])
    seen, drawn = text(frame), sketch(frame)
    assert "\nscore     ▁" in seen
    assert f" {info['score']:.1f}\npermanent ▁" in seen
    assert "score: 0 is guessing, 100 the loss aimed at" in seen
    assert f"{info['score']:.1f} is kept" in seen
    assert f"the end   {info['test_accuracy']:.1f} % of test answers right" in seen
    for said in (
        "Score on the validation data",
        "0 is guessing, 100 the loss aimed at",
        "100",
        "of 100",
        f"{info['score']:.1f}",
        "width 64",
    ):
        assert said in drawn.told
    assert f"The end: {info['test_accuracy']:.1f} % of test answers right" in drawn.told
    assert not any("channels" in said or said == "100 %" for said in drawn.told)


def test_what_was_seen_goes_with_states_forks_and_pickles():
    env, other = SeedEnv(render_mode="ansi", **OPTIONS), SeedEnv(render_mode="ansi", **OPTIONS)
    env.reset(seed=1)
    for vector in SCRIPT[:5]:
        env.step(np.array(vector))
    other.set_state(env.get_state())
    for copied in (other, env.fork(), pickle.loads(pickle.dumps(env))):
        assert copied.render() == env.render()
    for vector in (*SCRIPT[5:], *[action()] * 3):
        env.step(np.array(vector))
        other.step(np.array(vector))
    assert "on the test data" in env.render()
    for copied in (other, copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert copied.render() == env.render()


def test_a_state_of_an_unwatched_environment_is_watched_from_there_on():
    env, unwatched = SeedEnv(render_mode="ansi", **OPTIONS), SeedEnv(**OPTIONS)
    unwatched.reset(seed=1)
    for vector in SCRIPT[:4]:
        unwatched.step(np.array(vector))
    env.set_state(unwatched.get_state())
    env.step(np.array(SCRIPT[4]))
    assert "slot 0        bb" in env.render()
    unwatched.set_state(env.get_state())
    assert picture(env._viewer.frame).shape == (HEIGHT, WIDTH, 3)


def test_nothing_is_looked_at_without_a_mode(monkeypatch):
    monkeypatch.setattr("esper_env.render.viewer.look", None)
    env = SeedEnv(**OPTIONS)
    env.reset(seed=1)
    env.step(np.array(SCRIPT[0]))
    assert "frame" not in env.get_state()


# A human


def test_without_a_display_a_human_reads_every_epoch_once(capsys):
    env, expected = make("human"), watched(SCRIPT[:2])
    env.reset(seed=1)
    for vector in SCRIPT[:2]:
        env.step(np.array(vector))
        assert env.render() is None
    env.close()
    assert capsys.readouterr().out == "".join(text(frame) + "\n" for frame in expected)


def test_a_fork_of_a_watched_environment_shows_nothing(capsys):
    env = make("human").unwrapped
    env.reset(seed=1)
    capsys.readouterr()
    fork = env.fork()
    fork.step(np.array(SCRIPT[0]))
    assert capsys.readouterr().out == ""
    assert fork.render_mode is None


def test_a_screen_is_opened_once_and_closed(monkeypatch, frames):
    happened = []

    class Recorder:
        def show(self, frame):
            happened.append(frame.now.number)

        def close(self):
            happened.append("closed")

    monkeypatch.setattr(screen, "open_screen", lambda seconds: happened.append(seconds) or Recorder())
    env = SeedEnv(render_mode="human", **OPTIONS)
    for _ in range(2):
        env.reset(seed=1)
        env.step(action())
        env.close()
        env.close()
    assert happened == [0.25, 0, 1, "closed"] * 2


class FakeTk:
    """As much of tkinter as a window uses, and a record of what it did."""

    TclError = type("TclError", (Exception,), {})

    def __init__(self, display=True):
        self.images, self.open, self.display, self.handlers = [], False, display, {}

    def Tk(self):  # noqa: N802
        if not self.display:
            raise self.TclError("no display name and no $DISPLAY environment variable")
        self.open = True
        return self

    def PhotoImage(self, master, data, format):  # noqa: N802
        self.images.append((master.open, data, format))
        return data

    def Label(self, master, **options):  # noqa: N802
        return self

    def protocol(self, name, handler):
        self.handlers[name] = handler

    def destroy(self):
        self.open = False

    def _nothing(self, *args, **options):
        pass

    title = resizable = pack = configure = update = _nothing


def test_a_window_shows_pictures_until_it_is_closed(monkeypatch, frames):
    tk = FakeTk()
    monkeypatch.setitem(sys.modules, "tkinter", tk)
    window = screen.open_screen(0)
    for frame in frames[:2]:
        window.show(frame)
    header = b"P6 %d %d 255\n" % (WIDTH, HEIGHT)
    assert tk.images == [(True, header + picture(frame).tobytes(), "PPM") for frame in frames[:2]]
    tk.handlers["WM_DELETE_WINDOW"]()
    window.show(frames[2])
    window.close()
    assert len(tk.images) == 2
    assert not tk.open


def test_where_there_is_no_display_the_screen_is_the_terminal(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", FakeTk(display=False))
    assert isinstance(screen.open_screen(0), screen.Terminal)


def test_a_missing_pillow_is_an_error_that_names_the_extra():
    script = (
        "import sys; sys.modules['PIL'] = None; from esper_env import SeedEnv\n"
        "SeedEnv(render_mode='ansi')\n"
        "for mode in ('rgb_array', 'human'):\n"
        "    try: SeedEnv(render_mode=mode)\n"
        "    except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("pip install 'esper[render]'") == 2


def test_a_viewer_that_has_seen_nothing_says_so():
    with pytest.raises(RuntimeError, match="begin an episode first"):
        Viewer("ansi").render()
