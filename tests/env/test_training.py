import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from esper_env.actions import Algorithm, Op, Style
from esper_env.growth.optimizer import Rates
from esper_env.growth.training import SlotState, gradient_stats, train_epoch
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.lifecycle.state import NEVER
from tests.conftest import BRIEF, HASTY, action, play, random_actions, simulate, step
from tests.env.test_blending import HOST, LAMBDA, PlainNetwork, mixed

QUICK = {"training": BRIEF, "lifecycle": HASTY}
RATES = Rates(0.05, 0.05, 0.9, 5e-4, 1.0)
BATCH = 16


def nursery(seed):
    """A stack with seeds in all stages, its slots' state, and images for all hosts."""
    network, stage, alpha, algorithm, rng = mixed(seed)
    shape = stage.shape
    slots = SlotState(stage, alpha, algorithm, np.ones(shape, bool), stage == Stage.FOSSILIZED)
    images = rng.normal(0, 1, (64, HOST.image_size, HOST.image_size, 1)).astype(np.float32)
    labels = rng.integers(0, HOST.classes, 64)
    order = np.stack([rng.permutation(64)[: 3 * BATCH] for _ in range(network.hosts)])
    return network, slots, torch.from_numpy(images), torch.from_numpy(labels), order


def train(network, slots, images, labels, order):
    return train_epoch(network, slots, images[None], labels[None], order, BATCH, RATES, LAMBDA)[1]


@pytest.mark.parametrize("seed", range(8))
def test_gradient_statistics_are_those_of_autograd_norms_by_hand(seed):
    network, slots, images, labels, order = nursery(seed)
    order = order[:, :BATCH]
    plains = [PlainNetwork.of(network, e, slots.stage, slots.alpha, slots.algorithm) for e in range(network.hosts)]
    stats = train(network, slots, images, labels, order)
    for env, plain in enumerate(plains):
        logits, energy = plain.logits(images[order[env]].permute(0, 3, 1, 2))
        loss = F.cross_entropy(logits, labels[order[env]]) + LAMBDA * energy
        for slot, plain_seed in enumerate(plain.seeds):
            if plain_seed is None or plain_seed.stage == Stage.GERMINATED:
                assert not stats.measured[env, slot]
                assert np.isnan(stats.health[env, slot])
                continue
            norms = np.array([g.norm() for g in torch.autograd.grad(loss, plain_seed.parameters(), retain_graph=True)])
            assert stats.measured[env, slot]
            np.testing.assert_allclose(stats.norm[env, slot], np.sqrt((norms**2).sum()), rtol=1e-3, atol=1e-6)
            if not ((norms > 2e-8) & (norms < 5e-7)).any():  # far enough from the threshold to judge
                vanishing, exploding = norms < 1e-7, norms > 10
                health = np.clip(1 - 0.5 * vanishing.mean() - 0.8 * exploding.mean(), 0, 1)
                np.testing.assert_allclose(stats.health[env, slot], health, atol=1e-12)
                assert stats.vanishing[env, slot] == vanishing.any()
                assert stats.exploding[env, slot] == exploding.any()


