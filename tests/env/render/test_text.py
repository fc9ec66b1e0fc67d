import pytest

from esper_env.actions import Op
from esper_env.lifecycle.stages import Stage
from esper_env.render.frame import MEANING
from esper_env.render.text import text
from tests.conftest import action
from tests.env.render.episodes import LAYOUTS, STAGES, crowded, in_stage, watched


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
