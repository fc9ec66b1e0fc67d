import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esper_env.actions import CNN, Algorithm
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.network.blending import Blend, Tap, as_maps, correct, plan_bank, select_rows
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.network.cnn import CnnHost
from esper_env.network.layers import as_rows
from esper_env.network.network import StackedNetwork
from tests.env.test_blueprints import PLAIN, PlainGate, load

CPU = torch.device("cpu")
HOST = CnnHost(1, 8, 10, channels=(4, 8), kernel=3, pools=1)
RUNNING = (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
LAMBDA = 0.1


# The specification for one host: what anybody would write with modules and autograd.


@dataclass
class PlainSeed:
    module: nn.Module
    gate: nn.Module | None
    stage: int
    alpha: float
    algorithm: int

    def correction(self, x):
        f = self.module(x)
        if self.algorithm == Algorithm.MULTIPLY:
            return x * torch.tanh(f)
        return self.gate(x) * f if self.algorithm == Algorithm.GATE else f

    def blend(self, h):
        """The output, and λ/2 |u|² per position where the proximal term applies."""
        if self.stage == Stage.TRAINING:
            u = self.correction(h.detach())
            positions = u.shape[0] * u.shape[2] * u.shape[3]
            return h + (u - u.detach()), u.square().sum() / (2 * positions)
        if BLENDED[self.stage]:
            return h + self.alpha * self.correction(h if self.stage == Stage.FOSSILIZED else h.detach()), 0.0
        return h, 0.0

    def parameters(self):
        own = list(self.module.parameters())
        return own + (list(self.gate.parameters()) if self.algorithm == Algorithm.GATE else [])


@dataclass
class PlainNetwork:
    """One host with its seeds, `trunk` in the layout of the stacked parameters, `seeds` one or None per slot."""

    host: CnnHost
    trunk: dict
    seeds: list

    def logits(self, x):
        """Logits, and the proximal energy of seeds in TRAINING."""
        energy = 0.0
        for block, slot in enumerate(self.host.slot_of_block):
            weight = self.trunk[f"block{block}.conv"]
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
            groups = max(1, weight.shape[0] // 16)
            x = F.relu(F.group_norm(x, groups, self.trunk[f"block{block}.scale"], self.trunk[f"block{block}.shift"]))
            if slot is not None and self.seeds[slot] is not None:
                x, extra = self.seeds[slot].blend(x)
                energy = energy + extra
            if block < self.host.pools:
                x = F.avg_pool2d(x, 2)
        return x.mean((2, 3)) @ self.trunk["classifier.weight"] + self.trunk["classifier.bias"], energy

    @classmethod
    def of(cls, network, env, stage, alpha, algorithm):
        """A copy of one environment of a stack."""
        trunk = {name: p[env].detach().clone().requires_grad_() for name, p in network.trunk.parameters.items()}
        seeds = [None] * len(network.host.slots)
        for (slot, name), bank in network.banks.items():
            if env not in bank.envs:
                continue
            row, channels = bank.envs.index(env), network.host.slots[slot].channels
            module = load(PLAIN[name](channels), [p[row].detach() for p in bank.seeds.parameters.values()])
            gate = None
            if env in bank.gated:
                gate = load(PlainGate(channels), [p[row].detach() for p in bank.gates.parameters.values()])
            seeds[slot] = PlainSeed(
                module, gate, int(stage[env, slot]), float(alpha[env, slot]), int(algorithm[env, slot])
            )
        return cls(network.host, trunk, seeds)


def stacked_gradients(network, env, slot, leaves):
    """Gradients of one seed's tensors in plain layout, gate included where used, from `{id(leaf): gradient}`."""
    bank = next(bank for key, bank in network.banks.items() if key[0] == slot and env in bank.envs)
    row = bank.envs.index(env)
    found = []
    for stack in bank.stacks():
        grads = [leaves[id(leaf)][row] for leaf in stack.parameters.values()]
        found += [g.T if g.ndim == 2 else g for g in grads]
    return found


def mixed(seed, envs=6, host=HOST):
    """A stack in which seeds of several blueprints share banks in all stages, moved away from their start."""
    rng = np.random.default_rng(seed)
    network = StackedNetwork(host, envs, CPU)
    slots = len(host.slots)
    stage = rng.choice([Stage.DORMANT, Stage.GERMINATED, *RUNNING], (envs, slots))
    alpha = np.where(stage == Stage.FOSSILIZED, 1.0, np.where(BLENDED[stage], rng.random((envs, slots)), 0.0))
    algorithm = rng.integers(0, 3, (envs, slots))
    names = rng.choice([name for name, topology in IMPLEMENTATIONS if topology == CNN], 3, replace=False)
    for env in range(envs):
        network.build_host(env, rng)
        for slot in range(slots):
            if stage[env, slot] != Stage.DORMANT:
                network.plant(env, slot, rng.choice(names), rng)
                if algorithm[env, slot] == Algorithm.GATE:
                    network.build_gate(env, slot, rng)
    for bank in network.banks.values():
        bank.seeds.value[: len(bank.envs)] += torch.from_numpy(
            rng.normal(0, 0.2, (len(bank.envs), bank.seeds.value.shape[1])).astype(np.float32)
        )
        for env in bank.gated:
            row = bank.envs.index(env)
            bank.gates.value[row] += torch.from_numpy(rng.normal(0, 0.3, bank.gates.value.shape[1]).astype(np.float32))
    return network, stage, alpha, algorithm, rng


def batch(rng, envs, size=12, host=HOST):
    """Images of every host, as a plain network and as the stack reads them, and their labels."""
    pixels = rng.normal(0, 1, (envs, size, host.image_channels, host.image_size, host.image_size)).astype(np.float32)
    each = torch.from_numpy(pixels)
    return each, each.permute(0, 1, 3, 4, 2), torch.from_numpy(rng.integers(0, host.classes, (envs, size)))


def differentiate(network, stage, alpha, algorithm, x, y, proximal=LAMBDA):
    """Logits, and the gradient of every leaf of the stack, by its id."""
    plans = network.plan(stage, alpha, algorithm)
    logits = network.train_logits(x, plans, proximal)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(network.hosts, -1).mean(1)
    stacks = [network.trunk, *(s for bank in network.banks.values() for s in bank.stacks())]
    leaves = [leaf for stack in stacks for leaf in stack.parameters.values()]
    grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    return logits.detach(), {id(leaf): grad for leaf, grad in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("seed", range(16))
def test_values_and_gradients_are_those_of_plain_autograd_for_any_mixture_of_stages_and_algorithms(seed):
    network, stage, alpha, algorithm, rng = mixed(seed)
    each, x, y = batch(rng, network.hosts)
    logits, leaves = differentiate(network, stage, alpha, algorithm, x, y)
    for env in range(network.hosts):
        plain = PlainNetwork.of(network, env, stage, alpha, algorithm)
        want, energy = plain.logits(each[env])
        torch.testing.assert_close(logits[env], want.detach(), rtol=1e-4, atol=1e-5)
        loss = F.cross_entropy(want, y[env]) + LAMBDA * energy
        trunk = torch.autograd.grad(loss, list(plain.trunk.values()), retain_graph=True)
        for leaf, expected in zip(network.trunk.parameters.values(), trunk, strict=True):
            torch.testing.assert_close(leaves[id(leaf)][env], expected, rtol=1e-3, atol=2e-6)
        for slot, plain_seed in enumerate(plain.seeds):
            if plain_seed is None:
                continue
            got = stacked_gradients(network, env, slot, leaves)
            parameters = plain_seed.parameters()
            if plain_seed.stage in RUNNING:
                expected = torch.autograd.grad(loss, parameters, retain_graph=True)
            else:
                expected = [torch.zeros_like(p) for p in parameters]
            for g, e in zip(got, expected, strict=False):
                torch.testing.assert_close(g, e, rtol=1e-3, atol=2e-6)
            assert all((g == 0).all() for g in got[len(parameters) :])


def banks_of(rng, envs, channels):
    """Two banks over the environments in random order, their plans and leaves for their corrections."""
    order = rng.permutation(envs)
    stage = rng.choice([Stage.GERMINATED, *RUNNING], envs)
    alpha = np.where(stage == Stage.FOSSILIZED, 1.0, np.where(BLENDED[stage], rng.random(envs), 0.0))
    members = [order[: envs // 2], order[envs // 2 :]]
    plans = [plan_bank(m, len(m), channels, stage, alpha, np.zeros(envs, int), CPU) for m in members]
    us = [
        torch.randn(5, len(m) * channels, 4, 4, generator=torch.Generator().manual_seed(7 + i))
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for i, m in enumerate(members)
    ]
    return members, stage, alpha, plans, us


def maps(seed, n, channels=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, n * channels, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last)


def rows(x, index, channels=4):
    """The maps of one network of a stack."""
    return x[:, index * channels : (index + 1) * channels]


@pytest.mark.parametrize("seed", range(12))
def test_blend_passes_the_hosts_gradient_bit_for_bit_and_scales_the_seeds_by_stage(seed):
    rng = np.random.default_rng(seed)
    members, stage, alpha, plans, us = banks_of(rng, 6, 4)
    h, g = maps(seed, 6).requires_grad_(), maps(99, 6)
    out = Blend.apply(h, 6, plans, LAMBDA, *us)
    grads = torch.autograd.grad(out, [h, *us], g)
    assert torch.equal(grads[0], g)
    for u, grad, envs in zip(us, grads[1:], members, strict=True):
        for row, env in enumerate(envs):
            mine = rows(u.detach(), row)
            upstream, got = rows(g, env), rows(grad, row)
            if stage[env] == Stage.TRAINING:
                assert torch.equal(rows(out, env), rows(h, env))
                assert torch.equal(got, upstream + mine * (LAMBDA / (5 * 16)))
            elif BLENDED[stage[env]]:
                a = torch.tensor(alpha[env], dtype=torch.float32)
                assert torch.equal(rows(out, env), rows(h, env) + mine * a)
                assert torch.equal(got, upstream * a)
            else:
                assert torch.equal(rows(out, env), rows(h, env))
                assert not got.any()


def test_the_proximal_term_is_exactly_lambda_times_u_per_sample_and_position_in_training_alone():
    stage = np.array([Stage.TRAINING, Stage.BLENDING, Stage.GERMINATED, Stage.FOSSILIZED])
    plan = plan_bank(np.arange(4), 4, 4, stage, np.array([0, 0.5, 0, 1.0]), np.zeros(4, int), CPU)
    u = maps(1, 4).requires_grad_()
    for strength in (0.0, 0.1, 3.0):
        out = Blend.apply(maps(2, 4).requires_grad_(), 4, [plan], strength, u)
        (grad,) = torch.autograd.grad(out, [u], torch.zeros_like(out))
        want = rows(u.detach(), 0) * torch.tensor(strength / (5 * 16), dtype=torch.float32)
        assert torch.equal(rows(grad, 0), want)
        assert not grad[:, 4:].any()


@pytest.mark.parametrize("seed", range(12))
def test_tap_hands_out_rows_and_returns_the_gradient_of_fossils_alone(seed):
    rng = np.random.default_rng(seed)
    members, stage, _, plans, _ = banks_of(rng, 6, 4)
    h = maps(seed, 6).requires_grad_()
    taps = Tap.apply(h, 6, plans)
    upstream = [maps(50 + i, len(m)) for i, m in enumerate(members)]
    (grad,) = torch.autograd.grad(taps, [h], upstream)
    for tap, up, envs in zip(taps, upstream, members, strict=True):
        for row, env in enumerate(envs):
            assert torch.equal(rows(tap, row), rows(h, env))
            wanted = rows(up, row) if stage[env] == Stage.FOSSILIZED else torch.zeros(1)
            assert torch.equal(rows(grad, env), wanted.expand_as(rows(grad, env)))


@pytest.mark.parametrize("algorithm", Algorithm)
def test_correct_is_the_formula_of_each_algorithm(algorithm):
    x, f = maps(3, 3), maps(4, 3)
    g = torch.rand(5, 3, 1, 1, generator=torch.Generator().manual_seed(5))
    index = torch.full((12,), False)
    index[4:8] = True
    multiply = index if algorithm == Algorithm.MULTIPLY else None
    gate = index if algorithm == Algorithm.GATE else None
    u = correct(f, x, multiply, gate, g)
    formula = {
        Algorithm.ADD: lambda i: rows(f, i),
        Algorithm.MULTIPLY: lambda i: rows(x, i) * torch.tanh(rows(f, i)),
        Algorithm.GATE: lambda i: g[:, i : i + 1] * rows(f, i),
    }
    for i in range(3):
        assert torch.equal(rows(u, i), formula[algorithm if i == 1 else Algorithm.ADD](i))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_non_finite_seed_in_training_reaches_neither_its_host_nor_a_neighbour(algorithm, poison):
    def run(poisoned):
        network, rng = StackedNetwork(HOST, 4, CPU), np.random.default_rng(3)
        stage = np.full((4, 2), Stage.TRAINING)
        stage[2, 1], stage[3, 0], stage[1, 1] = Stage.FOSSILIZED, Stage.BLENDING, Stage.GERMINATED
        alpha = np.where(stage == Stage.FOSSILIZED, 1.0, np.where(stage == Stage.BLENDING, 0.4, 0.0))
        for env in range(4):
            network.build_host(env, rng)
            for slot in range(2):
                network.plant(env, slot, "conv_light", rng)
                if algorithm == Algorithm.GATE:
                    network.build_gate(env, slot, rng)
        if poisoned:
            for slot in range(2):
                network.banks[slot, "conv_light"].seeds.value[0] = poison
        _, x, y = batch(rng, 4)
        logits, leaves = differentiate(network, stage, alpha, np.full((4, 2), algorithm), x, y)
        trunk = [leaves[id(leaf)] for leaf in network.trunk.parameters.values()]
        seeds = [
            leaves[id(leaf)][1:] for b in network.banks.values() for s in b.stacks() for leaf in s.parameters.values()
        ]
        return [logits, *trunk, *seeds]

    for clean, poisoned in zip(run(False), run(True), strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, poisoned)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED])
def test_at_full_alpha_every_parameter_of_the_host_still_receives_gradient(algorithm, stage):
    network, rng = StackedNetwork(HOST, 3, CPU), np.random.default_rng(5)
    for env in range(3):
        network.build_host(env, rng)
        for slot in range(2):
            network.plant(env, slot, "conv_heavy", rng)
            if algorithm == Algorithm.GATE:
                network.build_gate(env, slot, rng)
    shape = (3, 2)
    _, x, y = batch(rng, 3)
    _, leaves = differentiate(network, np.full(shape, stage), np.ones(shape), np.full(shape, algorithm), x, y)
    for name, leaf in network.trunk.parameters.items():
        assert (leaves[id(leaf)].flatten(1).abs().sum(1) > 1e-4).all(), name


def test_a_fossil_passes_gradient_through_its_input_and_an_isolated_seed_does_not():
    for stage, passes in ((Stage.HOLDING, False), (Stage.FOSSILIZED, True)):
        plan = plan_bank(np.arange(2), 2, 4, np.full(2, stage), np.ones(2), np.zeros(2, int), CPU)
        h, g = maps(1, 2).requires_grad_(), maps(2, 2)
        (tap,) = Tap.apply(h, 2, [plan])
        x = tap if plan.opened is not None else tap.detach()
        out = Blend.apply(h, 2, [plan], LAMBDA, 3.0 * x)
        (grad,) = torch.autograd.grad(out, [h], g)
        assert torch.equal(grad, g + 3.0 * g if passes else g)


def test_rows_and_maps_are_views_of_each_other():
    x = maps(1, 3)
    assert torch.equal(as_maps(as_rows(x, 3), x), x)
    assert as_rows(x, 3).data_ptr() == x.data_ptr()
    picked = select_rows(x, 3, torch.tensor([2, 0]))
    assert torch.equal(picked, torch.cat([rows(x, 2), rows(x, 0)], 1))
    assert picked.is_contiguous(memory_format=torch.channels_last)


def test_group_norm_of_a_channels_last_input_without_gradient_survives_backward():
    """torch 2.13 on CPU crashes the process in this backward; `layers.group_norm` must not let it come to that."""
    program = """
import torch
from esper_env.network import layers
for channels, size in ((4, 8), (32, 4), (48, 2)):
    x = torch.randn(8, 3 * channels, size, size).contiguous(memory_format=torch.channels_last)
    scale, shift = torch.ones(3, channels, requires_grad=True), torch.zeros(3, channels, requires_grad=True)
    layers.group_norm(x, 3, scale, shift).square().sum().backward()
    assert scale.grad.isfinite().all() and shift.grad.isfinite().all()
print("survived")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "survived"