@pytest.mark.parametrize("seed", range(4))
def test_gradient_norms_are_averaged_over_the_batches_before_clipping(seed):
    network, slots, images, labels, order = nursery(seed)
    twin = copy.deepcopy(network)
    whole = train(network, slots, images, labels, order)
    parts = [train(twin, slots, images, labels, part) for part in np.split(order, 3, axis=1)]
    np.testing.assert_allclose(whole.norm, np.mean([part.norm for part in parts], 0), rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(whole.measured, parts[0].measured)
    assert torch.equal(network.trunk.value, twin.trunk.value)


@pytest.mark.parametrize(
    ("norms", "health", "vanishing", "exploding"),
    [
        ([1.0, 1.0, 1.0, 1.0], 1.0, False, False),
        ([0.0, 1.0, 1.0, 1.0], 1 - 0.5 / 4, True, False),
        ([9.9e-8, 9.9e-8, 1.0, 1.0], 0.75, True, False),
        ([1.01e-7, 9.99, 1.0, 1.0], 1.0, False, False),
        ([10.1, 1.0, 1.0, 1.0], 0.8, False, True),
        ([np.inf, np.nan, 0.0, 1.0], 1 - 0.5 / 4 - 0.8 / 2, True, True),
        ([np.nan] * 4, 0.2, False, True),
        ([0.0] * 4, 0.5, True, False),
    ],
)
def test_health_weighs_vanishing_half_and_exploding_four_fifths(norms, health, vanishing, exploding):
    batches = 3
    total = float(np.sqrt(np.sum(np.square(norms))))
    bank = SimpleNamespace(
        bank=SimpleNamespace(envs=[1]),
        key=(0, "conv_light"),
        norm_sum=torch.tensor([norms]) * batches,
        total_sum=torch.tensor([total]) * batches,
        gated=None,
        stacks=[],
    )
    stats = gradient_stats([bank], np.array([[False], [True]]), batches)
    np.testing.assert_allclose(stats.health[1, 0], health)
    assert stats.vanishing[1, 0] == vanishing
    assert stats.exploding[1, 0] == exploding
    np.testing.assert_allclose(stats.norm[1, 0], total if np.isfinite(total) else np.inf, rtol=1e-6)
    assert not stats.measured[0, 0]
    assert np.isnan(stats.health[0, 0])


def test_a_seed_that_never_trained_stays_unmeasured():
    simulation = simulate(2, **QUICK)
    step(simulation, action(Op.GERMINATE, 1, "conv_light"))
    for _ in range(3):
        step(simulation)
        assert np.isnan(simulation.slots.gradient_health).all()
        assert not simulation.legality()[:, Op.FOSSILIZE].any()
        assert (simulation.slots.measured == NEVER).all()


def seed_of(simulation, env, slot):
    """Value and momentum of a seed, and of its gate."""
    network, local = simulation.population.home(env)
    bank = next(bank for key, bank in network.banks.items() if key[0] == slot and local in bank.envs)
    row = bank.envs.index(local)
    return [(stack.value[row].clone(), stack.momentum[row].clone()) for stack in bank.stacks()]


def blending(style=Style.GATED_GATE, name="conv_light", **options):
    """Two hosts with a seed in slot 1, fully blended in."""
    simulation = simulate(2, **(QUICK | options))
    step(simulation, action(Op.GERMINATE, 1, name, style))
    for vector in (*[action(Op.ADVANCE, 1)] * 2, *[action()] * 3):
        step(simulation, vector)
    assert (simulation.alpha()[:, 1] == 1).all()
    return simulation


def test_a_seed_that_ramps_down_to_be_pruned_is_frozen_bit_for_bit_while_its_neighbour_learns():
    simulation = blending()
    frozen, moving = seed_of(simulation, 0, 1), seed_of(simulation, 1, 1)
    alphas = []
    for vector in (action(Op.PRUNE, 1, speed=2, curve=1), *[action()] * 3):
        step(simulation, vector, action())
        alphas.append(simulation.alpha()[0, 1])
        for (now, _), (then, _) in zip(seed_of(simulation, 0, 1), frozen, strict=True):
            assert torch.equal(now, then)
        for (now, _), (then, _) in zip(seed_of(simulation, 1, 1), moving, strict=True):
            assert not torch.equal(now, then)
    assert (np.diff(alphas) < 0).all()
    step(simulation)
    assert simulation.slots.stage[:, 1].tolist() == [Stage.PRUNED, Stage.BLENDING]


def test_a_gate_that_is_built_late_is_counted_and_trains():
    simulation = blending(Style.LINEAR_ADD)
    plain = simulation.slots.params[0, 1]
    step(simulation, action(Op.SET_ALPHA_TARGET, 1, style=Style.GATED_GATE), action())
    assert simulation.slots.algorithm[:, 1].tolist() == [Algorithm.GATE, Algorithm.ADD]
    hidden = 8
    assert simulation.slots.params[:, 1].tolist() == [plain + 8 * hidden + hidden + hidden + 1, plain]
    before = seed_of(simulation, 0, 1)[1]
    for _ in range(3):
        step(simulation)
    after = seed_of(simulation, 0, 1)[1]
    assert not torch.equal(before[0], after[0])
    assert after[1].any()
    # The neighbour has none: its row stays empty.
    value, momentum = seed_of(simulation, 1, 1)[1]
    assert not value.any()
    assert not momentum.any()
    step(simulation, action(Op.SET_ALPHA_TARGET, 1, style=Style.LINEAR_ADD), action())
    assert simulation.slots.params[0, 1] == plain


@pytest.mark.parametrize("style", Style)
def test_a_run_that_prunes_in_training_is_the_waiting_run_bit_for_bit(style):
    """The waiting twin is exact: planting draws nothing from the stream of the data order."""
    visited, waiting = simulate(2), simulate(2)
    script = [action(), action(Op.GERMINATE, 0, "conv_heavy", style), action(Op.ADVANCE, 0)]
    script += [action(Op.GERMINATE, 2, "attention", style), action(Op.ADVANCE, 2), action(), action(Op.PRUNE, 0)]
    script += [action(), action(Op.PRUNE, 2), action()]
    for vector in script:
        step(visited, vector)
        assert visited.counters.executed.all()
        step(waiting)
        for name in ("loss", "accuracy", "train_loss", "score"):
            np.testing.assert_array_equal(getattr(visited.signals, name), getattr(waiting.signals, name))
        for ours, theirs in zip(visited.population.stacks, waiting.population.stacks, strict=True):
            assert torch.equal(ours.trunk.value, theirs.trunk.value)
            assert torch.equal(ours.trunk.momentum, theirs.trunk.momentum)
    assert not visited.population.stacks[0].banks


def test_every_epoch_visits_the_training_samples_once_in_an_order_of_its_own():
    simulation = simulate(2)
    orders = [simulation._order(streams) for streams in simulation.streams for _ in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1077))
    assert len({tuple(order.tolist()) for order in orders}) == 4


