"""Language hosts and their blueprints, against a GPT and seeds as anybody would write them."""

import copy
import itertools
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper_env.actions import TRANSFORMER, Algorithm, Op, Style
from esper_env.config import ConfigError, TrainingConfig
from esper_env.growth.coalitions import CoalitionPass
from esper_env.growth.optimizer import Rates
from esper_env.growth.training import SlotState, train_epoch
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.network import tokens, transformer_blueprints
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.network.gates import GATES
from esper_env.network.network import StackedNetwork
from esper_env.network.transformer import TransformerHost
from esper_env.network.transformer_blueprints import HEADS, WINDOW
from esper_env.tasks import TASKS
from tests.conftest import BRIEF_FEW, HASTY, action, play, simulate, step

CPU = torch.device("cpu")
HOST = TransformerHost(classes=11, length=40, width=16, layers=3, heads=2)
NAMES = [name for name, topology in IMPLEMENTATIONS if topology == TRANSFORMER]
RUNNING = (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
LAMBDA = 0.1
LANGUAGE = [task for task in TASKS.values() if task.host.topology == TRANSFORMER]


def plain_attention(x, into, out, heads, window=None):
    """Causal attention of one sequence batch `[b, t, d]`, head by head."""
    length, width = x.shape[1:]
    q, k, v = (x @ into).split(width, 2)
    back = torch.arange(length)[:, None] - torch.arange(length)
    allowed = (back >= 0) & (back < (window or length))
    parts = []
    for head in torch.arange(width).chunk(heads):
        scores = q[..., head] @ k[..., head].transpose(1, 2) / math.sqrt(len(head))
        parts.append(scores.masked_fill(~allowed, -math.inf).softmax(2) @ v[..., head])
    return torch.cat(parts, 2) @ out


def plain_delta(name, p, x):
    if name == "norm":
        return torch.tanh(p["gamma"]) * (F.layer_norm(x, x.shape[2:]) - x)
    if name in ("attention", "flex_attention"):
        return plain_attention(x, p["attend"], p["out"], 4, 32 if name == "flex_attention" else None)
    if name in ("lora", "lora_large"):
        return x @ p["down"] @ p["up"]
    return F.gelu(x @ p["widen"]) @ p["narrow"]


def plain_gate(p, x):
    hidden = F.silu(x @ p["gate.weight0"] + p["gate.bias0"])
    return torch.sigmoid(hidden @ p["gate.weight1"] + p["gate.bias1"])


@dataclass
class PlainSeed:
    name: str
    own: dict
    gate: dict | None
    stage: int
    alpha: float
    algorithm: int

    def correction(self, x):
        f = plain_delta(self.name, self.own, x)
        if self.algorithm == Algorithm.MULTIPLY:
            return x * torch.tanh(f)
        return plain_gate(self.gate, x) * f if self.algorithm == Algorithm.GATE else f

    def blend(self, h):
        if self.stage == Stage.TRAINING:
            u = self.correction(h.detach())
            return h + (u - u.detach()), u.square().sum() / (2 * u.shape[0] * u.shape[1])
        return (h + self.alpha * self.correction(h), 0.0) if BLENDED[self.stage] else (h, 0.0)

    def parameters(self):
        return [*self.own.values(), *(self.gate.values() if self.algorithm == Algorithm.GATE else ())]


@dataclass
class PlainGpt:
    """One host with its seeds; `trunk` in the layout of the stacked parameters."""

    host: TransformerHost
    trunk: dict
    seeds: list

    def logits(self, text):
        """Logits `[b, t, classes]` of texts, and the proximal energy of seeds in TRAINING."""
        p, energy = self.trunk, 0.0
        x = p["embedding.tokens"][text] + p["embedding.positions"][: text.shape[1]]
        width = x.shape[2:]
        for i, slot in enumerate(self.host.slot_of_block):
            y = F.layer_norm(x, width, p[f"layer{i}.scale0"], p[f"layer{i}.shift0"])
            x = x + plain_attention(y, p[f"layer{i}.attend"], p[f"layer{i}.attended"], self.host.heads)
            y = F.layer_norm(x, width, p[f"layer{i}.scale1"], p[f"layer{i}.shift1"])
            x = x + F.gelu(y @ p[f"layer{i}.widen"]) @ p[f"layer{i}.narrow"]
            if slot is not None and self.seeds[slot] is not None:
                x, extra = self.seeds[slot].blend(x)
                energy = energy + extra
        return F.layer_norm(x, width, p["norm.scale"], p["norm.shift"]) @ p["embedding.tokens"].T, energy

    @classmethod
    def of(cls, network, env, stage, alpha, algorithm):
        """A copy of one environment of a stack."""

        def copied(stack, row):
            return {name: p[row].detach().clone().requires_grad_() for name, p in stack.parameters.items()}

        seeds = [None] * len(network.host.slots)
        for (slot, name), bank in network.banks.items():
            if env in bank.envs:
                row = bank.envs.index(env)
                gate = copied(bank.gates, row) if env in bank.gated else None
                now = int(stage[env, slot]), float(alpha[env, slot]), int(algorithm[env, slot])
                seeds[slot] = PlainSeed(name, copied(bank.seeds, row), gate, *now)
        return cls(network.host, copied(network.trunk, env), seeds)


def shaken(stack, rows, rng):
    """Move parameters away from their start, where half of them have no effect."""
    stack.value[:rows] += torch.from_numpy(rng.normal(0, 0.2, (rows, stack.value.shape[1])).astype(np.float32))


def garden(seed, envs, names=None, algorithms=tuple(Algorithm), stages=(Stage.DORMANT, Stage.GERMINATED, *RUNNING)):
    """A stack with seeds of several blueprints in all stages, all of it moved away from its start."""
    rng = np.random.default_rng(seed)
    network, shape = StackedNetwork(HOST, envs, CPU), (envs, len(HOST.slots))
    stage = rng.choice(stages, shape)
    alpha = np.where(stage == Stage.FOSSILIZED, 1.0, np.where(BLENDED[stage], rng.random(shape), 0.0))
    algorithm = rng.choice(algorithms, shape)
    names = rng.choice(NAMES, 3, replace=False) if names is None else names
    for env, slot in itertools.product(range(envs), range(shape[1])):
        if slot == 0:
            network.build_host(env, rng)
        if stage[env, slot] != Stage.DORMANT:
            network.plant(env, slot, rng.choice(names), rng)
            if algorithm[env, slot] == Algorithm.GATE:
                network.build_gate(env, slot, rng)
    shaken(network.trunk, envs, rng)
    for bank in network.banks.values():
        shaken(bank.seeds, len(bank.envs), rng)
        for env in bank.gated:
            bank.gates.value[bank.envs.index(env)] += 0.3
    return network, stage, alpha, algorithm, rng


def texts(rng, envs, size=5):
    """Texts `[envs, size, length]` and the token after each."""
    stream = torch.from_numpy(rng.integers(0, HOST.classes, (envs, size, HOST.length + 1)))
    return stream[..., :-1], stream[..., 1:]


@pytest.mark.parametrize("envs", [1, 5])
@pytest.mark.parametrize("seed", range(8))
def test_values_and_gradients_are_those_of_a_plain_gpt_for_any_mixture_of_stages_and_algorithms(seed, envs):
    network, stage, alpha, algorithm, rng = garden(seed, envs)
    x, y = texts(rng, envs)
    plans = network.plan(stage, alpha, algorithm)
    logits = network.train_logits(x.transpose(0, 1), plans, LAMBDA)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(envs, -1).mean(1)
    stacks = [network.trunk, *(s for bank in network.banks.values() for s in bank.stacks())]
    leaves = [leaf for stack in stacks for leaf in stack.parameters.values()]
    grads = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
    grad_of = {id(leaf): grad for leaf, grad in zip(leaves, grads, strict=True)}
    for env in range(envs):
        plain = PlainGpt.of(network, env, stage, alpha, algorithm)
        want, energy = plain.logits(x[env])
        torch.testing.assert_close(logits[env].view(want.shape), want, rtol=1e-4, atol=1e-4)
        own = [*plain.trunk.values(), *(p for seed in plain.seeds if seed for p in seed.parameters())]
        plain_loss = F.cross_entropy(want.flatten(0, 1), y[env].flatten()) + LAMBDA * energy
        found = [grad_of[id(leaf)][env] for leaf in network.trunk.parameters.values()]
        for slot, seed in enumerate(plain.seeds):
            if seed is not None:
                bank = network.banks[slot, seed.name]
                used = bank.stacks() if seed.algorithm == Algorithm.GATE else bank.stacks()[:1]
                row = bank.envs.index(env)
                found += [grad_of[id(leaf)][row] for stack in used for leaf in stack.parameters.values()]
        expected = torch.autograd.grad(plain_loss, own, materialize_grads=True)
        for got, right in zip(found, expected, strict=True):
            torch.testing.assert_close(got, right, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", NAMES)
def test_no_position_sees_what_comes_after_it(name, algorithm):
    network, stage, alpha, algorithms, rng = garden(3, 2, [name], [algorithm], [Stage.BLENDING, Stage.FOSSILIZED])
    assert len(network.banks) == len(HOST.slots)
    x, _ = texts(rng, 2)
    later = x.clone()
    later[..., 25:] = (later[..., 25:] + 1) % HOST.classes
    plans = network.plan(stage, alpha, algorithms)
    with torch.no_grad():
        one, other = (network.train_logits(t.transpose(0, 1), plans, 0.0).unflatten(1, (5, -1)) for t in (x, later))
    torch.testing.assert_close(one[:, :, :25], other[:, :, :25], rtol=0, atol=1e-6)
    assert ((one - other)[:, :, 25:].abs().amax((2, 3)) > 1e-3).all()


@pytest.mark.parametrize("task", LANGUAGE, ids=lambda task: task.name)
def test_a_fresh_host_guesses(task):
    rng = np.random.default_rng(0)
    network = StackedNetwork(task.host, 1, CPU)
    for seed in range(3):
        network.build_host(0, np.random.default_rng(seed))
        text = torch.from_numpy(rng.integers(0, task.host.classes, (2, 1, task.host.length + 1)))
        with torch.no_grad():
            logits = network.train_logits(text[..., :-1], network.plan(*[np.zeros((1, 3), np.int64)] * 3), 0.0)
        loss = F.cross_entropy(logits[0], text[:, 0, 1:].flatten()).item()
        assert abs(loss / math.log(task.host.classes) - 1) < 0.05


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_local_attention_is_flex_attention():
    rng = torch.Generator().manual_seed(0)
    for length in (WINDOW // 2, 2 * WINDOW, 128):
        qkv = torch.randn(3, 2 * length, 3 * 16, generator=rng)
        found = [transformer_blueprints.local(qkv, 2), transformer_blueprints.flex(qkv, 2, compiled=False)]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)  # on a CPU FlexAttention has no backward


def masked_softmax(qkv, batch, window):
    """Causal attention over the window, as anybody would write it."""
    n, rows, wide = qkv.shape
    length, size = rows // batch, wide // (3 * HEADS)
    q, k, v = qkv.reshape(n, batch, length, 3, HEADS, size).permute(3, 0, 1, 4, 2, 5)
    back = torch.arange(length, device=qkv.device)[:, None] - torch.arange(length, device=qkv.device)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(size)).masked_fill((back < 0) | (back >= window), float("-inf"))
    return (scores.softmax(-1) @ v).permute(0, 1, 3, 2, 4).reshape(n, rows, wide // 3)


def outcome_and_gradient(attend, qkv):
    """What comes of these vectors, and the gradient of a random mixture of it."""
    leaf = qkv.detach().clone().requires_grad_()
    outcome = attend(leaf)
    mixture = torch.randn(outcome.shape, generator=torch.Generator().manual_seed(1)).to(qkv.device)
    return outcome.detach(), *torch.autograd.grad((outcome * mixture).sum(), leaf)


@pytest.mark.parametrize("size", [16, 96])
@pytest.mark.parametrize("length", [WINDOW // 2, 3 * WINDOW + 5])
def test_value_and_gradient_of_attention_are_those_of_a_masked_softmax(size, length):
    qkv = torch.randn(3, 2 * length, 3 * HEADS * size, generator=torch.Generator().manual_seed(0))
    paths = {WINDOW: transformer_blueprints.local, length: partial(tokens.attend, heads=HEADS)}
    for window, path in paths.items():
        found = outcome_and_gradient(lambda x, path=path: path(x, 2), qkv)
        want = outcome_and_gradient(lambda x, window=window: masked_softmax(x, 2, window), qkv)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
@pytest.mark.parametrize("size", [16, 96])
@pytest.mark.parametrize("length", [WINDOW // 2, 64, 256])
def test_on_a_gpu_value_and_gradient_of_flex_attention_are_those_of_the_mask(size, length):
    qkv = torch.randn(3, 2 * length, 3 * HEADS * size, generator=torch.Generator().manual_seed(0)).cuda()
    paths = transformer_blueprints.flex, transformer_blueprints.local
    found, want = (outcome_and_gradient(lambda x, path=path: path(x, 2), qkv) for path in paths)
    torch.testing.assert_close(found, want, rtol=1e-2, atol=1e-2)  # FlexAttention's kernels may multiply in TF32


class OnGpu(torch.Tensor):
    """A tensor that says it were on a GPU, for code that chooses by that."""

    is_cuda = True


def test_one_kernel_of_flex_attention_serves_banks_of_any_size(monkeypatch):
    torch._dynamo.reset()
    kernels = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=kernels))
    transformer_blueprints._attention.cache_clear()
    try:
        for hosts in range(1, 13):
            transformer_blueprints.flex(torch.randn(hosts, 2 * 40, 3 * 64), 2)
    finally:
        transformer_blueprints._attention.cache_clear()
        torch._dynamo.reset()
    assert 1 <= kernels.frame_count <= 3


def test_flex_attention_runs_where_there_is_a_gpu_and_a_mask_does_elsewhere(monkeypatch):
    chosen = []
    for name in ("flex", "local"):
        monkeypatch.setattr(
            transformer_blueprints, name, lambda qkv, batch, name=name: chosen.append((name, batch)) or qkv[..., :16]
        )
    blueprint = IMPLEMENTATIONS["flex_attention", TRANSFORMER]
    parameters = {key: torch.from_numpy(p[None]) for key, p in blueprint.init(16, np.random.default_rng(0)).items()}
    x = torch.randn(5, 16, 40, 1)
    blueprint.delta(parameters, x)
    blueprint.delta(parameters, x.as_subclass(OnGpu))
    assert chosen == [("local", 5), ("flex", 5)]


@pytest.mark.parametrize("layers", [2, 8])
def test_what_is_added_to_the_residual_stream_begins_smaller_the_more_of_it_there_is(layers):
    parameters = replace(HOST, width=64, layers=layers, num_slots=1).init(np.random.default_rng(0))
    for layer, name in itertools.product(range(layers), ("attend", "attended", "widen", "narrow")):
        share = (2 * layers) ** -0.5 if name in ("attended", "narrow") else 1.0
        assert parameters[f"layer{layer}.{name}"].std() == pytest.approx(0.02 * share, rel=0.05)


def test_a_window_of_the_whole_text_is_attention_without_one():
    qkv = torch.randn(2, 3 * WINDOW, 3 * 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(transformer_blueprints.local(qkv, 3), tokens.attend(qkv, 3, HEADS))


@pytest.mark.parametrize("width", [16, 64, 384])
def test_every_blueprint_and_the_gate_have_the_size_of_their_closed_form(width):
    sizes = {name: IMPLEMENTATIONS[name, TRANSFORMER].size(width) for name in NAMES}
    assert sizes == {
        "norm": 1,
        "attention": 4 * width**2,
        "flex_attention": 4 * width**2,
        "lora": 16 * width,
        "lora_large": 64 * width,
        "mlp_small": 4 * width**2,
        "mlp": 8 * width**2,
    }
    hidden = max(8, width // 4)
    assert GATES[TRANSFORMER].size(width) == width * hidden + 2 * hidden + 1


@pytest.mark.parametrize("name", NAMES)
def test_an_output_layer_starts_at_zero_the_rest_within_its_bound_and_a_strength_alone_at_a_tenth(name):
    parameters = IMPLEMENTATIONS[name, TRANSFORMER].init(64, np.random.default_rng(0))
    *first, last = parameters.values()
    assert not first or not last.any()
    assert first or last.tolist() == [np.float32(0.1)]
    assert all(0 < np.abs(p).max() <= len(p) ** -0.5 for p in first)


def counted(run):
    """Multiply-accumulates by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        run()  # the counter does not know the fused attention of CPUs
    return counter.get_total_flops() / 2


def test_multiply_accumulates_are_those_that_torch_counts():
    host = replace(HOST, length=48)  # rows in multiples of 16, so that none is filled up
    network, batch = StackedNetwork(host, 1, CPU), 2
    text = torch.zeros((batch, 1, host.length), dtype=torch.int64)
    plans = network.plan(*[np.zeros((1, 3), np.int64)] * 3)
    assert counted(lambda: network.train_logits(text, plans, 0.0)) == batch * sum(host.macs_by_level())
    assert len(host.macs_by_level()) == len(host.slots) + 1
    x = torch.randn(batch, host.width, host.length, 1).contiguous(memory_format=torch.channels_last)
    for name in NAMES:
        blueprint = IMPLEMENTATIONS[name, TRANSFORMER]
        fresh = blueprint.init(host.width, np.random.default_rng(0))
        parameters = {key: torch.from_numpy(value[None]) for key, value in fresh.items()}
        outside = 0
        if name == "flex_attention":  # the mask only hides what lies outside the window; FlexAttention skips it
            outside = tokens.attention_macs(host.length, host.length - WINDOW, host.width)
        found = counted(lambda blueprint=blueprint, parameters=parameters: blueprint.delta(parameters, x))
        assert found == batch * (blueprint.macs(host.width, host.length) + outside), name


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", NAMES)
def test_one_training_epoch_moves_every_parameter_with_good_health_whatever_the_initialisation(name, algorithm):
    """In every slot of 17 hosts: 51 initialisations."""
    task, hosts = TASKS["story_grammar"], 17
    shape = (hosts, len(task.host.slots))
    data = task.source.load(np.random.default_rng(0)).train
    network = StackedNetwork(task.host, hosts, CPU)
    for env, slot in itertools.product(*map(range, shape)):
        if slot == 0:
            network.build_host(env, np.random.default_rng((0, env)))
        network.plant(env, slot, name, np.random.default_rng((1, env, slot)))
        if algorithm == Algorithm.GATE:
            network.build_gate(env, slot, np.random.default_rng((2, env, slot)))
    everywhere = np.ones(shape, bool)
    state = SlotState(
        np.full(shape, Stage.TRAINING, np.int8),
        np.zeros(shape),
        np.full(shape, algorithm, np.int8),
        everywhere,
        ~everywhere,
    )
    before = {key: [stack.value.clone() for stack in bank.stacks()] for key, bank in network.banks.items()}
    # A gate gets no gradient while the delta is still zero.
    samples = 32 if algorithm == Algorithm.GATE else 8
    order = np.stack([np.random.default_rng(env).permutation(len(data))[:samples] for env in range(hosts)])
    tensors = torch.from_numpy(data.inputs[None]), torch.from_numpy(data.labels[None])
    rates = Rates(task.host_lr, task.host_lr, 0.9, 5e-4, 1.0)
    _, stats = train_epoch(network, state, *tensors, order, 2, rates, TrainingConfig().proximal)
    for key, bank in network.banks.items():
        for stack, old in zip(bank.stacks(), before[key], strict=True):
            was, now = stack.split(old), stack.split(stack.value)
            for tensor in was:
                assert (was[tensor] != now[tensor]).flatten(1).any(1).all(), (key, tensor)
    assert stats.measured.all()
    assert (stats.health >= 0.7).all()
    assert not stats.exploding.any()


def test_a_seed_that_is_blended_asks_the_layers_before_it_and_one_in_training_does_not():
    asks = {}
    for stage in RUNNING:
        network, stages, alpha, algorithm, rng = garden(5, 2, ["mlp_small"], [Algorithm.ADD], [stage])
        x, y = texts(rng, 2)
        grads = []
        for present in (True, False):
            plans = network.plan(stages if present else np.full_like(stages, Stage.GERMINATED), alpha, algorithm)
            logits = network.train_logits(x.transpose(0, 1), plans, LAMBDA)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            grads.append(torch.autograd.grad(loss, network.trunk.parameters["layer0.widen"])[0])
        asks[stage] = not torch.equal(*grads)
    assert asks == {stage: stage != Stage.TRAINING for stage in RUNNING}


@pytest.mark.parametrize("envs", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_all_coalitions_of_a_branching_pass_are_those_of_separate_passes_and_of_plain_hosts(seed, envs):
    network, stage, alpha, algorithm, rng = garden(seed, envs)
    x, y = texts(rng, envs, 9)
    active = BLENDED[stage] @ (1 << np.arange(3))
    masks, everyone = np.arange(8) & active[:, None], np.arange(envs)
    losses, accuracies = CoalitionPass(network, everyone, masks, alpha, algorithm).run(x, y, 4)
    for column in range(8):
        one = CoalitionPass(network, everyone, masks[:, [column]], alpha, algorithm).run(x, y, 4)
        np.testing.assert_array_equal(one[0][:, 0], losses[:, column])
        np.testing.assert_array_equal(one[1][:, 0], accuracies[:, column])
    for env in range(envs):
        plain = PlainGpt.of(network, env, stage, alpha, algorithm)
        seeds = list(plain.seeds)
        for column, mask in enumerate(masks[env]):
            plain.seeds = [s if mask >> slot & 1 else None for slot, s in enumerate(seeds)]
            with torch.no_grad():
                logits, _ = plain.logits(x[env])
            loss = F.cross_entropy(logits.flatten(0, 1), y[env].flatten()).item()
            np.testing.assert_allclose(losses[env, column], loss, rtol=1e-5)
            accuracy = 100 * (logits.argmax(2) == y[env]).double().mean().item()
            assert abs(accuracies[env, column] - accuracy) <= 100 * 1.01 / y[env].numel()


def test_the_grown_model_to_take_home_is_the_committed_network_also_for_shorter_texts():
    simulation = simulate(3, task="story_grammar", training=BRIEF_FEW, lifecycle=HASTY)
    play(simulation, 20, seed=2)
    fossils = simulation.slots.stage == Stage.FOSSILIZED
    assert fossils.any()
    for env in np.flatnonzero(fossils.any(1)):
        network, local = simulation.population.home(env)
        stage = np.where(fossils, simulation.slots.stage, Stage.DORMANT)
        plain = PlainGpt.of(network, local, stage, np.where(fossils, 1.0, 0.0), simulation.slots.algorithm)
        model = simulation.export_host(env)
        for length in (1, 7, simulation.task.host.length):
            text = torch.randint(0, simulation.task.host.classes, (2, length))
            torch.testing.assert_close(model(text), plain.logits(text)[0], rtol=1e-4, atol=1e-4)
        committed = model(torch.from_numpy(simulation.population.data[0].tensors["val"][0][env].numpy()))
        labels = simulation.population.data[0].tensors["val"][1][env].long()
        accuracy = 100 * (committed.argmax(2) == labels).double().mean().item()
        assert abs(simulation.counters.committed_accuracy[env] - accuracy) < 100 * 1.01 / labels.numel()


def test_the_score_is_how_far_the_loss_has_come_from_guessing_to_the_target():
    task = TASKS["story_grammar"]
    chance, target = math.log(task.host.classes), task.target_loss
    loss = np.array([chance, target, (chance + target) / 2, chance + 1, 0.0, np.nan, np.inf])
    np.testing.assert_allclose(task.score(loss, np.zeros(7)), [0, 100, 50, 0, 100, 0, 0])
    simulation = simulate(2, task="story_grammar", training=BRIEF_FEW)
    step(simulation, action(Op.GERMINATE, 0, "mlp"))
    np.testing.assert_array_equal(simulation.signals.score, task.score(simulation.signals.loss, np.zeros(2)))


def test_texts_cannot_be_augmented_and_widths_must_suit_the_heads():
    with pytest.raises(ConfigError, match="augment"):
        replace(TASKS["story_grammar"], augment=True)
    with pytest.raises(ConfigError, match="heads"):
        replace(HOST, heads=3)
    with pytest.raises(ConfigError, match=f"A width of 30 .* {HEADS} heads of the attention blueprints"):
        replace(HOST, width=30, heads=5)
    with pytest.raises(ConfigError, match="num_slots must be between 1 and 3"):
        replace(HOST, num_slots=4)


@pytest.mark.parametrize("style", Style)
def test_every_blueprint_leaves_the_output_bit_identical_from_germination_all_through_training(style):
    options = {"task": "story_grammar", "training": BRIEF_FEW}
    grown, waiting = simulate(len(NAMES), **options), simulate(len(NAMES), **options)
    for slot in range(3):
        step(grown, *(action(Op.GERMINATE, slot, name, style) for name in NAMES))
        step(grown, action(Op.ADVANCE, slot))
        assert grown.counters.executed.all()
        for _ in range(2):
            step(waiting)
        np.testing.assert_array_equal(grown.signals.loss, waiting.signals.loss)
        for ours, theirs in zip(grown.population.stacks, waiting.population.stacks, strict=True):
            assert torch.equal(ours.trunk.value, theirs.trunk.value)
            assert torch.equal(ours.trunk.momentum, theirs.trunk.momentum)


def test_copies_of_a_language_simulation_share_nothing():
    simulation = simulate(2, task="story_grammar", training=BRIEF_FEW, lifecycle=HASTY)
    play(simulation, 6)
    state = simulation.get_state()
    kept = copy.deepcopy(state["networks"][0].trunk.value)
    play(simulation, 3, seed=1)
    assert torch.equal(state["networks"][0].trunk.value, kept)
