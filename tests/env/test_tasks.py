import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_env.actions import CNN
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.network.cnn import CnnHost
from esper_env.network.host import SlotShape
from esper_env.tasks import TASKS, Task, find_task, register_task
from esper_env.tasks.data import Dataset, Digits, Shapes, Split, stratified
from tests.conftest import BRIEF, action

SPLITS = ("train", "val", "test")
IMAGES = {name: task for name, task in TASKS.items() if task.host.topology == CNN}


def test_digits_are_split_stratified_and_disjoint_and_nothing_is_left_out():
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), Digits().load()
    assert [len(getattr(data, name)) for name in SPLITS] == [1077, 360, 360]
    parts = [getattr(data, name) for name in SPLITS]
    pixels = np.concatenate([part.inputs for part in parts])[..., 0].reshape(1797, 64)
    labels = np.concatenate([part.labels for part in parts])
    # One affine map takes the pixels back, and then every image of the original occurs as often as there.
    low, high = pixels.min(), pixels.max()
    restored = np.rint((pixels - low) / (high - low) * 16).astype(int)
    ours = sorted(zip(map(tuple, restored.tolist()), labels.tolist(), strict=True))
    theirs = sorted(zip(map(tuple, bunch.data.astype(int).tolist()), bunch.target.tolist(), strict=True))
    assert ours == theirs
    shares = np.bincount(bunch.target) / 1797
    for part, slack in zip(parts, (2, 1, 1), strict=True):  # what the two held-out parts round is left in training
        assert np.abs(np.bincount(part.labels, minlength=10) - shares * len(part)).max() < slack
    np.testing.assert_allclose(parts[0].inputs.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(parts[0].inputs.std(), 1, atol=1e-5)


def test_digits_are_the_same_for_everybody():
    assert Digits().load() is Digits().load(np.random.default_rng(1))


@given(st.lists(st.integers(0, 4), min_size=40, max_size=90), *[st.integers(0, 12)] * 3)
def test_a_stratified_split_has_exact_sizes_covers_everything_and_keeps_proportions(labels, val, test, seed):
    labels = np.array(labels)
    parts = stratified(labels, (val, test), np.random.default_rng(seed))
    assert [len(part) for part in parts] == [len(labels) - val - test, val, test]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, size in zip(parts[1:], (val, test), strict=True):
        for c in np.unique(labels):
            assert abs((labels[part] == c).sum() - (labels == c).mean() * size) < 1


def test_shapes_are_a_new_data_set_for_every_seed_and_the_same_one_for_the_same():
    one, same, other = (Shapes().load(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name, size in zip(SPLITS, (1024, 256, 512), strict=True):
        a, b, c = (getattr(data, name) for data in (one, same, other))
        assert a.inputs.shape == (size, 16, 16, 1)
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert (a.inputs != c.inputs).mean() > 0.99
        counts = np.bincount(a.labels, minlength=10)
        assert counts.max() - counts.min() <= 1
        assert np.isfinite(a.inputs).all()
    assert not (one.train.inputs[:256] == one.val.inputs).all((1, 2, 3)).any()


def test_shapes_come_in_any_amount_size_and_noise():
    data = Shapes(size=8, train=40, val=20, test=10, noise=0.0).load(np.random.default_rng(0))
    assert data.train.inputs.shape == (40, 8, 8, 1)
    assert len(data.test) == 10
    quiet, loud = (Shapes(train=64, noise=n).load(np.random.default_rng(0)).train.inputs for n in (0.0, 2.0))
    assert loud.std() > 1.5 * quiet.std()


@pytest.mark.parametrize("task", IMAGES.values(), ids=IMAGES)
def test_multiply_accumulates_by_level_add_up_to_a_hand_count(task):
    host, size, into, total = task.host, task.host.image_size, task.host.image_channels, 0
    for block, out in enumerate(host.channels):
        total += size * size * out * into * host.kernel**2
        into, size = out, size // 2 if block < host.pools else size
    total += into * host.classes
    assert sum(host.macs_by_level()) == total
    assert len(host.macs_by_level()) == len(host.slots) + 1


def test_levels_of_a_host_with_fewer_slots_than_blocks_hold_the_blocks_between_slots():
    host = CnnHost(1, 8, 10, channels=(4, 4, 8, 8, 16), kernel=1, pools=2, num_slots=2)
    blocks = [64 * 4, 16 * 4 * 4, 4 * 4 * 8, 4 * 8 * 8, 4 * 8 * 16]
    assert host.slot_of_block == (None, 0, None, None, 1)
    assert host.macs_by_level() == [blocks[0] + blocks[1], sum(blocks[2:]), 160]


@given(st.integers(1, 12), st.data())
def test_slots_are_evenly_placed_and_the_last_block_always_has_one(blocks, data):
    slots = data.draw(st.integers(1, blocks))
    host = CnnHost(1, 2, 10, channels=(4,) * blocks, kernel=1, pools=0, num_slots=slots)
    places = [block for block, slot in enumerate(host.slot_of_block) if slot is not None]
    assert [host.slot_of_block[block] for block in places] == list(range(slots))
    assert places[-1] == blocks - 1
    gaps = np.diff([-1, *places])
    assert gaps.max() - gaps.min() <= 1
    assert len(host.slots) == slots


def test_slot_shapes_are_those_of_the_maps_before_pooling_or_after_it():
    before = CnnHost(1, 8, 10, channels=(4, 8, 16), kernel=1, pools=2)
    after = CnnHost(1, 8, 10, channels=(4, 8, 16), kernel=1, pools=2, slot_after_pool=True)
    assert before.slots == (SlotShape(4, 64), SlotShape(8, 16), SlotShape(16, 4))
    assert after.slots == (SlotShape(4, 16), SlotShape(8, 4), SlotShape(16, 4))


def test_impossible_hosts_are_refused():
    with pytest.raises(ConfigError, match="num_slots"):
        CnnHost(1, 8, 10, channels=(4, 8), kernel=1, pools=1, num_slots=3)
    with pytest.raises(ConfigError, match="halved"):
        CnnHost(1, 8, 10, channels=(4, 8, 8, 8), kernel=1, pools=4)
    for kernel in (2, 0, -1):
        with pytest.raises(ConfigError, match=f"kernel must be odd, .* got {kernel}"):
            CnnHost(1, 8, 10, channels=(4, 8), kernel=kernel, pools=1)
    for channels in (50, 0):
        with pytest.raises(ConfigError, match=f"channels cannot be {channels}: .* a multiple of 16, or fewer than 32"):
            CnnHost(1, 8, 10, channels=(4, channels, 16), kernel=1, pools=1)


def test_tasks_are_found_by_name_and_registered_once():
    digits = find_task("digits")
    assert register_task(digits) is digits
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        find_task("digit")
    other = Task("digits", "another", digits.source, digits.host)
    with pytest.raises(ConfigError, match="exists already"):
        register_task(other)
    with pytest.raises(ConfigError, match="takes a Task"):
        register_task("digits")


@dataclass
class Given:
    """Data made beforehand."""

    data: Dataset
    generated = False

    def load(self, rng):
        return self.data


def refit(task, split, **changes):
    """The task with one split changed, registered nowhere."""
    task = TASKS[task]
    data = task.load(np.random.default_rng(0))
    part = getattr(data, split)
    arrays = (changes.get(name, np.copy)(getattr(part, name)) for name in ("inputs", "labels"))
    return replace(task, name="odd", source=Given(replace(data, **{split: Split(*arrays)})))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("digits", {"inputs": lambda x: x[:, :7]}, r"inputs must be \[samples, 8, 8, 1\], got shape \(\d+, 7, 8, 1\)"),
        ("digits", {"inputs": lambda x: x.repeat(3, -1)}, "inputs must be"),
        ("digits", {"inputs": lambda x: x[..., 0]}, "inputs must be"),
        ("digits", {"inputs": lambda x: x[1:]}, "labels must have shape"),
        ("digits", {"inputs": lambda x: x.astype(float)}, "images must be float32, got float64"),
        ("digits", {"inputs": lambda x: x.tolist()}, "inputs must be a NumPy array, got list"),
        ("digits", {"inputs": lambda x: x[:0], "labels": lambda y: y[:0]}, "it is empty"),
        ("digits", {"labels": lambda y: y.astype(float)}, "labels must be uint8 or a signed whole number, got float64"),
        ("digits", {"labels": lambda y: y + 1}, "labels must be from 0 to 9, its classes; they go from 1 to 10"),
        ("digits", {"labels": lambda y: y - 1}, "they go from -1 to 8"),
        ("story_grammar", {"inputs": lambda x: x[:, 1:], "labels": lambda y: y[:, 1:]}, r"\[samples, 64\], got"),
        ("story_grammar", {"labels": lambda y: y[:, 0]}, "labels must have shape"),
        ("story_grammar", {"inputs": lambda x: x.astype(np.uint16)}, "inputs must be uint8 or .* got uint16"),
        ("story_grammar", {"inputs": lambda x: x + 1}, "inputs must be from 0 to 31, its classes"),
    ],
)
def test_data_that_does_not_fit_the_host_is_refused_with_the_task_and_the_split(split, task, changes, message):
    odd = refit(task, split, **changes)
    with pytest.raises(ConfigError, match=f"The {split} data of task 'odd' does not fit its host: .*{message}"):
        odd.load(None)


def test_data_is_looked_at_when_an_episode_begins(monkeypatch):
    monkeypatch.setitem(TASKS, "odd", refit("digits", "train", labels=lambda y: y + 5))
    env = SeedEnv(task="odd")
    with pytest.raises(ConfigError, match="data of task 'odd' does not fit"):
        env.reset(seed=0)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32])
def test_labels_of_any_type_that_torch_compares_will_do(dtype, monkeypatch):
    monkeypatch.setitem(TASKS, "odd", refit("digits", "train", labels=lambda y: (y % 2).astype(dtype)))
    env = SeedEnv(task="odd", training=BRIEF)
    env.reset(seed=0)
    assert np.isfinite(env.step(action())[4]["train_loss"])


def test_built_in_tasks_have_the_hosts_of_the_specification():
    shapes = {name: (t.host.channels, t.host.kernel, t.host.pools, len(t.host.slots)) for name, t in IMAGES.items()}
    assert shapes["digits"] == ((4, 8, 16), 1, 2, 3)
    assert shapes["digits_capable"][:2] == ((8, 16, 32), 3)
    assert shapes["digits_deep"] == ((4, 4, 8, 8, 16), 1, 2, 5)
    assert shapes["shapes"][1] == 1


def test_guessing_is_among_the_classes_of_the_host_unless_the_task_says_otherwise():
    binary = replace(TASKS["digits"], host=replace(TASKS["digits"].host, classes=2))
    assert binary.chance_loss == math.log(2)
    assert TASKS["digits"].chance_loss == math.log(10)
    assert replace(binary, baseline_loss=0.5).chance_loss == 0.5
