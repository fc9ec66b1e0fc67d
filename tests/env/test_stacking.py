import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from esper_env.actions import Algorithm, Op, Style
from esper_env.growth.population import Population, chunk_bounds
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.tasks import TASKS
from tests.conftest import (
    BRIEF,
    BRIEF_FEW,
    HASTY,
    QUICK_TASKS,
    SMALL_IMAGES,
    action,
    play,
    random_actions,
    simulate,
    step,
)
from tests.env.test_blending import PlainNetwork

QUICK = {"training": BRIEF, "lifecycle": HASTY}
UNEVEN = {"batches_per_epoch": 3, "batch_size": 53, "val_samples": 77}
"""Sizes that suit no vector register, as the last batch of an epoch does not."""


def modules(simulation, env):
    """Every tensor that belongs to an environment, `{name: (value, momentum, snapshot)}`."""
    network, local = simulation.population.home(env)
    found = {"trunk": row_of(network.trunk, local)}
    for (slot, name), bank in network.banks.items():
        if local in bank.envs:
            row = bank.envs.index(local)
            for kind, stack in zip(("seed", "gate"), bank.stacks(), strict=False):
                if kind == "seed" or local in bank.gated:
                    found[f"{kind} {name} in {slot}"] = row_of(stack, row)
    return found


def row_of(stack, row):
    """Copies of what a stack holds of one module."""
    return tuple(matrix[row].clone() for matrix in (stack.value, stack.momentum, stack.snapshot))


def assert_same_modules(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert torch.equal(a, b), name


def trajectory(simulation, env, steps, generators):
    """Features, rewards and modules of one environment along random legal play."""
    record = []
    for _ in range(steps):
        outcome = simulation.step(random_actions(simulation, generators))
        record.append((simulation.features()[env], outcome.reward[env], modules(simulation, env)))
    return record


def assert_same_trajectory(ours, theirs):
    for (features, reward, ours_now), (other_features, other_reward, theirs_now) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(features, other_features)
        assert reward == other_reward
        assert_same_modules(ours_now, theirs_now)


@pytest.mark.parametrize("task", QUICK_TASKS)
@pytest.mark.parametrize("envs", [1, 2, 5])
def test_a_host_with_seeds_in_training_is_identical_to_the_host_without(task, envs):
    options = {"task": task, "training": None if task in SMALL_IMAGES else BRIEF_FEW}
    grown, waiting = simulate(envs, **options), simulate(envs, **options)
    names = ("conv_heavy", "attention", "bottleneck", "depthwise", "norm")
    if task == "story_grammar":
        names = ("flex_attention", "mlp", "lora")
    for slot in range(grown.num_slots):
        step(grown, action(Op.GERMINATE, slot, names[slot], Style(slot % 4)))
        step(grown, action(Op.ADVANCE, slot))
        for _ in range(2):
            step(waiting)
        for ours, theirs in zip(grown.population.stacks, waiting.population.stacks, strict=True):
            assert torch.equal(ours.trunk.value, theirs.trunk.value)
            assert torch.equal(ours.trunk.momentum, theirs.trunk.momentum)
        np.testing.assert_array_equal(grown.signals.loss_history, waiting.signals.loss_history)
        np.testing.assert_array_equal(grown.signals.train_loss, waiting.signals.train_loss)
    assert (grown.slots.stage == Stage.TRAINING).all()


@pytest.mark.parametrize("seed", range(3))
def test_germinating_and_pruning_leave_modules_momentum_and_snapshots_of_others_as_they_are(seed):
    simulation = simulate(4, **QUICK)
    play(simulation, 25, seed)
    for env in range(4):
        network, local = simulation.population.home(env)
        for slot in range(3):
            before = [modules(simulation, other) for other in range(4)]
            held = any(key[0] == slot and local in bank.envs for key, bank in network.banks.items())
            if held:
                simulation.population.free(env, slot)
            else:
                simulation.population.plant(env, slot, "conv_small", np.random.default_rng(0))
                simulation.population.build_gate(env, slot, np.random.default_rng(1))
            for other in range(4):
                after = modules(simulation, other)
                if other == env:
                    changed = before[other].keys() ^ after.keys()
                    assert changed
                    assert all(name.endswith(f"in {slot}") for name in changed)
                    common = before[other].keys() & after.keys()
                    assert_same_modules({k: before[other][k] for k in common}, {k: after[k] for k in common})
                else:
                    assert_same_modules(before[other], after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "seed"),
    [("digits", 0), ("digits", 1), ("digits", 2), ("digits_capable", 0), ("digits_deep", 0), ("shapes", 2)]
    + [("story_grammar", seed) for seed in range(3)]
    + [(task, 0) for task in QUICK_TASKS if task.startswith("cifar10")],
)
def test_a_trajectory_is_the_same_whoever_the_neighbours_are_wherever_it_stands_and_however_it_is_chunked(task, seed):
    """Environment 7 plays the same at every place in stacks of 2, 3, 5 and 8."""
    training = UNEVEN if task in SMALL_IMAGES else BRIEF_FEW
    steps, options = 16, {"task": task, "training": training, "lifecycle": HASTY}

    def run(names, **how):
        simulation = simulate(len(names), seeds=names, **how, **options)
        generators = [np.random.default_rng((seed, name)) for name in names]
        return trajectory(simulation, names.index(7), steps, generators)

    reference = run([7, 1])
    assert any(len(now) > 1 for _, _, now in reference)
    for names, how in (
        ([1, 7], {}),
        ([2, 3, 7], {}),
        ([5, 1, 2, 3, 4, 6, 8, 7], {}),
        ([5, 1, 7, 3, 4], {"chunk": 2}),
        ([5, 7, 2, 3, 4], {"threads": 2}),
    ):
        assert_same_trajectory(run(names, **how), reference)


