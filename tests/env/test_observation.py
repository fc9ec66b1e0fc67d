import json

import numpy as np
import pytest

from esper_env.lifecycle.alpha import RESTING
from esper_env.lifecycle.stages import Stage
from esper_env.lifecycle.state import NEVER, NOT_BEGUN, Slots
from esper_env.observation import FEATURES, encode, feature_bounds, features
from esper_env.signals import Signals, update
from tests.env import observation_reference as reference

MAX_EPOCHS, BUDGET = 50, 2_000.0
ODD = [np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0]


def random_signals(rng, envs):
    def losses():
        value = rng.exponential(3, envs) * 10.0 ** rng.integers(-2, 8, envs)
        return np.where(rng.random(envs) < 0.1, rng.choice([np.nan, np.inf, 1e9], envs), value)

    def percents():
        return rng.random(envs) * 100

    signals = Signals.start(losses(), percents(), percents())
    for _ in range(rng.integers(0, 25)):
        # Environments of a stack may be at different epochs.
        signals.epoch = signals.epoch + 1
        update(signals, losses(), losses(), percents(), percents())
        fresh = rng.random(envs) < 0.1
        signals.put(fresh, Signals.start(losses(), percents(), percents()).take(fresh))
    signals.last_op = rng.integers(0, 6, envs)
    signals.last_success = rng.random(envs) < 0.5
    return signals


def random_slots(rng, epoch, num_slots):
    shape = (len(epoch), num_slots)
    slots = Slots.dormant(*shape)

    def metric():
        value = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, shape)
        return np.where(rng.random(shape) < 0.15, rng.choice(ODD, shape), value)

    slots.stage = rng.integers(0, 10, shape).astype(np.int8)
    slots.algorithm = rng.integers(0, 3, shape).astype(np.int8)
    slots.epochs_in_stage = rng.integers(0, 80, shape)
    slots.params = rng.integers(0, 5_000_000, shape)
    slots.start = rng.choice([0.0, 0.5, 0.7, 1.0], shape)
    slots.target = rng.choice([0.0, 0.5, 0.7, 1.0], shape)
    slots.steps = rng.choice([0, 3, 5, 8], shape)
    slots.curve = rng.integers(0, 5, shape).astype(np.int8)
    running = epoch[:, None] - rng.integers(0, 10, shape)
    slots.begun = np.choose(rng.integers(0, 4, shape), [running, running, NOT_BEGUN, RESTING])
    for name in ("contribution", "contribution_velocity", "interaction_sum", "boost_received"):
        setattr(slots, name, metric())
    slots.measured = np.where(rng.random(shape) < 0.3, NEVER, rng.integers(0, epoch[:, None] + 1, shape))
    norm = rng.exponential(5, shape)
    slots.gradient_norm = np.where(rng.random(shape) < 0.2, rng.choice([np.nan, np.inf], shape), norm)
    slots.gradient_health = np.where(rng.random(shape) < 0.3, np.nan, rng.random(shape))
    slots.vanishing, slots.exploding = rng.random(shape) < 0.5, rng.random(shape) < 0.5
    return slots


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("num_slots", [1, 3, 5])
def test_the_encoder_equals_the_text_read_one_number_at_a_time(seed, num_slots):
    rng = np.random.default_rng(seed)
    signals = random_signals(rng, 12)
    slots = random_slots(rng, signals.epoch, num_slots)
    got = encode(signals, slots, max_epochs=MAX_EPOCHS, budget=BUDGET)
    want = reference.encode(signals, slots, max_epochs=MAX_EPOCHS, budget=BUDGET)
    assert got.dtype == np.float32
    assert got.shape == (12, 25 + 29 * num_slots)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_every_value_is_inside_its_bounds_whatever_the_state(seed):
    rng = np.random.default_rng(seed)
    signals = random_signals(rng, 40)
    slots = random_slots(rng, signals.epoch, 4)
    for record in (signals, slots):
        for name, array in vars(record).items():
            if array.dtype == float:
                hit = rng.random(array.shape) < 0.3
                setattr(record, name, np.where(hit, rng.choice(ODD, array.shape), array))
    signals.plateau = rng.integers(-5, 10**9, 40)
    slots.measured = rng.integers(-2_000, 2_000, slots.stage.shape)
    with np.errstate(all="ignore"):
        got = encode(signals, slots, max_epochs=MAX_EPOCHS, budget=BUDGET)
    low, high = feature_bounds(4)
    assert (got >= low).all()
    assert (got <= high).all()


@pytest.mark.parametrize("seed", range(5))
def test_an_environment_reads_the_same_alone_and_in_a_stack(seed):
    rng = np.random.default_rng(seed)
    signals = random_signals(rng, 33)
    slots = random_slots(rng, signals.epoch, 3)
    together = encode(signals, slots, max_epochs=MAX_EPOCHS, budget=BUDGET)
    for env in (0, 7, 32):
        alone = encode(signals.take([env]), slots.take([env]), max_epochs=MAX_EPOCHS, budget=BUDGET)
        assert alone.tobytes() == together[[env]].tobytes()


def test_the_first_observation_shows_empty_slots_and_a_successful_wait():
    signals = Signals.start(np.array([10.0]), np.array([12.0]), np.array([12.0]))
    got = encode(signals, Slots.dormant(1, 3), max_epochs=MAX_EPOCHS, budget=BUDGET)[0]
    named = {f.name: value for f, value in zip(FEATURES, got.tolist(), strict=True) if value}
    assert named == pytest.approx(
        {
            "loss_norm": 1.0,
            "accuracy": 0.12,
            "best_accuracy": 0.12,
            "best_loss": 1.0,
            "last_action_success": 1.0,
            "last_action_op_wait": 1.0,
        }
    )


def test_a_slot_in_cooldown_is_active_and_shows_its_stage_but_is_not_utilized():
    signals = Signals.start(np.ones(1), np.ones(1), np.ones(1))
    slots = Slots.dormant(1, 3)
    slots.stage[0, 1] = Stage.EMBARGOED
    got = dict(
        zip(
            (f.name for f in FEATURES),
            encode(signals, slots, max_epochs=MAX_EPOCHS, budget=BUDGET)[0].tolist(),
            strict=True,
        )
    )
    assert got["slot1_is_active"] == got["slot1_stage_embargoed"] == 1
    assert got["slot_utilization"] == got["slot0_is_active"] == got["slot0_stage_dormant"] == 0


def test_the_table_has_112_features_with_distinct_names_and_proper_bounds():
    assert len(FEATURES) == 112
    assert len(features(5)) == 170
    assert len({f.name for f in FEATURES}) == 112
    assert all(f.low < f.high and f.formula for f in FEATURES)
    assert [FEATURES[i].name for i in (0, 13, 19, 25, 36, 111)] == [
        "epoch_progress",
        "params_utilization",
        "last_action_op_wait",
        "slot0_is_active",
        "slot0_alpha",
        "slot2_freshness",
    ]
    json.dumps([vars(f) for f in FEATURES])


def test_encoding_leaves_the_state_alone():
    rng = np.random.default_rng(0)
    signals = random_signals(rng, 5)
    slots = random_slots(rng, signals.epoch, 3)
    before = signals.copy(), slots.copy()
    encode(signals, slots, max_epochs=MAX_EPOCHS, budget=BUDGET)
    for record, copy in zip((signals, slots), before, strict=True):
        for name, array in vars(record).items():
            np.testing.assert_array_equal(array, getattr(copy, name))
