from itertools import permutations

import numpy as np
import pytest

from esper_env.counterfactuals import Measurement, measure, plan, record
from esper_env.lifecycle.state import NEVER, Slots


def random_games(seed, num_slots, envs=6):
    """Active slots, a value for every coalition of every environment, and generators."""
    rng = np.random.default_rng(seed)
    active = rng.random((envs, num_slots)) < rng.choice([0.4, 0.8, 1.0])
    tables = rng.normal(50, 20, (envs, 1 << num_slots))
    return active, tables, [np.random.default_rng((seed, env)) for env in range(envs)]


def play(active, tables, generators):
    asked = plan(active, generators)
    return asked, measure(asked, np.take_along_axis(tables, asked.masks, 1))


def members(row):
    return [s for s, on in enumerate(row) if on]


def mask(slots):
    return sum(1 << s for s in set(slots))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("num_slots", [1, 2, 3, 4, 5])
def test_shapley_values_are_the_mean_gain_over_all_permutations(seed, num_slots):
    active, tables, generators = random_games(seed, num_slots)
    _, got = play(active, tables, generators)
    for env, v in enumerate(tables):
        orders = list(permutations(members(active[env])))
        want = np.zeros(num_slots)
        for order in orders:
            for place, slot in enumerate(order):
                want[slot] += v[mask(order[: place + 1])] - v[mask(order[:place])]
        np.testing.assert_allclose(got.shapley[env], want / len(orders), atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("num_slots", [1, 3, 5, 6, 8])
def test_contributions_and_interactions_are_differences_of_coalition_values(seed, num_slots):
    active, tables, generators = random_games(seed, num_slots)
    _, got = play(active, tables, generators)
    for env, v in enumerate(tables):
        on = members(active[env])
        contribution, interaction = np.zeros(num_slots), np.zeros((num_slots, num_slots))
        for i in on:
            contribution[i] = v[mask(on)] - v[mask(s for s in on if s != i)]
            for j in on:
                if i != j:
                    interaction[i, j] = v[mask([i, j])] - v[mask([i])] - v[mask([j])] + v[0]
        np.testing.assert_allclose(got.contribution[env], contribution, atol=1e-9)
        np.testing.assert_allclose(got.interaction[env], interaction, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("num_slots", [1, 3, 5, 6, 9])
def test_shapley_values_sum_to_what_all_seeds_add(seed, num_slots):
    active, tables, generators = random_games(seed, num_slots)
    _, got = play(active, tables, generators)
    everything = active @ (1 << np.arange(num_slots))
    added = tables[np.arange(len(tables)), everything] - tables[:, 0]
    np.testing.assert_allclose(got.shapley.sum(1), added, atol=1e-9)


@pytest.mark.parametrize("num_slots", [3, 5, 7])
@pytest.mark.parametrize("seed", range(8))
def test_inactive_slots_and_slots_that_change_nothing_get_exactly_zero(seed, num_slots):
    active, tables, generators = random_games(seed, num_slots)
    null = seed % num_slots
    tables = tables[:, np.arange(1 << num_slots) & ~(1 << null)]
    active[:, null] = seed % 2
    _, got = play(active, tables, generators)
    idle = ~active | (np.arange(num_slots) == null)
    assert not got.contribution[idle].any()
    assert not got.shapley[idle].any()
    assert not got.interaction[idle].any()
    assert not got.interaction.transpose(0, 2, 1)[idle].any()


@pytest.mark.parametrize("num_slots", [6, 8])
def test_sampled_shapley_values_are_exact_where_seeds_do_not_interact_and_close_where_pairs_do(num_slots):
    rng = np.random.default_rng(0)
    bits = np.arange(1 << num_slots)[:, None] >> np.arange(num_slots) & 1
    worth, pairs = rng.normal(size=num_slots), np.triu(rng.normal(size=(num_slots, num_slots)), 1)
    table = bits @ worth + ((bits @ pairs) * bits).sum(1)
    active = np.ones((1, num_slots), bool)
    _, got = play(active, table[None], [np.random.default_rng(1)])
    # With a permutation goes its reverse, so a pair's surplus is shared half and half.
    np.testing.assert_allclose(got.shapley[0], worth + (pairs + pairs.T).sum(1) / 2, atol=1e-9)


@pytest.mark.parametrize("num_slots", [6, 9])
@pytest.mark.parametrize("seed", range(6))
def test_many_slots_with_few_active_ones_are_exact_and_draw_nothing(seed, num_slots):
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(6, 1 << num_slots))
    active = np.zeros((6, num_slots), bool)
    for env in range(6):
        active[env, rng.permutation(num_slots)[: min(env, 5)]] = True
    generators = [np.random.default_rng(env) for env in range(6)]
    _, got = play(active, tables, generators)
    for env, mine in enumerate(active):
        slots, want = np.flatnonzero(mine), np.zeros(num_slots)
        orders = list(permutations(slots.tolist()))
        for order in orders:
            coalition = 0
            for slot in order:
                want[slot] += (tables[env, coalition | 1 << slot] - tables[env, coalition]) / len(orders)
                coalition |= 1 << slot
        np.testing.assert_allclose(got.shapley[env], want, atol=1e-9)
        assert generators[env].bit_generator.state == np.random.default_rng(env).bit_generator.state


@pytest.mark.parametrize("num_slots", [1, 3, 5, 6, 8])
def test_a_plan_asks_only_for_coalitions_of_active_slots_and_always_for_all_and_none(num_slots):
    active, _, generators = random_games(3, num_slots)
    asked = plan(active, generators)
    everything = active @ (1 << np.arange(num_slots))
    assert not (asked.masks & ~everything[:, None]).any()
    assert (asked.masks == everything[:, None]).any(1).all()
    assert (asked.masks == 0).any(1).all()


def test_the_same_generators_give_the_same_plan_and_few_slots_draw_nothing():
    for num_slots in (3, 7):
        active = np.ones((4, num_slots), bool)
        first, second = ([np.random.default_rng(i) for i in range(4)] for _ in range(2))
        assert plan(active, first).masks.tolist() == plan(active, second).masks.tolist()
        drawn = [a.bit_generator.state != np.random.default_rng(i).bit_generator.state for i, a in enumerate(first)]
        assert drawn == [num_slots > 5] * 4


@pytest.mark.parametrize("num_slots", [3, 7])
def test_an_environment_is_measured_the_same_alone_and_in_a_stack(num_slots):
    active, tables, generators = random_games(5, num_slots)
    _, together = play(active, tables, generators)
    for env in range(len(active)):
        _, alone = play(active[[env]], tables[[env]], [np.random.default_rng((5, env))])
        for name, array in vars(alone).items():
            assert array.tobytes() == getattr(together, name)[[env]].tobytes()


@pytest.mark.parametrize("seed", range(10))
def test_recording_follows_each_seed_and_leaves_the_unmeasured_alone(seed):
    rng = np.random.default_rng(seed)
    envs, num_slots = 5, 3
    slots = Slots.dormant(envs, num_slots)
    want = {}
    for epoch in range(1, 12):
        m = rng.normal(size=(envs, num_slots, num_slots)) * (1 - np.eye(num_slots))
        metrics = Measurement(rng.normal(size=(envs, num_slots)), m + m.transpose(0, 2, 1), rng.normal(size=(envs, 3)))
        active, measured = rng.random((envs, num_slots)) < 0.6, rng.random(envs) < 0.7
        record(slots, metrics, active, measured, np.full(envs, epoch))
        for env in range(envs):
            for s in range(num_slots):
                if active[env, s] and measured[env]:
                    old = want.get((env, s))
                    c, partners = metrics.contribution[env, s], metrics.interaction[env, s]
                    velocity = 0.7 * old[1] + 0.3 * (c - old[0]) if old else 0.0
                    boost = max(0.0, *partners)
                    want[env, s] = (c, velocity, sum(partners), boost, metrics.shapley[env, s], epoch)
                got = [
                    slots.contribution[env, s],
                    slots.contribution_velocity[env, s],
                    slots.interaction_sum[env, s],
                    slots.boost_received[env, s],
                    slots.shapley[env, s],
                    slots.measured[env, s],
                ]
                np.testing.assert_allclose(got, want.get((env, s), (0, 0, 0, 0, 0, NEVER)), atol=1e-12)


def test_recording_does_not_write_into_arrays_that_others_hold():
    slots = Slots.dormant(1, 2)
    held = slots.shapley
    metrics = Measurement(np.ones((1, 2)), np.zeros((1, 2, 2)), np.ones((1, 2)))
    record(slots, metrics, np.ones((1, 2), bool), np.ones(1, bool), np.ones(1, np.int64))
    assert not held.any()
    assert slots.shapley.all()
    assert slots.measured.dtype == np.int64