def record(simulation, generators, steps):
    found = []
    for _ in range(steps):
        outcome = simulation.step(random_actions(simulation, generators))
        trunks = [network.trunk.value.clone() for network in simulation.population.stacks]
        found.append((simulation.features(), outcome.reward, trunks))
    return found


def assert_same(ours, theirs):
    for (features, reward, trunks), (features2, reward2, trunks2) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(features, features2)
        np.testing.assert_array_equal(reward, reward2)
        assert all(torch.equal(a, b) for a, b in zip(trunks, trunks2, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["digits", "digits_deep", "shapes"])
def test_a_state_continues_bit_for_bit_in_the_same_simulation_a_copy_and_another_one(task):
    simulation = simulate(4, task=task, **QUICK)
    seen, generators = set(), [np.random.default_rng(env) for env in range(4)]
    wanted = {Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED}
    for _ in range(45):
        simulation.step(random_actions(simulation, generators))
        seen |= set(simulation.slots.stage.ravel().tolist())
        if seen >= wanted:
            break
    assert seen >= wanted
    assert BLENDED[simulation.slots.stage].any()
    state, draws = simulation.get_state(), copy.deepcopy(generators)
    reference = record(simulation, copy.deepcopy(draws), 4)

    simulation.set_state(state)
    assert_same(record(simulation, copy.deepcopy(draws), 4), reference)

    other = simulate(4, task=task, seeds=range(50, 54), **QUICK)
    play(other, 5)
    other.set_state(pickle.loads(pickle.dumps(state)))
    assert_same(record(other, copy.deepcopy(draws), 4), reference)

    simulation.set_state(state)
    twin = copy.deepcopy(simulation)
    play(simulation, 3)
    assert_same(record(twin, copy.deepcopy(draws), 4), reference)


def test_resetting_one_environment_starts_it_afresh_and_leaves_the_other_alone():
    simulation, twin = simulate(3, **QUICK), simulate(3, **QUICK)
    play(simulation, 10)
    play(twin, 10)
    simulation.reset(np.array([False, True, False]), [1])
    fresh = simulate(3, **QUICK)
    np.testing.assert_array_equal(simulation.features()[1], fresh.features()[1])
    for _ in range(3):
        step(simulation)
        step(twin)
        step(fresh)
        np.testing.assert_array_equal(simulation.features()[[0, 2]], twin.features()[[0, 2]])
        np.testing.assert_array_equal(simulation.features()[1], fresh.features()[1])


def test_stepping_with_gradients_turned_off_gives_the_same_epoch():
    plain, without = simulate(2), simulate(2)
    step(plain)
    with torch.no_grad():
        step(without)
    assert torch.equal(plain.population.stacks[0].trunk.value, without.population.stacks[0].trunk.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_stack_runs_on_one_thread_of_torch_and_the_users_number_is_left_alone(threads):
    population = simulate(4, threads=threads).population

    def fail(stack, start, end):
        raise RuntimeError("a stack failed")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        numbers = population._map(lambda stack, start, end: torch.get_num_threads())
        with pytest.raises(RuntimeError, match="a stack failed"):
            population._map(fail)
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
        population.close()
    assert numbers == [1] * threads
    assert after == 2
