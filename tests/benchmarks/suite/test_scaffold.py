import numpy as np
import pytest

from benchmarks.suite.scaffold import NAME, TASK, Cells, grow_in_order, measure
from esper_env.actions import Op
from tests.conftest import HASTY, action

pytestmark = pytest.mark.usefixtures("cells")
BRIEF = {"batches_per_epoch": 1, "val_samples": 32}


def test_both_textures_and_all_layouts_have_the_same_pixels():
    split = Cells(noise=0.0).load(np.random.default_rng(1)).train
    pixels = np.sort(split.inputs.reshape(len(split), -1), 1)
    assert (pixels == pixels[0]).all()
    pooled = split.inputs.reshape(-1, 8, 2, 8, 2).mean((2, 4))
    assert (pooled == 0).all()


def test_classes_are_even_and_instances_differ():
    data = Cells().load(np.random.default_rng(1))
    assert np.ptp(np.bincount(data.train.labels)) <= 1
    assert not np.array_equal(data.train.inputs[:8], Cells().load(np.random.default_rng(2)).train.inputs[:8])
    assert TASK.host.classes == 6 == len(set(data.test.labels.tolist()))


@pytest.mark.slow
def test_the_second_seed_pays_only_after_the_first():
    first, second, both = (grow_in_order(order, range(2)) for order in ((0,), (1,), (0, 1)))
    chance = 100 / 6
    assert second.committed_accuracy < chance + 8
    assert second.objective_return < 0  # it costs rent and brings nothing
    assert both.committed_accuracy > first.committed_accuracy + 8 > second.committed_accuracy
    assert both.objective_return > first.objective_return + 0.5


def episode(*steps, length=24):
    """Actions of an episode: what is given, then waiting."""
    return np.array([*steps, *[action()] * (length - len(steps))])


def grown(slot, blueprint="conv_light"):
    """From planting to permanence, with the shortest of ramps: 3 epochs."""
    plant, move = action(Op.GERMINATE, slot, blueprint), action(Op.ADVANCE, slot)
    return [plant, move, move, action(), action(), move, action(Op.FOSSILIZE, slot)]


def test_what_was_found_is_read_from_recorded_actions():
    recorded = {
        (0, 1): episode(),
        (0, 2): episode(*grown(0)),
        (0, 3): episode(*grown(0), *grown(2)),
        (0, 4): episode(*grown(2), *grown(0)),
        (1, 1): episode(*grown(0, "norm"), *grown(1)),
        (1, 2): episode(*grown(1)),
        (1, 3): episode(*grown(0), *grown(1, "conv_small")),
        (1, 4): episode(*grown(0), *grown(1, "depthwise")),
    }
    shares = measure(recorded, {"task": NAME, "max_epochs": 24, "training": BRIEF, "lifecycle": HASTY})
    assert (shares.prepared, shares.both, shares.in_order) == (5 / 8, 3 / 8, 2 / 8)


def test_a_single_episode_can_be_measured():
    shares = measure(
        {(0, 1): episode(*grown(0))}, {"task": NAME, "max_epochs": 24, "training": BRIEF, "lifecycle": HASTY}
    )
    assert (shares.prepared, shares.both) == (1.0, 0.0)