@pytest.mark.parametrize("neighbour", ["waits", "grows", "diverges"])
def test_a_trajectory_does_not_change_when_the_neighbour_grows_or_is_rolled_back(neighbour):
    def run(what):
        simulation = simulate(2, **QUICK)
        generators = [np.random.default_rng((11, env)) for env in range(2)]
        record, rolled_back = [], 0
        for epoch in range(24):
            vectors = random_actions(simulation, generators)
            if what == "waits":
                vectors[1] = action()
            if what == "diverges" and epoch % 6 == 5:
                simulation.population.stacks[0].trunk.value[1] = float("nan")
            outcome = simulation.step(vectors)
            rolled_back += int(simulation.counters.rolled_back[1])
            assert not simulation.counters.rolled_back[0]
            record.append((simulation.features()[0], outcome.reward[0], modules(simulation, 0)))
        assert (rolled_back > 0) == (what == "diverges")
        return record

    assert_same_trajectory(run(neighbour), run("waits"))


@pytest.mark.parametrize("style", [Style.SIGMOID_ADD, Style.GATED_GATE])
@pytest.mark.parametrize("op", [Op.GERMINATE, Op.PRUNE])
def test_a_fossil_returns_to_its_snapshot_whatever_the_neighbour_plants_or_prunes_beside_it(op, style):
    """Both hosts have the same blueprint in the same slot, so that the fossil changes its place in storage."""

    def run(*, neighbour_acts):
        simulation = simulate(2, **QUICK)
        germinate, advance = action(Op.GERMINATE, 0, "conv_small", style), action(Op.ADVANCE, 0)
        if op == Op.PRUNE:
            step(simulation, action(), germinate)  # the neighbour has the first row, which the fossil inherits
        fossilized = [germinate, advance, advance, action(), action(), advance, action(Op.FOSSILIZE, 0)]
        for mine in fossilized:
            step(simulation, mine, action())
            assert simulation.counters.executed.all()
        theirs = germinate if op == Op.GERMINATE else action(Op.PRUNE, 0)
        step(simulation, action(), theirs if neighbour_acts else action())
        assert simulation.counters.executed.all()
        before = modules(simulation, 0)
        assert all(not torch.equal(value, snapshot) for value, _, snapshot in before.values())
        simulation.population.stacks[0].trunk.value[0] = float("nan")
        step(simulation)
        assert simulation.counters.rolled_back.tolist() == [True, False]
        after = modules(simulation, 0)
        for name, (value, momentum, snapshot) in after.items():
            assert torch.equal(value, before[name][2]), name
            assert torch.equal(value, snapshot), name
            assert not momentum.any(), name
        return before, after, simulation.features()[0]

    (*acted, one), (*waited, other) = run(neighbour_acts=True), run(neighbour_acts=False)
    for ours, theirs in zip(acted, waited, strict=True):
        assert len(ours) == (3 if style == Style.GATED_GATE else 2)
        assert_same_modules(ours, theirs)
    np.testing.assert_array_equal(one, other)


