import math

import numpy as np
import pytest

from esper_env.actions import Op
from esper_env.signals import MAX_LOSS, Signals, trend, update, volatility


def play(losses, accuracies):
    """Yield the signals at every epoch of one environment's run."""

    def one(x):
        return np.array([x], float)

    signals = Signals.start(one(losses[0]), one(accuracies[0]), one(accuracies[0]))
    yield signals
    for loss, accuracy in zip(losses[1:], accuracies[1:], strict=True):
        signals.epoch = signals.epoch + 1
        update(signals, one(loss + 1), one(loss), one(accuracy), one(accuracy))
        yield signals


def random_run(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(2, 30))
    losses = 3 * np.exp(np.cumsum(rng.normal(0, rng.choice([0.01, 0.05, 0.3]), length)))
    accuracies = np.clip(np.cumsum(rng.normal(0.3, 1, length)) + 30, 0, 100)
    return losses.tolist(), accuracies.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_every_signal_follows_its_definition_over_random_runs(seed):
    losses, accuracies = random_run(seed)
    plateau, run, latched = 0, 0, False
    for epoch, signals in enumerate(play(losses, accuracies)):
        loss_delta = losses[epoch - 1] - losses[epoch] if epoch else 0.0
        accuracy_delta = accuracies[epoch] - accuracies[epoch - 1] if epoch else 0.0
        if epoch:
            plateau = plateau + 1 if accuracy_delta < 0.5 else 0
        if epoch >= 2:
            run = run + 1 if -0.05 < loss_delta / losses[epoch - 1] < 0.03 else 0
            latched = latched or run >= 3
        assert signals.epoch[0] == epoch
        assert signals.loss_delta[0] == pytest.approx(loss_delta)
        assert signals.accuracy_delta[0] == pytest.approx(accuracy_delta)
        assert signals.plateau[0] == plateau
        assert signals.stabilized[0] == latched
        assert signals.best_accuracy[0] == max(accuracies[: epoch + 1])
        assert signals.best_loss[0] == min(losses[: epoch + 1])
        assert signals.train_loss[0] == (losses[epoch] + 1 if epoch else 0)
        assert signals.score[0] == accuracies[epoch]
        kept = losses[: epoch + 1][-10:]
        assert signals.loss_history[0, -len(kept) :].tolist() == kept


@pytest.mark.parametrize("seed", range(40))
def test_trend_and_volatility_look_at_the_last_five_that_exist(seed):
    losses, accuracies = random_run(seed)
    for epoch, signals in enumerate(play(losses, accuracies)):
        for history, values in ((signals.loss_history, losses), (signals.accuracy_history, accuracies)):
            past = values[: epoch + 1]
            changes = np.diff(past)[-5:]
            assert trend(history, signals.epoch)[0] == pytest.approx(changes.mean() if epoch else 0)
            assert volatility(history, signals.epoch)[0] == pytest.approx(np.std(past[-5:]), abs=1e-12)


def test_trend_and_volatility_take_stacked_histories():
    rng = np.random.default_rng(0)
    history, epoch = rng.random((2, 7, 10)), rng.integers(0, 20, 7)
    for f in (trend, volatility):
        both = f(history, epoch)
        assert both.tolist() == [f(history[0], epoch).tolist(), f(history[1], epoch).tolist()]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_diverged_loss_is_clipped_and_everything_stays_finite(bad):
    for signals in play([1.0, bad, bad, 2.0], [10.0, math.nan, 10.0, 11.0]):
        assert all(np.isfinite(array).all() for array in vars(signals).values())
        assert signals.loss[0] <= MAX_LOSS
    assert signals.best_loss[0] == 1.0


def test_stability_is_never_cleared_and_needs_three_epochs_from_the_second_on():
    losses = [1.0] * 5 + [0.1, 3.0]
    latched = [bool(signals.stabilized[0]) for signals in play(losses, [50.0] * 7)]
    assert latched == [False, False, False, False, True, True, True]


def test_an_episode_starts_with_a_successful_wait():
    signals = Signals.start(np.ones(3), np.ones(3), np.ones(3))
    assert signals.last_op.tolist() == [Op.WAIT] * 3
    assert signals.last_success.all()
    assert not signals.train_loss.any()


def test_signals_share_no_memory_with_what_they_were_given_or_with_each_other():
    values = np.ones(3)
    signals = Signals.start(values, values, values)
    for _ in range(2):
        arrays = [values, *vars(signals).values()]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        signals.epoch = signals.epoch + 1
        update(signals, values, values, values, values)
