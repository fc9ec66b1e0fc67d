"""Interquartile means with bootstrap intervals, probabilities of improvement, and differences on the same seeds.

What Agarwal et al. (2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice") recommend. Episodes
of one training are not independent, nor are those of one held-out seed, which every training plays: a resample draws
trainings and seeds, each by themselves, so that the interval speaks of other trainings as well as of other seeds (Owen
2007, "The pigeonhole bootstrap": rather too wide than too narrow). Tasks are strata: each is resampled on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esper_env.arrays import Floats

RESAMPLES = 2_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def iqm(scores: Floats) -> Floats:
    """Mean of the middle half of the last axis: as `scipy.stats.trim_mean(scores, 0.25)`."""
    ordered = np.sort(scores, -1)
    cut = int(0.25 * ordered.shape[-1])
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(-1))


def resample(runs: Sequence[Floats], rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Resamples `[resamples, scores]` of runs with as many scores each: some of the runs, the same places of each."""
    table = np.stack([np.asarray(run, float) for run in runs])
    count, length = table.shape
    chosen = rng.integers(count, size=(resamples, count, 1))
    within = rng.integers(length, size=(resamples, 1, length))
    return np.asarray(table[chosen, within].reshape(resamples, -1))


def interquartile_mean(runs: Sequence[Floats], *, seed: int = 0) -> Interval:
    """The IQM of all scores of an agent on one task; `runs` holds the scores of each training."""
    return aggregate([runs], seed=seed)


def aggregate(tasks: Sequence[Sequence[Floats]], *, seed: int = 0) -> Interval:
    """The IQM over tasks whose scores are comparable, each resampled on its own."""
    rng = np.random.default_rng(seed)
    value = float(iqm(np.concatenate([np.concatenate(runs) for runs in tasks])))
    samples = iqm(np.concatenate([resample(runs, rng) for runs in tasks], 1))
    return Interval(value, *_bounds(samples))


def improvement_probability(ours: Sequence[Floats], theirs: Sequence[Floats], *, seed: int = 0) -> Interval:
    """How likely a random score of ours is above a random one of theirs, ties counting half (Mann and Whitney)."""
    rng = np.random.default_rng(seed)
    value = _above(np.concatenate(ours)[None], np.concatenate(theirs)[None])
    samples = _above(resample(ours, rng), resample(theirs, rng))
    return Interval(float(value[0]), *_bounds(samples))


def paired_difference(ours: Sequence[Floats], theirs: Sequence[Floats], *, seed: int = 0) -> Interval:
    """Mean of ours less that of theirs, when scores in the same place were got from the same held-out seed.

    The held-out seeds of both are drawn together: how hard a seed is cancels.
    """
    rng = np.random.default_rng(seed)
    tables = [np.stack([np.asarray(run, float) for run in runs]) for runs in (ours, theirs)]
    length = tables[0].shape[1]
    if tables[1].shape[1] != length:
        raise ValueError(
            f"Scores of the same seeds are wanted; got {length} of ours and {tables[1].shape[1]} of theirs."
        )
    drawn = rng.multinomial(length, np.full(length, 1 / length), RESAMPLES) / length
    means = []
    for table in tables:
        count = len(table)
        trainings = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
        means.append(((trainings @ table) * drawn).sum(1))
    return Interval(float(tables[0].mean() - tables[1].mean()), *_bounds(means[0] - means[1]))


def _above(ours: Floats, theirs: Floats) -> Floats:
    """P(X > Y) + P(X = Y) / 2 of every row, by rank: counting pairs would need a table of them."""
    ordered = np.sort(theirs, 1)
    pairs = list(zip(ordered, ours, strict=True))
    below = np.stack([np.searchsorted(row, values, "left") for row, values in pairs])
    not_above = np.stack([np.searchsorted(row, values, "right") for row, values in pairs])
    return np.asarray((below + not_above).mean(1) / (2 * theirs.shape[1]))


def _bounds(samples: Floats) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
