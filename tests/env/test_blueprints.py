from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esper_env.actions import BLUEPRINTS, CNN, STYLE_ALGORITHM, Algorithm, Op, Style
from esper_env.config import ConfigError, TrainingConfig
from esper_env.growth.optimizer import Rates
from esper_env.growth.training import SlotState, train_epoch
from esper_env.lifecycle.stages import Stage
from esper_env.network import layers
from esper_env.network.blueprints import IMPLEMENTATIONS, Blueprint, register_blueprint
from esper_env.network.gates import Gate
from esper_env.network.network import StackedNetwork
from esper_env.tasks import TASKS
from esper_env.tasks.data import Dataset, Split
from tests.conftest import BRIEF, SMALL_IMAGES, action, simulate, step

NAMES = [name for name, topology in IMPLEMENTATIONS if topology == CNN]
IMAGES = {name: task for name, task in TASKS.items() if task.host.topology == CNN}
CHANNELS = sorted({shape.channels for task in IMAGES.values() for shape in task.host.slots})
SEEDS = 52


# The blueprints of the specification, one seed at a time, as anybody would write them.


def group_norm(channels, **kwargs):
    return nn.GroupNorm(max(1, channels // 16), channels, **kwargs)


def conv(into, out, kernel, **kwargs):
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=False, **kwargs)


class PlainNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1,), 0.1))
        self.norm = group_norm(c, affine=False)

    def forward(self, x):
        return torch.tanh(self.gamma) * (self.norm(x) - x)


class PlainAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.squeeze = nn.Linear(c, max(4, c // 4), bias=False)
        self.excite = nn.Linear(max(4, c // 4), c, bias=False)
        nn.init.zeros_(self.excite.weight)

    def forward(self, x):
        return x * torch.tanh(self.excite(F.silu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]


class PlainScaled(nn.Module):
    """γ ⊙ of what `layers` do; γ comes last among the parameters."""

    def __init__(self, c, *modules):
        super().__init__()
        self.layers = nn.Sequential(*modules)
        self.last = nn.ParameterDict({"gamma": nn.Parameter(torch.full((c,), 0.1))})

    def forward(self, x):
        return self.last["gamma"][:, None, None] * self.layers(x)


def plain_convolutions(*kernels):
    def build(c):
        return PlainScaled(c, *(m for k in kernels for m in (conv(c, c, k), group_norm(c), nn.ReLU())))

    return build


def plain_depthwise(c):
    return PlainScaled(c, conv(c, c, 3, groups=c), conv(c, c, 1), group_norm(c), nn.ReLU())


def plain_bottleneck(c):
    width = max(8, c // 4)
    return PlainScaled(
        c, conv(c, width, 1), nn.ReLU(), conv(width, width, 3), nn.ReLU(), conv(width, c, 1), group_norm(c)
    )


PLAIN = {
    "norm": PlainNorm,
    "attention": PlainAttention,
    "conv_small": plain_convolutions(1),
    "conv_light": plain_convolutions(3),
    "conv_heavy": plain_convolutions(3, 3),
    "depthwise": plain_depthwise,
    "bottleneck": plain_bottleneck,
}


class PlainGate(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden = max(8, c // 4)
        self.layers = nn.Sequential(nn.Linear(c, hidden), nn.SiLU(), nn.Linear(hidden, 1), nn.Sigmoid())
        nn.init.zeros_(self.layers[0].bias)
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, x):
        return self.layers(x.mean((2, 3)))[:, :, None, None]


def load(module, parameters):
    """Give a plain module the values of a stacked one, in order; linear weights are `[in, out]` there."""
    with torch.no_grad():
        for target, source in zip(module.parameters(), parameters, strict=True):
            source = torch.as_tensor(source)
            target.copy_(source.T if source.ndim == 2 else source)
    return module


def sizes(c):
    """Parameters of every blueprint at c channels, by hand."""
    hidden, width = max(4, c // 4), max(8, c // 4)
    return {
        "norm": 1,
        "attention": 2 * c * hidden,
        "conv_small": c * c + 3 * c,
        "conv_light": 9 * c * c + 3 * c,
        "conv_heavy": 2 * (9 * c * c + 2 * c) + c,
        "depthwise": 9 * c + c * c + 3 * c,
        "bottleneck": 2 * c * width + 9 * width * width + 3 * c,
    }


def stacked(name, c, n, seed=0):
    """Parameters of n seeds, moved away from their initial values, and maps for them."""
    rng = np.random.default_rng((seed, c))
    seeds = [IMPLEMENTATIONS[name, CNN].init(c, rng) for _ in range(n)]
    moved = [{k: v + rng.normal(0, 0.3, v.shape).astype(np.float32) for k, v in p.items()} for p in seeds]
    x = torch.from_numpy(rng.normal(0, 1, (5, n * c, 6, 6)).astype(np.float32))
    together = {k: torch.from_numpy(np.stack([p[k] for p in moved])) for k in moved[0]}
    return moved, together, x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", NAMES)
def test_the_stacked_delta_is_the_plain_module_of_every_seed(name, channels, n):
    each, together, x = stacked(name, channels, n)
    got = IMPLEMENTATIONS[name, CNN].delta(together, x)
    for i, parameters in enumerate(each):
        module = load(PLAIN[name](channels), parameters.values())
        want = module(x[:, i * channels : (i + 1) * channels].contiguous())
        torch.testing.assert_close(got[:, i * channels : (i + 1) * channels], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("channels", CHANNELS)
def test_the_stacked_gate_is_the_plain_gate_of_every_seed_and_starts_near_half_open(channels, n):
    rng = np.random.default_rng(channels)
    x = torch.from_numpy(rng.normal(0, 1, (5, n * channels, 4, 4)).astype(np.float32))
    x = x.contiguous(memory_format=torch.channels_last)
    fresh = [Gate().init(channels, rng) for _ in range(n)]
    together = {k: torch.from_numpy(np.stack([p[k] for p in fresh])) for k in fresh[0]}
    assert ((Gate().openness(together, x) - 0.5).abs() < 0.25).all()
    moved = [{k: v + rng.normal(0, 0.5, v.shape).astype(np.float32) for k, v in p.items()} for p in fresh]
    together = {k: torch.from_numpy(np.stack([p[k] for p in moved])) for k in moved[0]}
    got = Gate().openness(together, x)
    for i, p in enumerate(moved):
        want = load(PlainGate(channels), p.values())(x[:, i * channels : (i + 1) * channels].contiguous())
        torch.testing.assert_close(got[:, i : i + 1], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", NAMES)
def test_seeds_start_with_the_constants_of_the_specification_and_bounded_weights(name, channels):
    module = PLAIN[name](channels)
    parameters = IMPLEMENTATIONS[name, CNN].init(channels, np.random.default_rng(1))
    for want, got in zip(module.parameters(), parameters.values(), strict=True):
        if want.ndim >= 2:
            fan_in = want[0].numel()
            assert 0 < np.abs(got).max() <= fan_in**-0.5
        else:
            np.testing.assert_array_equal(got, want.detach().T if want.ndim == 2 else want.detach())


@pytest.mark.parametrize("channels", [*CHANNELS, 64, 128])
def test_every_registered_blueprint_has_the_size_of_its_closed_form(channels):
    assert {name: IMPLEMENTATIONS[name, CNN].size(channels) for name in NAMES} == sizes(channels)
    hidden = max(8, channels // 4)
    assert Gate().size(channels) == channels * hidden + hidden + hidden + 1


@pytest.mark.parametrize("channels", CHANNELS)
def test_multiply_accumulates_are_those_of_convolutions_and_linear_layers(channels):
    c, positions = channels, 64
    hidden, width = max(4, c // 4), max(8, c // 4)
    want = {
        "norm": 0,
        "attention": 2 * c * hidden,
        "conv_small": c * c * positions,
        "conv_light": 9 * c * c * positions,
        "conv_heavy": 18 * c * c * positions,
        "depthwise": (9 * c + c * c) * positions,
        "bottleneck": (2 * c * width + 9 * width * width) * positions,
    }
    assert {name: IMPLEMENTATIONS[name, CNN].macs(c, positions) for name in NAMES} == want


def germinate_everywhere(simulation, first=0):
    """Every pair of blueprint and style, one per environment, in every slot; then all of them into TRAINING."""
    pairs = [(name, style) for name in NAMES for style in Style]
    for slot in range(simulation.num_slots):
        yield step(simulation, *(action(Op.GERMINATE, slot, name, style) for name, style in pairs))
    for slot in range(simulation.num_slots):
        yield step(simulation, action(Op.ADVANCE, slot))
    yield step(simulation)


@pytest.mark.parametrize("task", IMAGES)
def test_the_output_is_bit_identical_from_germination_all_through_training(task):
    few = {"batches_per_epoch": 1, "batch_size": 4} if TASKS[task].host.image_size == 32 else {}
    options = {"task": task, "training": BRIEF | few}
    envs = len(NAMES) * len(Style)
    grown, waiting = simulate(envs, **options), simulate(envs, **options)
    for outcome in germinate_everywhere(grown):
        step(waiting)
        assert grown.counters.executed.all()
        assert not outcome.events.pruned.any()
        for name in ("loss", "accuracy", "train_loss"):
            np.testing.assert_array_equal(getattr(grown.signals, name), getattr(waiting.signals, name))
        for ours, theirs in zip(grown.population.stacks, waiting.population.stacks, strict=True):
            assert torch.equal(ours.trunk.value, theirs.trunk.value)
    assert (grown.slots.stage == Stage.TRAINING).all()
    assert not np.isnan(grown.slots.gradient_health).any()


def train_everywhere(task, name, algorithm, hosts=SEEDS):
    """One TRAINING epoch of a blueprint in every slot of many hosts, each with seeds and data order of its own.

    Returns for each slot which tensors stood still, `{tensor: hosts}`, and health and exploding flags.
    """
    slots, shape = task.host.slots, (hosts, len(task.host.slots))
    data = task.source.load(np.random.default_rng(0)).train
    network = StackedNetwork(task.host, hosts, torch.device("cpu"))
    for env in range(hosts):
        network.build_host(env, np.random.default_rng((0, env)))
        for slot in range(len(slots)):
            network.plant(env, slot, name, np.random.default_rng((1, env, slot)))
            if algorithm == Algorithm.GATE:
                network.build_gate(env, slot, np.random.default_rng((2, env, slot)))
    state = SlotState(
        stage=np.full(shape, Stage.TRAINING, np.int8),
        alpha=np.zeros(shape),
        algorithm=np.full(shape, algorithm, np.int8),
        updated=np.ones(shape, bool),
        fossil=np.zeros(shape, bool),
    )
    order = np.stack([np.random.default_rng(env).permutation(len(data)) for env in range(hosts)])
    before = {key: [stack.value.clone() for stack in bank.stacks()] for key, bank in network.banks.items()}
    rates = Rates(task.host_lr, task.host_lr, 0.9, 5e-4, 1.0)
    inputs, targets = torch.from_numpy(data.inputs[None]), torch.from_numpy(data.labels[None])
    _, stats = train_epoch(network, state, inputs, targets, order, task.batch_size, rates, TrainingConfig().proximal)
    still = []
    for key, bank in network.banks.items():
        assert len(bank.stacks()) == 1 + (algorithm == Algorithm.GATE)
        still.append({})
        for stack, old in zip(bank.stacks(), before[key], strict=True):
            was, now = stack.split(old), stack.split(stack.value)
            for tensor in was:
                stood = (was[tensor] == now[tensor]).flatten(1).all(1)
                if stood.any():
                    still[-1][tensor] = np.flatnonzero(stood).tolist()
    return still, stats


def pair(name, algorithm):
    marks = [pytest.mark.slow] if name == "conv_heavy" else []
    return pytest.param(name, algorithm, marks=marks, id=f"{name}-{algorithm.name}")


@pytest.mark.parametrize(("name", "algorithm"), [pair(name, algorithm) for name in NAMES for algorithm in Algorithm])
def test_one_training_epoch_moves_every_parameter_with_good_health_whatever_the_initialisation(name, algorithm):
    for task in SMALL_IMAGES:
        still, stats = train_everywhere(TASKS[task], name, algorithm)
        assert stats.measured.all()
        assert not any(still), (task, still)
        assert (stats.health >= 0.7).all(), (task, stats.health.min(0))
        assert not stats.exploding.any(), task


class Blobs:
    """Photographs in small: noise with a bright patch at a place of the class's own."""

    generated = False

    def load(self, rng=None):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 10, 256)
        images = rng.normal(size=(256, 32, 32, 3)).astype(np.float32)
        for image, label in zip(images, labels, strict=True):
            image[3 * label : 3 * label + 4, 8:24] += rng.normal(size=3)
        return Dataset(*[Split(images, labels)] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(name for name in IMAGES if name.startswith("cifar10")))
@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_blueprint_moves_in_every_host_of_photographs(preset, algorithm):
    """Where it has two channels or more: of a single one the next norm takes back what a weight or a scale does."""
    task = replace(TASKS[preset], source=Blobs(), batch_size=16)
    for name in NAMES:
        still, stats = train_everywhere(task, name, algorithm, hosts=3)
        wide = [slot for slot, shape in enumerate(task.host.slots) if shape.channels > 1]
        assert stats.measured.all()
        assert not any(still[slot] for slot in wide), (name, still)
        assert (stats.health[:, wide] >= 0.7).all(), (name, stats.health)
        assert not stats.exploding.any(), name


def test_every_style_blends_by_its_algorithm():
    assert [Algorithm(STYLE_ALGORITHM[style]).name for style in Style] == ["ADD", "MULTIPLY", "ADD", "GATE"]


def test_noop_has_no_module_and_cannot_be_asked_for():
    assert "noop" not in NAMES
    with pytest.raises(ConfigError, match="noop"):
        simulate(blueprints=["noop"])


class Tint(Blueprint):
    """A colour per channel."""

    name = "tint"

    def init(self, channels, rng):
        return {"tint": layers.full(0.0, channels)}

    def delta(self, p, x):
        return layers.channel_scale(x, p["tint"])


@contextmanager
def registered(blueprint):
    try:
        yield register_blueprint(blueprint)
    finally:
        BLUEPRINTS[:] = [row for row in BLUEPRINTS if row.name != blueprint.name]
        del IMPLEMENTATIONS[blueprint.name, CNN]


@pytest.fixture
def tint():
    with registered(Tint) as blueprint:
        yield blueprint


def test_a_registered_blueprint_is_the_last_choice_and_lives_like_any_other(tint):
    simulation = simulate(3, training=BRIEF, lifecycle={"min_training_epochs": 1})
    assert simulation.blueprints[-1] == "tint"
    assert simulation.plantable[-1]
    for vector in (action(Op.GERMINATE, 1, "tint"), *[action(Op.ADVANCE, 1)] * 2, *[action()] * 3):
        step(simulation, vector)
        assert simulation.counters.executed.all()
    step(simulation, action(Op.ADVANCE, 1))
    step(simulation, action(Op.FOSSILIZE, 1))
    assert (simulation.slots.stage[:, 1] == Stage.FOSSILIZED).all()
    assert (simulation.slots.params[:, 1] == 8).all()
    everyone, nothing = np.ones(3, bool), np.zeros((3, 1), int)
    loss, _, _ = simulation.population.evaluate(everyone, nothing, simulation.alpha(), simulation.slots.algorithm)
    assert (simulation.signals.loss != loss[:, 0]).all()
    assert simulation.population.stacks[0].banks[1, "tint"].seeds.value.any(1).all()


def test_registering_a_blueprint_again_changes_nothing_and_a_taken_name_is_refused(tint):
    rows = len(BLUEPRINTS)
    assert register_blueprint(tint) is tint
    assert len(BLUEPRINTS) == rows
    other = type("Other", (Blueprint,), {"name": "tint"})
    with pytest.raises(ConfigError, match="exists already"):
        register_blueprint(other)
    for topologies in ("cnn", (), ("ccn",)):
        with pytest.raises(ConfigError, match="topolog"):
            register_blueprint(type("Elsewhere", (Blueprint,), {"name": "elsewhere", "topologies": topologies}))
    for nonsense in (Tint(), "tint", type("Nameless", (Blueprint,), {}), int):
        with pytest.raises(ConfigError, match="subclass of Blueprint"):
            register_blueprint(nonsense)


def test_a_faulty_blueprint_disturbs_only_those_who_may_plant_it():
    class Faulty(Tint):
        name = "faulty"

        def init(self, channels, rng):
            raise ArithmeticError("no parameters")

    with registered(Faulty):
        with pytest.raises(ArithmeticError, match="no parameters"):
            simulate(task="digits", training=BRIEF)
        simulation = simulate(task="digits", training=BRIEF, blueprints=["norm"])
        assert simulation.budget == simulate(task="digits", training=BRIEF, blueprints=["conv_light"]).budget
        step(simulation, action(Op.GERMINATE, 0, "norm"))
        assert simulation.counters.executed.all()


def test_a_blueprint_that_cannot_be_made_leaves_the_table_as_it_was():
    class Broken(Tint):
        name = "broken"

        def __init__(self, size):
            pass

    rows, known = list(BLUEPRINTS), set(IMPLEMENTATIONS)
    with pytest.raises(TypeError, match="size"):
        register_blueprint(Broken)
    assert rows == BLUEPRINTS
    assert set(IMPLEMENTATIONS) == known