def test_a_seed_that_waits_for_training_is_not_measured_because_a_neighbour_trains_the_same_kind():
    for partner in (True, False):
        simulation = simulate(2, **QUICK)
        step(
            simulation,
            action(Op.GERMINATE, 0, "conv_light"),
            action(Op.GERMINATE if partner else Op.WAIT, 0, "conv_light"),
        )
        step(simulation, action(), action(Op.ADVANCE, 0))
        assert simulation.slots.stage[0, 0] == Stage.GERMINATED
        assert np.isnan(simulation.slots.gradient_health[0, 0])
        assert simulation.slots.gradient_norm[0, 0] == 0


def test_a_gate_that_is_not_used_keeps_its_momentum_whatever_the_neighbours_blend_by():
    def run(style):
        simulation = simulate(2, **QUICK)
        plan = [
            action(Op.GERMINATE, 0, "conv_light", Style.GATED_GATE),
            action(Op.ADVANCE, 0),
            action(),
            action(Op.ADVANCE, 0),
            *[action()] * 3,
        ]
        for vector in plan:
            step(simulation, vector)
        for choice in (Style.SIGMOID_ADD, None, None, Style.GATED_GATE, None):
            mine = action() if choice is None else action(Op.SET_ALPHA_TARGET, 0, style=choice)
            theirs = action(Op.SET_ALPHA_TARGET, 0, style=style) if choice == Style.SIGMOID_ADD else action()
            step(simulation, mine, theirs)
            assert simulation.counters.executed.all()
        return modules(simulation, 0)

    assert_same_modules(run(Style.GATED_GATE), run(Style.SIGMOID_ADD))


