from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch

from esper_env.actions import CNN, TRANSFORMER, Op, Style
from esper_env.growth.governor import Governor, snapshot_due, watch
from esper_env.growth.optimizer import Rates
from esper_env.lifecycle.stages import BLENDED, LIVE, Stage
from esper_env.lifecycle.state import NEVER
from esper_env.tasks import TASKS
from tests.conftest import BRIEF, BRIEF_FEW, HASTY, action, play, random_actions, simulate, step
from tests.env.test_blending import mixed

L0 = float(np.log(10))
QUICK = {"training": BRIEF, "lifecycle": HASTY}
FEW = {"training": BRIEF_FEW, "lifecycle": HASTY}
FOSSIL = {CNN: "conv_light", TRANSFORMER: "mlp_small"}
"""What `grown` plants in slot 0, by host."""


class Watchman:
    """The governor of one host, written from the specification."""

    def __init__(self):
        self.losses, self.streak = deque(maxlen=20), 0

    def panics(self, loss, finite):
        armed, mean, spread = len(self.losses) >= 5, 0.0, 0.0
        if self.losses:
            mean, spread = float(np.mean(self.losses)), float(np.std(self.losses))
        if not finite or not np.isfinite(loss):
            return self.forget()
        if armed and mean < 0.6 * L0 and abs(loss - L0) <= 0.065 * L0:
            return self.forget()
        if armed and loss > 3 * mean and loss > mean + 6 * spread and loss > 3 * L0:
            self.streak += 1
            return self.forget() if self.streak == 3 else False
        self.streak = 0
        self.losses.append(loss)
        return False

    def forget(self):
        self.losses.clear()
        self.streak = 0
        return True


def random_losses(rng, epochs):
    """Losses as hosts have them: learning, with jumps to chance, to high values and to no number at all."""
    level = rng.uniform(0.2, 3.0)
    for _ in range(epochs):
        level = max(0.05, level * rng.uniform(0.8, 1.1))
        kind = rng.choice(["learns", "chance", "high", "broken"], p=[0.7, 0.08, 0.2, 0.02])
        yield {
            "learns": level,
            "chance": L0 * rng.uniform(0.92, 1.08),
            "high": rng.uniform(2, 12) * L0,
            "broken": rng.choice([np.nan, np.inf, 1e30]),
        }[kind]


@pytest.mark.parametrize("seed", range(20))
def test_watch_is_the_plain_watchman_of_every_host(seed):
    envs, epochs = 16, 120
    generators = [np.random.default_rng((seed, env)) for env in range(envs)]
    losses = np.array([list(random_losses(rng, epochs)) for rng in generators]).T
    finite = np.random.default_rng(seed).random(losses.shape) > 0.01
    governor, watchmen = Governor.fresh(envs), [Watchman() for _ in range(envs)]
    panics = 0
    for row, sound in zip(losses, finite, strict=True):
        got = watch(governor, row, sound, L0)
        want = [w.panics(loss, ok) for w, loss, ok in zip(watchmen, row, sound, strict=True)]
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(governor.filled, [len(w.losses) for w in watchmen])
        np.testing.assert_array_equal(governor.diverging, [w.streak for w in watchmen])
        panics += got.sum()
    assert panics > 5


def test_a_snapshot_is_due_after_every_five_healthy_epochs_and_flagged_ones_do_not_count():
    governor, due = Governor.fresh(1), []
    for loss in [1.0] * 7 + [50.0] * 2 + [1.0] * 4:
        assert not watch(governor, np.array([loss]), np.array([True]), L0)[0]
        due.append(bool(snapshot_due(governor)[0]))
    assert [epoch for epoch, is_due in enumerate(due) if is_due] == [4, 11]


