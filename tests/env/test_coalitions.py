import numpy as np
import pytest
import torch
import torch.nn.functional as F

from esper_env.actions import Op, Style
from esper_env.counterfactuals import coalitions
from esper_env.growth.coalitions import CoalitionPass
from esper_env.growth.population import ALONE, EVALUATION_BATCH, LOGITS, evaluation_batch
from esper_env.info import report
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.lifecycle.state import NEVER
from esper_env.observation import features
from esper_env.tasks import TASKS
from tests.conftest import BRIEF, HASTY, action, play, random_actions, simulate, step
from tests.env.test_blending import PlainNetwork, batch, mixed

HOSTS = {3: TASKS["digits"].host, 5: TASKS["digits_deep"].host}
QUICK = {"training": BRIEF, "lifecycle": HASTY}


def garden(seed, envs, slots):
    """A stack with seeds in all stages, every coalition of its blended ones, and labelled images for each host."""
    network, stage, alpha, algorithm, rng = mixed(seed, envs, HOSTS[slots])
    _, x, y = batch(rng, envs, 2 * EVALUATION_BATCH + 13, HOSTS[slots])
    active = BLENDED[stage] @ (1 << np.arange(slots))
    masks = np.arange(1 << slots) & active[:, None]
    return network, stage, alpha, algorithm, x, y, masks


def evaluate(network, envs, masks, alpha, algorithm, x, y):
    return CoalitionPass(network, envs, masks, alpha, algorithm).run(x, y, EVALUATION_BATCH)


