"""What is known about each host's training: the latest epoch, its changes, and the best so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from esper_env.actions import Op
from esper_env.arrays import Arrays, Bools, Floats, Ints

HISTORY = 10
"""Epochs that the histories keep."""
WINDOW = 5
"""Epochs that trends and volatilities look back on."""
MAX_LOSS = 1e6
PLATEAU_GAIN = 0.5
STABLE_GAIN = (-0.05, 0.03)
STABLE_EPOCHS = 3
FIRST_STABLE_EPOCH = 2


@dataclass
class Signals(Arrays):
    """The record of every host's training, `[envs]`; histories are `[envs, HISTORY]`, latest last.

    Of a history only the last `min(epoch + 1, HISTORY)` entries are real, the others are 0.
    """

    epoch: Ints
    train_loss: Floats
    loss: Floats
    accuracy: Floats
    score: Floats
    loss_history: Floats
    accuracy_history: Floats
    loss_delta: Floats
    accuracy_delta: Floats
    plateau: Ints
    stable_run: Ints
    stabilized: Bools
    best_accuracy: Floats
    best_loss: Floats
    last_op: Ints
    last_success: Bools

    @classmethod
    def start(cls, loss: Floats, accuracy: Floats, score: Floats) -> Self:
        """Epoch 0: hosts that have been validated but never trained."""
        envs = len(loss)
        loss, accuracy = clipped_loss(loss), _finite(accuracy)
        loss_history, accuracy_history = np.zeros((envs, HISTORY)), np.zeros((envs, HISTORY))
        loss_history[:, -1], accuracy_history[:, -1] = loss, accuracy
        return cls(
            epoch=np.zeros(envs, np.int64),
            train_loss=np.zeros(envs),
            loss=loss,
            accuracy=accuracy,
            score=_finite(score),
            loss_history=loss_history,
            accuracy_history=accuracy_history,
            loss_delta=np.zeros(envs),
            accuracy_delta=np.zeros(envs),
            plateau=np.zeros(envs, np.int64),
            stable_run=np.zeros(envs, np.int64),
            stabilized=np.zeros(envs, bool),
            best_accuracy=accuracy.copy(),
            best_loss=loss.copy(),
            last_op=np.full(envs, Op.WAIT, np.int64),
            last_success=np.ones(envs, bool),
        )


def clipped_loss(loss: Floats) -> Floats:
    """Losses in `[0, MAX_LOSS]`: a diverged host must not make an observation infinite."""
    return np.maximum(np.fmin(loss, MAX_LOSS), 0.0, dtype=float)


def _finite(percent: Floats) -> Floats:
    return np.where(np.isfinite(percent), percent, 0.0).astype(float, copy=False)


def update(signals: Signals, train_loss: Floats, loss: Floats, accuracy: Floats, score: Floats) -> None:
    """Take in the epoch just validated; the caller has advanced `signals.epoch` already."""
    previous = signals.loss
    train_loss, loss = clipped_loss(np.array((train_loss, loss)))
    accuracy, score = _finite(np.array((accuracy, score)))
    signals.loss_delta = previous - loss
    signals.accuracy_delta = accuracy - signals.accuracy
    signals.train_loss, signals.loss, signals.accuracy, signals.score = train_loss, loss, accuracy, score
    signals.loss_history = np.concatenate((signals.loss_history[:, 1:], loss[:, None]), 1)
    signals.accuracy_history = np.concatenate((signals.accuracy_history[:, 1:], accuracy[:, None]), 1)

    signals.plateau = np.where(signals.accuracy_delta < PLATEAU_GAIN, signals.plateau + 1, 0)
    low, high = STABLE_GAIN
    stable = (signals.loss_delta > low * previous) & (signals.loss_delta < high * previous)
    stable &= signals.epoch >= FIRST_STABLE_EPOCH
    signals.stable_run = np.where(stable, signals.stable_run + 1, 0)
    signals.stabilized = signals.stabilized | (signals.stable_run >= STABLE_EPOCHS)
    signals.best_accuracy = np.maximum(signals.best_accuracy, accuracy)
    signals.best_loss = np.minimum(signals.best_loss, loss)


# Tables by epoch, whose last entry is for all later epochs.
_CHANGES: Ints = np.maximum(np.arange(WINDOW + 1), 1)
_COUNT: Ints = np.arange(1, WINDOW + 1)
_ENDS: Floats = np.eye(WINDOW + 1)[-1:].T - np.eye(WINDOW + 1)[::-1]
"""`[value, epoch]`: 1 at the later end of the window and -1 at the earlier one, 0 while they are the same."""
_REAL: Floats = np.tri(WINDOW).T[::-1]
"""`[value, epoch]`: 1 where the value is real."""


def trend(history: Floats, epoch: Ints) -> Floats:
    """Mean of the last `WINDOW` or fewer changes in `history [..., envs, HISTORY]`, 0 when there is none.

    Changes add up, so the mean is the distance between the two ends of the window.
    """
    ends = history[..., -WINDOW - 1 :] * _ENDS.take(epoch, axis=1, mode="clip").T
    return np.asarray(ends.sum(-1) / _CHANGES.take(epoch, mode="clip"))


def volatility(history: Floats, epoch: Ints) -> Floats:
    """Population standard deviation of the last `WINDOW` or fewer values, 0 when there is only one."""
    count = _COUNT.take(epoch, mode="clip")
    real = _REAL.take(epoch, axis=1, mode="clip").T
    recent = history[..., -WINDOW:]
    mean = recent.sum(-1) / count  # what is not real is 0
    deviation = (recent - mean[..., None]) * real
    return np.asarray(np.sqrt((deviation * deviation).sum(-1) / count))