def committed(simulation, env):
    """Value, momentum and snapshot of the host and fossils of an environment."""
    network, local = simulation.population.home(env)
    stacks = [(network.trunk, local)]
    for (slot, _), bank in network.banks.items():
        if local in bank.envs and simulation.slots.stage[env, slot] == Stage.FOSSILIZED:
            stacks += [(stack, bank.envs.index(local)) for stack in bank.stacks()]
    return [(stack.value[row], stack.momentum[row], stack.snapshot[row]) for stack, row in stacks]


def grown(**options):
    """Two hosts, each with a gated fossil in slot 0, a blending seed in slot 1 and one in training in slot 2."""
    simulation = simulate(2, **options)
    for slot, advances in ((0, 2), (1, 2), (2, 1)):
        style = Style.GATED_GATE if slot == 0 else Style.SIGMOID_ADD
        names = FOSSIL[simulation.task.host.topology], "norm", "attention"
        step(simulation, action(Op.GERMINATE, slot, names[slot], style))
        for _ in range(advances):
            step(simulation, action(Op.ADVANCE, slot))
        if slot == 0:
            for _ in range(2):
                step(simulation)
            step(simulation, action(Op.ADVANCE, 0))
            step(simulation, action(Op.FOSSILIZE, 0))
    assert simulation.slots.stage[0, :3].tolist() == [Stage.FOSSILIZED, Stage.BLENDING, Stage.TRAINING]
    return simulation


def poison_host(simulation, env):
    network, local = simulation.population.home(env)
    network.trunk.value[local, 3] = float("nan")


def poison_fossil(simulation, env):
    network, local = simulation.population.home(env)
    bank = network.banks[0, FOSSIL[network.host.topology]]
    bank.seeds.value[bank.envs.index(local), 0] = float("inf")


def poison_seed(simulation, env):
    network, local = simulation.population.home(env)
    bank = network.banks[1, "norm"]
    bank.seeds.value[bank.envs.index(local)] = float("nan")