def test_one_environment_alone_stays_close_to_the_same_one_in_a_stack():
    kinds = {"digits": "conv_light", "digits_capable": "conv_light", "shapes": "conv_light", "story_grammar": "mlp"}
    for task, name in kinds.items():
        training = BRIEF_FEW if task == "story_grammar" else BRIEF
        alone, together = (simulate(envs, task=task, training=training) for envs in (1, 3))
        for vector in (action(Op.GERMINATE, 0, name), action(Op.ADVANCE, 0), action(Op.GERMINATE, 1, "norm")):
            step(alone, vector)
            step(together, vector)
        np.testing.assert_allclose(alone.features()[0], together.features()[0], atol=2e-3)
        for (name, ours), theirs in zip(modules(alone, 0).items(), modules(together, 0).values(), strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def plain_epoch(simulation, env, plain, momentum, order, images, labels):
    """One epoch of one host as anybody would write it, clipped by hand; returns nothing, changes `plain`."""
    training = simulation.config.training
    frozen = simulation.slots.stage[env] == Stage.GERMINATED
    groups = {"host": [(p, training.weight_decay) for p in plain.trunk.values()]}
    for slot, seed in enumerate(plain.seeds):
        if seed is None or frozen[slot]:
            continue
        fossil = seed.stage == Stage.FOSSILIZED
        group = groups.setdefault("host" if fossil else f"seed {slot}", [])
        group += [(p, training.weight_decay if fossil else 0.0) for p in seed.parameters()]
    for indices in np.split(order, range(training.batch_size, len(order), training.batch_size)):
        logits, energy = plain.logits(images[indices])
        loss = F.cross_entropy(logits, labels[indices]) + training.proximal * energy
        everything = [p for group in groups.values() for p, _ in group]
        grads = dict(zip(map(id, everything), torch.autograd.grad(loss, everything), strict=True))
        with torch.no_grad():
            for name, group in groups.items():
                norm = torch.cat([grads[id(p)].flatten() for p, _ in group]).norm()
                scale = min(1.0, training.clip_norm / (norm.item() + 1e-6))
                rate = training.host_lr if name == "host" else training.seed_lr
                for p, decay in group:
                    velocity = momentum[id(p)]
                    velocity.mul_(training.momentum).add_(grads[id(p)] * scale + decay * p)
                    p.sub_(rate * velocity)


def plain_layout(tensor):
    return tensor.T if tensor.ndim == 2 else tensor


@pytest.mark.parametrize(
    ("task", "seed"), [("digits", 0), ("digits", 1), ("digits", 2), ("digits_capable", 3), ("digits_deep", 4)]
)
def test_a_stacked_epoch_is_a_plain_loop_over_each_host_with_momentum_decay_and_separate_clipping(task, seed):
    training = BRIEF | {"clip_norm": 0.3, "seed_lr": 0.03}
    simulation = simulate(4, task=task, training=training, lifecycle=HASTY)
    play(simulation, 32, seed)
    before = copy.deepcopy(simulation.population.stacks)
    orders = [copy.deepcopy(s.order) for s in simulation.streams]
    step(simulation)
    stage, alpha, algorithm = simulation.slots.stage, simulation.alpha(), simulation.slots.algorithm
    assert BLENDED[stage].any()
    assert (stage == Stage.FOSSILIZED).any()
    data = simulation.task.source.load(None).train
    images, labels = torch.from_numpy(data.inputs).permute(0, 3, 1, 2), torch.from_numpy(data.labels)
    starts = [start for start, _ in simulation.population.bounds]
    checked = 0
    for env in range(4):
        home = sum(start <= env for start in starts) - 1
        network, local, rows = (
            before[home],
            env - starts[home],
            slice(starts[home], simulation.population.bounds[home][1]),
        )
        for key, bank in list(network.banks.items()):
            for member in [m for m in bank.envs if stage[rows][m, key[0]] in (Stage.PRUNED, Stage.EMBARGOED)]:
                network.free(member, key[0])  # a scheduled prune that arrived in this step
        plain = PlainNetwork.of(network, local, stage[rows], alpha[rows], algorithm[rows])
        momentum = {
            id(p): network.trunk.split(network.trunk.momentum)[n][local].clone() for n, p in plain.trunk.items()
        }
        for (slot, _), bank in network.banks.items():
            if local in bank.envs:
                row = bank.envs.index(local)
                parts = [v[row] for stack in bank.stacks() for v in stack.split(stack.momentum).values()]
                parts = [plain_layout(v).clone() for v in parts]
                own = plain.seeds[slot].parameters()
                momentum |= {id(p): v for p, v in zip(own, parts, strict=False)}
        order = np.resize(orders[env].permutation(len(data)), BRIEF["batches_per_epoch"] * 64)
        pruning = (simulation.slots.target[env] == 0) & BLENDED[stage[env]]
        if pruning.any():
            continue  # frozen seeds have a test of their own
        plain_epoch(simulation, env, plain, momentum, order, images, labels)
        network, local = simulation.population.home(env)
        for name, p in plain.trunk.items():
            torch.testing.assert_close(network.trunk.parameters[name][local], p, rtol=1e-3, atol=1e-5)
        for (slot, _), bank in network.banks.items():
            if local in bank.envs:
                row = bank.envs.index(local)
                parts = [plain_layout(leaf[row]) for stack in bank.stacks() for leaf in stack.parameters.values()]
                for got, p in zip(parts, plain.seeds[slot].parameters(), strict=False):
                    torch.testing.assert_close(got, p, rtol=1e-3, atol=1e-5)
                    checked += 1
    assert checked >= 6


@given(envs=st.integers(1, 300), chunk=st.integers(1, 64), threads=st.integers(1, 16))
def test_chunks_cover_all_hosts_in_balance_and_none_holds_one_host_of_several(envs, chunk, threads):
    bounds = chunk_bounds(envs, chunk, threads)
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == envs
    sizes = [end - start for start, end in bounds]
    assert max(sizes) - min(sizes) <= 1 or max(sizes) <= 3
    assert min(sizes) >= min(2, envs)
    assert max(sizes) <= max(chunk, 3)
    assert len(bounds) >= min(threads, max(envs // 2, 1))


def test_the_default_chunk_keeps_the_first_activation_near_two_megabytes():
    simulation = simulate(64, task="digits", training=BRIEF)
    sizes = [end - start for start, end in simulation.population.bounds]
    assert len(sizes) > 1
    assert all(1e6 < n * 64 * 8 * 8 * 4 * 4 <= 2.1e6 for n in sizes)


@pytest.mark.parametrize(("task", "hosts"), [("cifar10_impaired", 16), ("cifar10_minimal", 8), ("cifar10_baseline", 2)])
def test_large_maps_of_few_channels_are_stacked_until_they_have_sixteen(task, hosts):
    host, batch_size = TASKS[task].host, TASKS[task].batch_size
    settings = {"chunk": None, "threads": 1, "device": "cpu", "batch_size": batch_size, "generated": False}
    assert [end - start for start, end in Population(host, 32, **settings).bounds] == [hosts] * (32 // hosts)


def test_algorithms_can_share_a_bank():
    simulation = simulate(3, **QUICK)
    styles = (Style.LINEAR_ADD, Style.LINEAR_MULTIPLY, Style.GATED_GATE)
    step(simulation, *(action(Op.GERMINATE, 0, "conv_light", style) for style in styles))
    assert len(simulation.population.stacks[0].banks) == 1
    assert simulation.slots.algorithm[:, 0].tolist() == [Algorithm.ADD, Algorithm.MULTIPLY, Algorithm.GATE]
