"""The default task is worth playing: doing nothing is poor, growing is good."""

import pytest

from tests.properties.episodes import full_episodes

HOSTS = 10


@pytest.mark.slow
def test_a_digits_host_that_only_waits_ends_between_25_and_50_percent():
    accuracy = full_episodes("digits", "wait", HOSTS).info["committed_accuracy"][-1]
    assert 25 <= accuracy.mean() <= 50


@pytest.mark.slow
def test_a_digits_host_that_is_grown_by_a_script_ends_above_80_percent():
    accuracy = full_episodes("digits", "grow", HOSTS).info["committed_accuracy"][-1]
    assert accuracy.mean() > 80