@pytest.mark.parametrize("slots", [3, 5])
@pytest.mark.parametrize("envs", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_all_coalitions_of_a_branching_pass_are_those_of_separate_passes_bit_for_bit(seed, envs, slots):
    network, _, alpha, algorithm, x, y, masks = garden(seed, envs, slots)
    everyone = np.arange(envs)
    losses, accuracies = evaluate(network, everyone, masks, alpha, algorithm, x, y)
    for column in range(masks.shape[1]):
        loss, accuracy = evaluate(network, everyone, masks[:, [column]], alpha, algorithm, x, y)
        np.testing.assert_array_equal(loss[:, 0], losses[:, column])
        np.testing.assert_array_equal(accuracy[:, 0], accuracies[:, column])


@pytest.mark.parametrize("slots", [3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_coalition_is_the_training_networks_forward_pass_with_the_other_seeds_absent_bit_for_bit(seed, slots):
    network, stage, alpha, algorithm, x, y, masks = garden(seed, 4, slots)
    losses, _ = evaluate(network, np.arange(4), masks, alpha, algorithm, x, y)
    for column in range(masks.shape[1]):
        on = masks[:, [column]] >> np.arange(slots) & 1 == 1
        plans = network.plan(np.where(on | ~BLENDED[stage], stage, Stage.GERMINATED), alpha, algorithm)
        with torch.no_grad():
            parts = [network.train_logits(part, plans, 0.0) for part in x.split(EVALUATION_BATCH, 1)]
        logits = torch.cat(parts, 1)
        want = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(4, -1).double().mean(1)
        np.testing.assert_array_equal(losses[:, column], want.numpy())


@pytest.mark.parametrize("slots", [3, 5])
@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_all_coalitions_are_those_of_plain_hosts_with_the_seeds_as_modules(seed, envs, slots):
    network, stage, alpha, algorithm, x, y, masks = garden(seed, envs, slots)
    losses, accuracies = evaluate(network, np.arange(envs), masks, alpha, algorithm, x, y)
    for env in range(envs):
        plain = PlainNetwork.of(network, env, stage, alpha, algorithm)
        seeds = list(plain.seeds)
        for column, mask in enumerate(masks[env]):
            plain.seeds = [s if mask >> slot & 1 else None for slot, s in enumerate(seeds)]
            with torch.no_grad():
                logits, _ = plain.logits(x[env].permute(0, 3, 1, 2))
            np.testing.assert_allclose(losses[env, column], F.cross_entropy(logits, y[env]).item(), rtol=1e-5)
            accuracy = 100 * (logits.argmax(1) == y[env]).double().mean().item()
            assert abs(accuracies[env, column] - accuracy) <= 100 * 1.01 / y.shape[1]


@pytest.mark.parametrize("seed", range(3))
def test_environments_can_be_evaluated_in_any_choice_bit_for_bit(seed):
    network, _, alpha, algorithm, x, y, masks = garden(seed, 5, 3)
    losses, accuracies = evaluate(network, np.arange(5), masks, alpha, algorithm, x, y)
    for chosen in ([0, 4], [1, 2, 3], [3]):
        loss, accuracy = evaluate(network, np.array(chosen), masks[chosen], alpha, algorithm, x, y)
        np.testing.assert_array_equal(loss, losses[chosen])
        np.testing.assert_array_equal(accuracy, accuracies[chosen])


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_in_training_changes_no_coalition(seed):
    network, stage, alpha, algorithm, x, y, masks = garden(seed, 5, 3)
    before = evaluate(network, np.arange(5), masks, alpha, algorithm, x, y)
    idle = np.argwhere(np.isin(stage, (Stage.TRAINING, Stage.GERMINATED)))
    assert len(idle)
    for env, slot in idle.tolist():
        network.free(env, slot)
    after = evaluate(network, np.arange(5), masks, alpha, algorithm, x, y)
    np.testing.assert_array_equal(before, after)


def value(simulation, members):
    """v of a coalition `[envs, slots]`, evaluated afresh."""
    masks = (members @ (1 << np.arange(simulation.num_slots)))[:, None]
    everyone = np.ones(simulation.envs, bool)
    loss, accuracy, _ = simulation.population.evaluate(everyone, masks, simulation.alpha(), simulation.slots.algorithm)
    return loss[:, 0], accuracy[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["digits", "digits_deep"])
def test_shapley_values_add_up_and_contributions_are_leave_one_out_all_through_random_play(task):
    simulation = simulate(4, task=task, **QUICK)
    generators = [np.random.default_rng(env) for env in range(4)]
    several = 0
    for _ in range(30):
        simulation.step(random_actions(simulation, generators))
        slots, active = simulation.slots, BLENDED[simulation.slots.stage]
        loss, everything = value(simulation, active)
        np.testing.assert_array_equal(simulation.signals.loss, loss)
        np.testing.assert_array_equal(simulation.signals.accuracy, everything)
        np.testing.assert_array_equal(
            simulation.counters.committed_accuracy, value(simulation, slots.stage == Stage.FOSSILIZED)[1]
        )
        nothing = value(simulation, np.zeros_like(active))[1]
        np.testing.assert_allclose((slots.shapley * active).sum(1), everything - nothing, atol=1e-9)
        for slot in range(simulation.num_slots):
            without = active.copy()
            without[:, slot] = False
            left = everything - value(simulation, without)[1]
            np.testing.assert_allclose(slots.contribution[:, slot][active[:, slot]], left[active[:, slot]], atol=1e-9)
        several += (active.sum(1) > 1).sum()
    assert several > 10


def test_between_measurements_values_keep_and_freshness_decays():
    simulation = simulate(2, counterfactual_interval=3, **QUICK)
    freshness = [f.name for f in features(3)].index("slot0_freshness")
    step(simulation, action(Op.GERMINATE, 0, "conv_light"))
    step(simulation, action(Op.ADVANCE, 0))
    assert (simulation.slots.measured == NEVER).all()
    step(simulation, action(Op.ADVANCE, 0))
    last = simulation.slots.copy()
    measured = int(last.measured[0, 0])
    assert measured == 3
    for _ in range(9):
        step(simulation)
        epoch = int(simulation.signals.epoch[0])
        if epoch % 3 == 0:
            measured = epoch
        else:
            for name in ("contribution", "contribution_velocity", "shapley", "interaction_sum", "boost_received"):
                np.testing.assert_array_equal(getattr(simulation.slots, name), getattr(last, name))
        assert (simulation.slots.measured[:, 0] == measured).all()
        np.testing.assert_allclose(simulation.features()[:, freshness], 0.8 ** (epoch - measured), rtol=1e-6)
        last = simulation.slots.copy()
    assert measured == 12


@pytest.mark.parametrize("task", ["digits", "digits_deep"])
def test_the_info_holds_the_score_of_every_coalition_and_says_when_none_was_measured(task):
    simulation = simulate(2, task=task, counterfactual_interval=2, **QUICK)
    slots = simulation.num_slots
    host_alone = report(simulation)["coalition_score"]
    assert host_alone.shape == (2, 2**slots)
    assert (host_alone == simulation.signals.score[:, None]).all()
    for slot in (0, 1):
        step(simulation, action(Op.GERMINATE, slot, "conv_light"))
        step(simulation, action(Op.ADVANCE, slot))
    for decision in (action(Op.ADVANCE), action(Op.ADVANCE, 1)):
        step(simulation, decision)
        told = report(simulation)["coalition_score"]
        if simulation.signals.epoch[0] % 2:
            assert (told == -1).all()
    active = BLENDED[simulation.slots.stage]
    assert active[:, :2].all()
    for column, mask in enumerate(coalitions(slots).tolist()):
        members = active & (mask >> np.arange(slots) & 1 == 1)
        np.testing.assert_array_equal(told[:, column], value(simulation, members)[1])


def test_the_flops_of_an_evaluation_are_the_multiply_accumulates_of_every_branch_twice():
    simulation = simulate(3, training={"batches_per_epoch": 1}, lifecycle=HASTY)
    for slot, name in ((0, "conv_light"), (2, "conv_small")):
        grow = [action(Op.GERMINATE, slot, name), action(Op.ADVANCE, slot), action(Op.ADVANCE, slot)]
        for vector in grow:
            step(simulation, vector, action(), vector if slot == 0 else action())
    masks = np.tile([0, 1, 4, 5], (3, 1))
    masks[1] = 0
    masks[2] &= 1
    *_, flops = simulation.population.evaluate(np.ones(3, bool), masks, simulation.alpha(), simulation.slots.algorithm)
    first, second, third, last = 64 * 4, 16 * 4 * 8, 4 * 8 * 16, 16 * 10
    light, small = 64 * 9 * 4 * 4, 4 * 16 * 16
    alone = first + second + third + last
    both = first + light + 2 * (second + third) + 2 * small + 4 * last
    one = first + light + 2 * (second + third + last)
    np.testing.assert_array_equal(flops, [2.0 * 360 * both, 2.0 * 360 * alone, 2.0 * 360 * one])


def test_an_epoch_costs_three_forward_passes_of_training_and_its_evaluation():
    simulation = simulate(2, training={"batches_per_epoch": 2})
    host = 64 * 4 + 16 * 4 * 8 + 4 * 8 * 16 + 16 * 10
    np.testing.assert_array_equal(simulation.counters.flops, 2.0 * 360 * host)
    step(simulation, action(Op.GERMINATE, 1, "conv_small", Style.LINEAR_ADD), action())
    step(simulation, action(Op.ADVANCE, 1), action())
    epoch = 6.0 * host * 128 + 2.0 * 360 * host
    seed = 6.0 * (16 * 8 * 8) * 128
    np.testing.assert_array_equal(simulation.counters.flops, 2.0 * 360 * host + 2 * epoch + np.array([seed, 0]))


def test_random_play_reaches_every_stage_that_coalitions_can_meet():
    simulation, seen = simulate(6, **QUICK), set()
    for seed in range(3):
        play(simulation, 10, seed)
        seen |= set(simulation.slots.stage.ravel().tolist())
    assert {Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED} <= seen


def test_a_pass_holds_no_more_logits_than_memory_bears_and_small_tasks_do_not_notice():
    assert evaluation_batch(32, 10) == EVALUATION_BATCH
    assert evaluation_batch(1, 10) == ALONE
    tokens = 256 * 50_257
    assert 1 <= evaluation_batch(1, tokens) == evaluation_batch(2, tokens) == LOGITS // tokens
    assert evaluation_batch(2, 2 * LOGITS) == 1
