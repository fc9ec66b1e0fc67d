"""The governor: notices when a host is lost. Arrays over environments; restoring is the population's work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esper_env.arrays import Arrays, Bools, Floats, Ints

WINDOW, ARMED = 20, 5
LOBOTOMY_MEAN, LOBOTOMY_NEAR = 0.6, 0.065
DIVERGENCE_STREAK = 3
SNAPSHOT_INTERVAL = 5


@dataclass
class Governor(Arrays):
    """What the governor remembers of each host: its last unflagged losses, and streaks."""

    window: Floats
    """`[envs, 20]`, latest last, 0 where nothing has been seen yet."""
    filled: Ints
    diverging: Ints
    healthy: Ints
    """Healthy epochs since the last snapshot."""

    @classmethod
    def fresh(cls, envs: int) -> Governor:
        """A governor that has seen nothing."""
        zeros = [np.zeros(envs, np.int64) for _ in range(3)]
        return cls(np.zeros((envs, WINDOW)), *zeros)


def watch(governor: Governor, loss: Floats, finite: Bools, chance_loss: float) -> Bools:
    """Judge this epoch's validation losses; returns the hosts that panic, whose memory is cleared.

    Args:
        governor: updated in place.
        loss: main validation loss, possibly non-finite.
        finite: hosts whose parameters are all finite.
        chance_loss: the loss of guessing, L0.
    """
    lost = ~(finite & np.isfinite(loss))
    safe = np.where(lost, 0.0, loss)
    lobotomised, diverges = _judge(governor, safe, chance_loss)
    governor.diverging = np.where(diverges, governor.diverging + 1, 0)
    panic = lost | lobotomised | (governor.diverging >= DIVERGENCE_STREAK)
    flagged = panic | diverges
    shifted = np.concatenate([governor.window[:, 1:], safe[:, None]], 1)
    governor.window = np.where(flagged[:, None], governor.window, shifted)
    governor.filled = np.where(flagged, governor.filled, np.minimum(governor.filled + 1, WINDOW))
    governor.healthy = np.where(flagged, governor.healthy, governor.healthy + 1)
    if panic.any():
        governor.put(panic, Governor.fresh(int(panic.sum())))
    return np.asarray(panic)


def _judge(governor: Governor, loss: Floats, chance_loss: float) -> tuple[Bools, Bools]:
    """Which hosts have fallen back to guessing, and which are on their way out, by the losses remembered of them."""
    guesses, high = np.abs(loss - chance_loss) <= LOBOTOMY_NEAR * chance_loss, loss > 3 * chance_loss
    if not (guesses | high).any():
        return guesses, high
    armed, count = governor.filled >= ARMED, np.maximum(governor.filled, 1)
    mean = governor.window.sum(1) / count
    variance = np.square(governor.window).sum(1) / count - mean * mean
    deviation = np.sqrt(np.maximum(variance, 0))
    lobotomised = armed & (mean < LOBOTOMY_MEAN * chance_loss) & guesses
    return lobotomised, armed & (loss > 3 * mean) & (loss > mean + 6 * deviation) & high


def snapshot_due(governor: Governor) -> Bools:
    """Hosts that have been healthy long enough for a new snapshot; their count starts again."""
    due = governor.healthy >= SNAPSHOT_INTERVAL
    governor.healthy = np.where(due, 0, governor.healthy)
    return np.asarray(due)
