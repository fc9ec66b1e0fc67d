import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_agent.learning.normalizers import ObservationNormalizer, RewardNormalizer, RunningMoments


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_moments_taken_in_batches_are_those_of_everything_together(seed, sizes):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(3, 5, (n, 4)) for n in sizes]
    moments = RunningMoments(4)
    for batch in batches:
        moments.update(torch.from_numpy(batch))
    everything = np.concatenate(batches)
    if len(everything):
        np.testing.assert_allclose(moments.mean, everything.mean(0), atol=1e-9)
        np.testing.assert_allclose(moments.variance, everything.var(0), atol=1e-9)


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return_and_never_centred():
    gamma, rng = 0.9, np.random.default_rng(0)
    reward, done = rng.normal(5, 2, (3, 40)), rng.random((3, 40)) < 0.1
    returns = []
    for row in range(3):
        running = 0.0
        for t in range(40):
            running = running * gamma + reward[row, t]
            returns.append(running)
            running = 0.0 if done[row, t] else running
    normalizer = RewardNormalizer(3, gamma)
    halves = torch.from_numpy(reward).split(20, 1), torch.from_numpy(done).split(20, 1)
    for reward_part, done_part in zip(*halves, strict=True):
        normalizer.update(reward_part, done_part)
    scaled = normalizer(torch.from_numpy(reward))
    np.testing.assert_allclose(scaled, reward / np.std(returns), rtol=1e-6)


def test_normalised_rewards_are_clipped():
    normalizer = RewardNormalizer(1, 0.99, clip=2.0)
    normalizer.update(torch.randn(1, 50), torch.zeros(1, 50, dtype=torch.bool))
    assert normalizer(torch.tensor([1e6, -1e6])).tolist() == [2.0, -2.0]


def test_a_normalizer_goes_on_from_its_state():
    def normalizers():
        return RewardNormalizer(2, 0.99), ObservationNormalizer(3)

    straight, resumed = normalizers(), normalizers()
    reward, done, features = torch.randn(2, 10), torch.zeros(2, 10, dtype=torch.bool), torch.randn(2, 10, 3)
    for pair in (straight,):
        pair[0].update(reward, done)
        pair[1].update(features)
    for fresh, old in zip(resumed, straight, strict=True):
        fresh.load_state_dict(old.state_dict())
    for pair in (straight, resumed):
        pair[0].update(reward * 3, done)
        pair[1].update(features + 1)
    assert torch.equal(straight[0](reward), resumed[0](reward))
    assert torch.equal(straight[1](features), resumed[1](features))


def test_features_are_standardised():
    normalizer = ObservationNormalizer(2)
    features = torch.randn(100, 2) * torch.tensor([3.0, 0.1]) + 7
    normalizer.update(features)
    scaled = normalizer(features)
    assert scaled.mean(0).tolist() == pytest.approx([0, 0], abs=1e-4)
    assert scaled.std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-3)
