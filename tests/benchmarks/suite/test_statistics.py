import numpy as np
import pytest
from scipy import stats

from benchmarks.suite.statistics import (
    aggregate,
    improvement_probability,
    interquartile_mean,
    iqm,
    paired_difference,
    resample,
)

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 50, 250])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    scores = RNG.normal(size=(3, count))
    np.testing.assert_allclose(iqm(scores), stats.trim_mean(scores, 0.25, axis=1))


def test_a_resample_draws_trainings_and_the_seeds_of_all_of_them_as_a_plain_loop_does():
    runs = [RNG.normal(run, 1, 4) for run in range(3)]
    rng, found = np.random.default_rng(1), []
    chosen, within = rng.integers(3, size=(20, 3, 1)), rng.integers(4, size=(20, 1, 4))
    for i in range(20):
        found.append([])
        for j in range(3):
            for k in range(4):
                found[-1].append(runs[chosen[i, j, 0]][within[i, 0, k]])
    np.testing.assert_array_equal(resample(runs, np.random.default_rng(1), 20), found)


def test_with_one_training_the_interval_is_scipys_percentile_bootstrap():
    scores = RNG.normal(3, 1, 60)
    ours = interquartile_mean([scores])
    theirs = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=4_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(stats.trim_mean(scores, 0.25))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)


def test_trainings_that_differ_widen_the_interval():
    alike = [RNG.normal(0, 1, 50) for _ in range(5)]
    apart = [run + shift for run, shift in zip(alike, (-4, -2, 0, 2, 4), strict=True)]
    narrow, wide = interquartile_mean(alike), interquartile_mean(apart)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("trainings", "of_training", "of_seed"), [(1, 0.0, 0.0), (5, 0.0, 1.0), (5, 1.0, 1.0)])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(trainings, of_training, of_seed):
    held = 0
    for trial in range(200):
        rng = np.random.default_rng((7, trial))
        training, seed = rng.normal(0, of_training, (trainings, 1)), rng.normal(0, of_seed, 40)
        scores = 1.0 + training + seed + rng.normal(0, 2.0, (trainings, 40))
        interval = interquartile_mean(list(scores), seed=trial)
        held += interval.low <= 1.0 <= interval.high
    # Five trainings are few to draw from, as they are to know from.
    assert (0.8 if of_training else 0.88) <= held / 200 <= 0.99


def test_seeds_that_are_hard_for_every_training_leave_an_interval_as_wide_as_one_training_does():
    scores = RNG.normal(0, 1, 50)
    copies, ours = [scores] * 5, [RNG.normal(1, 1, 1_000)]
    for measure in (interquartile_mean, lambda runs: improvement_probability(ours, runs)):
        one, all_alike = measure([scores]), measure(copies)
        assert all_alike.high - all_alike.low == pytest.approx(one.high - one.low, rel=0.15)


def test_tasks_are_resampled_each_on_its_own():
    low, high = [np.zeros(10)], [np.ones(10)]
    both = aggregate([low, high])
    assert both.value == both.low == both.high == 0.5  # a resample of all together would mix the tasks unevenly


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.3])
def test_the_probability_of_improvement_counts_pairs_with_half_a_point_for_ties(shift):
    ours, theirs = RNG.integers(0, 5, 31) + shift, RNG.integers(0, 5, 17).astype(float)
    counted = 0.0
    for x in ours:
        for y in theirs:
            counted += (x > y) + 0.5 * (x == y)
    found = improvement_probability([ours], [theirs])
    assert found.value == pytest.approx(counted / (31 * 17))
    assert found.value == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic / (31 * 17))
    assert found.low <= found.value <= found.high


def test_the_same_scores_give_the_same_interval_again():
    runs = [RNG.normal(size=20) for _ in range(3)]
    assert interquartile_mean(runs) == interquartile_mean(runs)


def test_on_the_same_seeds_what_makes_a_seed_hard_cancels():
    hard = RNG.normal(0, 5, 50)
    ours = [hard + 0.5 + RNG.normal(0, 0.2, 50) for _ in range(3)]
    theirs = [hard + RNG.normal(0, 0.2, 50)]
    difference, apart = paired_difference(ours, theirs), interquartile_mean(ours)
    assert difference.value == pytest.approx(np.concatenate(ours).mean() - theirs[0].mean())
    assert 0.25 < difference.low < difference.value < difference.high < 0.75
    assert apart.high - apart.low > 5 * (difference.high - difference.low)


def test_with_a_training_each_the_difference_is_scipys_paired_bootstrap():
    ours, theirs = RNG.normal(1, 1, 60), RNG.normal(0, 1, 60)
    found = paired_difference([ours], [theirs])
    scipys = stats.bootstrap((ours - theirs,), np.mean, n_resamples=4_000, method="percentile", rng=1)
    bounds = scipys.confidence_interval
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), abs=0.04)


def test_trainings_that_differ_widen_a_difference():
    theirs = [np.zeros(50)]
    alike = paired_difference([RNG.normal(0, 1, 50) for _ in range(5)], theirs)
    apart = paired_difference([RNG.normal(shift, 1, 50) for shift in (-4, -2, 0, 2, 4)], theirs)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_a_difference_wants_scores_of_the_same_seeds():
    with pytest.raises(ValueError, match="got 3 of ours and 2 of theirs"):
        paired_difference([np.zeros(3)], [np.zeros(2)])