@pytest.mark.parametrize("poison", [poison_host, poison_fossil, poison_seed])
@pytest.mark.parametrize("task", ["digits", "cifar10_impaired", "cifar10_postpool", "story_grammar"])
def test_after_a_rollback_host_and_fossils_are_the_snapshot_without_momentum_and_live_seeds_are_gone(task, poison):
    options = {"task": task} | (QUICK if task == "digits" else FEW)
    simulation, twin = grown(**options), grown(**options)
    before = [snapshot.clone() for _, _, snapshot in committed(simulation, 0)]
    poison(simulation, 0)
    outcome = step(simulation)
    undisturbed = step(twin)
    assert simulation.counters.rolled_back.tolist() == [True, False]
    assert outcome.terms["governor"].tolist() == [-10.0, 0.0]
    assert not outcome.terminated.any()
    for (value, momentum, _), snapshot in zip(committed(simulation, 0), before, strict=True):
        assert torch.equal(value, snapshot)
        assert not momentum.any()
    assert simulation.slots.stage[0].tolist() == [Stage.FOSSILIZED, Stage.PRUNED, Stage.PRUNED]
    assert outcome.events.pruned.tolist() == [[False, True, True], [False] * 3]
    assert simulation.slots.epochs_in_stage[0, 1:].tolist() == [1, 1]
    # The seeds that are lost keep what was last measured of them, and losing them costs neither shock nor rent.
    epoch = simulation.signals.epoch[0]
    assert simulation.slots.measured[0].tolist() == [epoch, epoch - 1, NEVER]
    for name in ("shock", "rent"):
        assert outcome.terms[name][0] == undisturbed.terms[name][0]
    network, local = simulation.population.home(0)
    assert [key for key, bank in network.banks.items() if local in bank.envs] == [(0, FOSSIL[network.host.topology])]
    # What is observed and rewarded is the restored network.
    masks = np.array([[1, 0]])
    only = np.array([True, False])
    loss, accuracy, flops = simulation.population.evaluate(only, masks, simulation.alpha(), simulation.slots.algorithm)
    assert simulation.signals.loss[0] == loss[0, 0]
    assert simulation.signals.accuracy[0] == accuracy[0, 0]
    assert simulation.counters.flops[0] == twin.counters.flops[0] + flops[0]
    np.testing.assert_allclose(outcome.reward, np.sum([*outcome.terms.values()], 0))
    # The neighbour has noticed nothing, and training goes on for both.
    for _ in range(4):
        assert np.isfinite(simulation.features()).all()
        np.testing.assert_array_equal(simulation.features()[1], twin.features()[1])
        assert outcome.reward[1] == undisturbed.reward[1]
        for ours, theirs in zip(committed(simulation, 1), committed(twin, 1), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        outcome, undisturbed = step(simulation), step(twin)
        assert not simulation.counters.rolled_back.any()
        assert all(momentum.any() for _, momentum, _ in committed(simulation, 0))


def test_a_lobotomised_host_is_caught_and_restored():
    simulation = simulate(2, task="digits_capable")
    for _ in range(12):
        step(simulation)
    assert (simulation.signals.loss < 0.5).all()
    network, local = simulation.population.home(0)
    for name in ("block2.scale", "block2.shift", "classifier.bias"):
        network.trunk.parameters[name].data[local] = 0.0  # a dead ReLU: the classifier sees nothing any more
    network.trunk.momentum[local] = 0.0
    step(simulation)
    assert simulation.counters.rolled_back.tolist() == [True, False]
    assert (simulation.signals.loss < 0.6 * L0).all()
    step(simulation)
    assert not simulation.counters.rolled_back.any()


def test_an_exploding_learning_rate_is_caught_after_three_diverging_epochs_and_training_goes_on():
    simulation = simulate(2, task="digits_capable", training=BRIEF)
    for _ in range(10):
        step(simulation)
    good = simulation.rates
    simulation.rates = Rates(300.0, good.seed_lr, good.momentum, good.weight_decay, good.clip_norm)
    caught = []
    for _ in range(3):
        step(simulation)
        caught.append(simulation.counters.rolled_back.copy())
        assert np.isfinite(simulation.features()).all()
    assert [c.tolist() for c in caught] == [[False, False], [False, False], [True, True]]
    simulation.rates = good
    after = simulation.signals.loss.copy()
    for _ in range(6):
        step(simulation)
    assert not simulation.counters.rolled_back.any()
    assert (simulation.signals.loss < after).all()


@pytest.mark.parametrize("rate", [1e3, 1e10, 1e30])
def test_a_diverged_host_never_raises_or_warns_and_all_that_it_shows_is_finite(rate):
    simulation = simulate(3, training=BRIEF | {"host_lr": rate}, lifecycle=HASTY)
    generators, panics = [np.random.default_rng(env) for env in range(3)], 0
    for _ in range(15):
        outcome = simulation.step(random_actions(simulation, generators))
        panics += simulation.counters.rolled_back.sum()
        assert np.isfinite(simulation.features()).all()
        assert np.isfinite(outcome.reward).all()
        assert np.isfinite(simulation.signals.loss).all()
    assert panics > 0 or rate < 1e10


def test_live_seeds_that_are_not_finite_in_training_cause_no_panic_and_can_not_advance():
    simulation = simulate(2, **QUICK)
    step(simulation, action(Op.GERMINATE, 0, "conv_light"))
    step(simulation, action(Op.ADVANCE, 0))
    network = simulation.population.stacks[0]
    network.banks[0, "conv_light"].seeds.value[0] = float("nan")
    for _ in range(3):
        step(simulation)
        assert not simulation.counters.rolled_back.any()
    assert simulation.slots.exploding[:, 0].tolist() == [True, False]
    assert simulation.legality()[:, Op.ADVANCE, 0].tolist() == [False, True]
    assert np.isfinite(simulation.features()).all()


def test_on_panic_terminate_ends_the_episode():
    simulation = simulate(2, on_panic="terminate", **QUICK)
    step(simulation)
    poison_host(simulation, 1)
    outcome = step(simulation)
    assert outcome.terminated.tolist() == [False, True]
    assert simulation.counters.rolled_back.tolist() == [False, True]
    assert simulation.counters.test_accuracy[1] >= 0
    assert np.isfinite(simulation.features()).all()


def test_a_snapshot_is_taken_at_reset_and_the_moment_a_seed_is_fossilized():
    simulation = simulate(2, **QUICK)
    assert all(torch.equal(value, snapshot) for value, _, snapshot in committed(simulation, 0))
    step(simulation, action(Op.GERMINATE, 0, "conv_light"))
    for vector in (*[action(Op.ADVANCE, 0)] * 2, *[action()] * 3, action(Op.ADVANCE, 0)):
        step(simulation, vector)
    values = [value.clone() for value, _, _ in committed(simulation, 0)]
    seed = simulation.population.stacks[0].banks[0, "conv_light"].seeds.value[0].clone()
    step(simulation, action(Op.FOSSILIZE, 0))
    snapshots = [snapshot for _, _, snapshot in committed(simulation, 0)]
    assert torch.equal(snapshots[0], values[0])
    assert torch.equal(snapshots[1], seed)


def test_every_five_healthy_epochs_host_and_fossils_are_remembered_as_they_are_then():
    simulation, remembered = grown(**QUICK), []
    for _ in range(6):
        step(simulation)
        remembered.append(simulation.governor.healthy[0] == 0)
        for value, _, snapshot in committed(simulation, 0):
            assert torch.equal(value, snapshot) == remembered[-1]
    assert any(remembered)


def test_a_new_fossil_renews_the_snapshots_of_host_and_older_fossils():
    simulation = grown(**QUICK)
    step(simulation, action(Op.ADVANCE, 1))
    simulation.governor.healthy[:] = 0  # no other snapshot is due
    before = [value.clone() for value, _, _ in committed(simulation, 0)]
    step(simulation, action(Op.FOSSILIZE, 1))
    after = committed(simulation, 0)
    assert len(after) == len(before) + 1
    for old, (value, _, snapshot) in zip(before, after[:-1], strict=True):
        assert torch.equal(snapshot, old)
        assert not torch.equal(snapshot, value)


@pytest.mark.parametrize("seed", range(4))
def test_a_host_is_unsound_when_it_or_a_seed_that_counts_holds_a_number_that_is_not_finite(seed):
    network, stage, _, _, rng = mixed(seed)
    counting, everyone = BLENDED[stage], np.ones(network.hosts, bool)
    stacks = [(network.trunk, range(network.hosts), everyone)]
    for (slot, _), bank in network.banks.items():
        stacks += [(stack, bank.envs, counting[:, slot]) for stack in bank.stacks()]
    assert any(list(envs) != [*range(len(envs))] for _, envs, _ in stacks)
    for stack, envs, counts in stacks:
        for row, env in enumerate(envs):
            whole = stack.value[row].clone()
            stack.value[row, rng.integers(len(whole))] = rng.choice([np.nan, np.inf, -np.inf])
            sound = everyone & ~((np.arange(network.hosts) == env) & counts[env])
            np.testing.assert_array_equal(network.finite(counting), sound)
            stack.value[row] = whole


def test_a_rollback_is_the_same_however_the_hosts_are_stacked():
    plant, advance, wait = action(Op.GERMINATE, 0, "conv_light", Style.GATED_GATE), action(Op.ADVANCE, 0), action()
    plan = [plant, advance, advance, wait, wait, advance, action(Op.FOSSILIZE, 0), wait]

    def run(**how):
        simulation = simulate(5, on_panic="terminate", **how, **QUICK)
        for vector in plan:
            step(simulation, wait, vector, wait, wait, vector)
        assert (simulation.slots.stage[:, 0] == Stage.FOSSILIZED).tolist() == [False, True, False, False, True]
        for env in (1, 4):
            poison_host(simulation, env)
            poison_fossil(simulation, env)
        step(simulation)
        assert simulation.counters.rolled_back.tolist() == [False, True, False, False, True]
        return simulation

    one, several = run(chunk=5), run(chunk=2)
    assert [end - start for start, end in several.population.bounds] == [2, 3]
    np.testing.assert_array_equal(one.features(), several.features())
    for name in ("test_accuracy", "flops", "objective"):
        np.testing.assert_array_equal(getattr(one.counters, name), getattr(several.counters, name))
    for env in range(5):
        for ours, theirs in zip(committed(one, env), committed(several, env), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_host_that_fossilizes_while_it_diverges_keeps_its_earlier_snapshot():
    simulation = simulate(2, **QUICK)
    step(simulation, action(Op.GERMINATE, 0, "conv_light"))
    for vector in (*[action(Op.ADVANCE, 0)] * 2, *[action()] * 3, action(Op.ADVANCE, 0)):
        step(simulation, vector)
    before = [[part.clone() for part in committed(simulation, env)[0]] for env in range(2)]
    bank = simulation.population.stacks[0].banks[0, "conv_light"]
    seeds = bank.seeds.value.clone()
    simulation.governor.diverging[1] = 1
    step(simulation, action(Op.FOSSILIZE, 0))
    (calm_host, calm_fossil), (wild_host, wild_fossil) = (committed(simulation, env) for env in range(2))
    assert torch.equal(calm_host[2], before[0][0])
    assert torch.equal(wild_host[2], before[1][2])
    assert not torch.equal(wild_host[2], before[1][0])
    assert torch.equal(calm_fossil[2], seeds[bank.envs.index(0)])
    assert torch.equal(wild_fossil[2], seeds[bank.envs.index(1)])


def test_a_blended_seed_that_is_not_finite_is_a_panic_even_where_the_loss_is_finite():
    simulation = grown(**QUICK)
    bank = simulation.population.stacks[0].banks[1, "norm"]
    bank.seeds.value[bank.envs.index(0)] = float("inf")  # its tanh is 1
    step(simulation)
    assert simulation.counters.rolled_back.tolist() == [True, False]
    for _ in range(3):
        step(simulation)
        assert not simulation.counters.rolled_back.any()


@pytest.mark.parametrize(
    ("task", "seed"), [*(("digits", seed) for seed in range(3)), ("cifar10_scale", 0), ("story_grammar", 0)]
)
def test_rollbacks_in_random_play_leave_no_live_seed_and_sound_state(task, seed):
    simulation = simulate(3, task=task, **(QUICK if task == "digits" else FEW))
    generators = play(simulation, 12, seed)
    for epoch in range(12):
        if epoch % 4 == 0:
            poison_host(simulation, epoch // 4)
        simulation.step(random_actions(simulation, generators))
        back = simulation.counters.rolled_back
        assert back.tolist() == [epoch % 4 == 0 and env == epoch // 4 for env in range(3)]
        assert not LIVE[simulation.slots.stage[back]].any()
        assert np.isfinite(simulation.features()).all()
        for network in simulation.population.stacks:
            assert network.trunk.value.isfinite().all()
            assert network.trunk.momentum.isfinite().all()


def test_a_rollback_draws_nothing_from_the_generators_of_sampled_shapley_values(monkeypatch):
    digits = TASKS["digits"]
    host = replace(digits.host, channels=(4, 4, 4, 8, 8, 16))
    monkeypatch.setitem(TASKS, "six_slots", replace(digits, name="six_slots", host=host))
    simulation, twin = grown(task="six_slots", **QUICK), grown(task="six_slots", **QUICK)
    poison_host(simulation, 0)
    for _ in range(3):
        step(simulation)
        step(twin)
        np.testing.assert_array_equal(simulation.features()[1], twin.features()[1])
        np.testing.assert_array_equal(simulation.slots.shapley[1], twin.slots.shapley[1])
    for ours, theirs in zip(simulation.streams, twin.streams, strict=True):
        assert ours.sampling.bit_generator.state == theirs.sampling.bit_generator.state
