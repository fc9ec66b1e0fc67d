"""Alpha as a function of the clock."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from esper_env.actions import ALPHA_SPEEDS, TEMPOS, Curve
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.stages import Stage
from esper_env.lifecycle.state import NOT_BEGUN, Slots
from tests.env.lifecycle_reference import Arrays, LifecycleConfig, closed_form

ALPHAS = st.one_of(st.sampled_from([0.0, 0.5, 0.7, 1.0]), st.floats(0, 1))
STEPS = st.one_of(st.sampled_from([3, 5, 8]), st.integers(1, 60))
CURVES = st.sampled_from(Curve)
quick = settings(deadline=None, derandomize=True, max_examples=200)


def scheduled(start: float, target: float, steps: int, curve: int, begun: int = 0) -> Slots:
    slots = Slots.dormant(1, 1)
    slots.stage[:] = Stage.BLENDING
    now, goal = np.full((1, 1), start), np.full((1, 1), target)
    whole = np.full((1, 1), steps), np.full((1, 1), curve)
    schedules.begin(slots, np.ones((1, 1), bool), now, goal, *whole, np.array([begun]))
    return slots


def values(slots: Slots, first: int, last: int) -> list[float]:
    return [schedules.alpha(slots, np.array([epoch])).item() for epoch in range(first, last + 1)]


@quick
@given(ALPHAS, ALPHAS, STEPS, CURVES, st.integers(0, 100))
def test_a_ramp_is_exact_at_both_ends_and_stays_at_its_target(
    start: float, target: float, steps: int, curve: Curve, begun: int
) -> None:
    slots = scheduled(start, target, steps, curve, begun)
    path = values(slots, begun, begun + steps + 5)
    assert path[0] == start
    assert path[steps:] == [target] * 6


@quick
@given(ALPHAS, ALPHAS, STEPS, CURVES)
def test_a_ramp_is_monotone_and_never_leaves_the_span_of_its_ends(
    start: float, target: float, steps: int, curve: Curve
) -> None:
    path = np.array(values(scheduled(start, target, steps, curve), 0, steps))
    forward = path if target >= start else -path
    assert (np.diff(forward) >= -1e-15).all()
    assert min(start, target) - 1e-15 <= path.min() <= path.max() <= max(start, target) + 1e-15


@quick
@given(ALPHAS, ALPHAS, STEPS, CURVES)
def test_a_ramp_follows_the_closed_form_of_its_curve(start: float, target: float, steps: int, curve: Curve) -> None:
    path = values(scheduled(start, target, steps, curve), 0, steps)
    expected = [start + (target - start) * closed_form(curve.name, k / steps) for k in range(steps + 1)]
    np.testing.assert_allclose(path, expected, atol=1e-12)


@pytest.mark.parametrize("curve", Curve)
def test_every_curve_is_exact_at_both_ends_and_symmetric_about_its_middle(curve: Curve) -> None:
    t = np.linspace(0, 1, 101)
    eased = schedules.ease(t, np.full(101, curve))
    assert (eased[0], eased[-1]) == (0.0, 1.0)
    assert eased[50] == pytest.approx(0.5)
    np.testing.assert_allclose(eased + eased[::-1], 1, atol=1e-12)


def test_a_sharper_curve_begins_later() -> None:
    quarter = [schedules.ease(np.array([0.25]), np.array([curve])).item() for curve in Curve]
    linear, cosine, gentle, sigmoid, sharp = quarter
    assert sharp < sigmoid < gentle < linear
    assert cosine == pytest.approx((1 - math.cos(math.pi / 4)) / 2)


def test_slots_of_one_batch_follow_their_own_curves_and_clocks() -> None:
    rng = np.random.default_rng(0)
    shape = (40, 3)
    start, target = rng.random(shape), rng.random(shape)
    steps, curve, begun = rng.integers(1, 9, shape), rng.integers(0, 5, shape), rng.integers(-8, 1, shape)
    slots = Slots.dormant(*shape)
    slots.start, slots.target, slots.steps, slots.curve, slots.begun = start, target, steps, curve, begun
    together = schedules.alpha(slots, np.zeros(40, np.int64))
    for e, s in np.ndindex(shape):
        k = min(-begun[e, s], steps[e, s])
        eased = closed_form(Curve(curve[e, s]).name, k / steps[e, s])
        assert together[e, s] == pytest.approx(start[e, s] + (target[e, s] - start[e, s]) * eased, abs=1e-12)


@quick
@given(ALPHAS, ALPHAS, STEPS, CURVES)
def test_mode_velocity_and_time_to_target_follow_from_the_schedule(
    start: float, target: float, steps: int, curve: Curve
) -> None:
    slots = scheduled(start, target, steps, curve, begun=10)
    for epoch in range(10, 10 + steps + 3):
        now = np.array([epoch])
        runs = start != target and epoch < 10 + steps
        assert schedules.running(slots, now).item() is runs
        assert schedules.mode(slots, now).item() == (schedules.RAMP if runs else schedules.HOLD)
        assert schedules.velocity(slots, now).item() == ((target - start) / steps if runs else 0)
        assert schedules.time_to_target(slots, now).item() == (10 + steps - epoch if runs else 0)
        assert schedules.pruning(slots, now).item() is (runs and target == 0)
        assert schedules.reached(slots, now, target).item() is not runs


@given(ALPHAS, st.sampled_from(ALPHA_SPEEDS.tolist()), CURVES)
@quick
def test_retargeting_to_the_present_alpha_gives_no_schedule(value: float, steps: int, curve: Curve) -> None:
    slots = scheduled(value, value, steps, curve, begun=7)
    for epoch in range(7, 20):
        now = np.array([epoch])
        assert schedules.alpha(slots, now).item() == value
        assert schedules.mode(slots, now).item() == schedules.HOLD
        assert not schedules.running(slots, now).item()


def test_an_instant_change_holds_at_once_and_reads_step_only_in_its_own_step() -> None:
    slots = scheduled(0.5, 1.0, 0, Curve.LINEAR, begun=7)
    assert values(slots, 7, 12) == [1.0] * 6
    modes = [schedules.mode(slots, np.array([epoch])).item() for epoch in (8, 9, 10)]
    assert modes == [schedules.STEP, schedules.HOLD, schedules.HOLD]


def test_a_schedule_that_waits_for_blending_leaves_alpha_at_its_start() -> None:
    slots = scheduled(0.0, 1.0, 5, Curve.LINEAR)
    slots.begun[:] = NOT_BEGUN
    for epoch in (0, 5, 10_000):
        now = np.array([epoch])
        assert schedules.alpha(slots, now).item() == 0
        assert schedules.mode(slots, now).item() == schedules.HOLD
        assert not schedules.reached(slots, now, 1.0).item()


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("tempo", [0, 1, 2])
@pytest.mark.parametrize("style", [0, 1, 2, 3])
def test_no_epoch_of_blending_is_spent_at_alpha_0(style: int, tempo: int, target: int) -> None:
    life = Arrays(1, 1, LifecycleConfig(max_seeds=1, min_training_epochs=1), [False, True])
    life.step(np.array([[0, 1, style, tempo, target, 0, 0, 1]]))
    life.slots.gradient_health[:] = 1.0
    advance = np.array([[0, 0, 0, 0, 0, 0, 0, 5]])
    life.step(advance)
    assert life.alpha().item() == 0
    path = []
    for _ in range(TEMPOS[tempo] + 1):
        life.step(advance if not path else np.zeros((1, 8), np.int64))
        assert life.slots.stage.item() == Stage.BLENDING
        path.append(life.alpha().item())
    goal, curve = [0.5, 0.7, 1.0][target], "SIGMOID" if style == 2 else "LINEAR"
    expected = [goal * closed_form(curve, min(k / TEMPOS[tempo], 1)) for k in range(1, TEMPOS[tempo] + 2)]
    assert path[0] > 0
    np.testing.assert_allclose(path, expected, atol=1e-12)
    assert path[-2:] == [goal, goal]
