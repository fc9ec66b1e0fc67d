"""Where networks live, and how seldom a step waits for them."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from esper_env.actions import Op, Style
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import BRIEF, BRIEF_FEW, HASTY, action, play, simulate, step

WAITING = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "nonzero")
"""Methods of a tensor for which the processor waits until a GPU has got that far."""
PER_STEP = 5
"""Training loss, gradient statistics, soundness, and losses and accuracies of all coalitions."""
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")


@pytest.fixture
def waits(monkeypatch):
    """Counts how often anything waits for the device."""
    counted = []

    def counting(name, method):
        def counted_method(self, *arguments, **options):
            counted.append(name)
            return method(self, *arguments, **options)

        return counted_method

    for name in WAITING:
        monkeypatch.setattr(torch.Tensor, name, counting(name, getattr(torch.Tensor, name)))
    return counted


@pytest.mark.parametrize("task", ["digits", "digits_deep", "story_grammar"])
def test_a_step_waits_for_the_device_a_handful_of_times_whatever_grows(task, waits):
    training = BRIEF_FEW if task == "story_grammar" else BRIEF
    simulation = simulate(6, task=task, training=training, lifecycle=HASTY)
    busiest = 0
    for seed in range(20):
        play(simulation, 1, seed)
        waits.clear()
        step(simulation)
        assert len(waits) <= PER_STEP, waits
        busiest = max(busiest, sum(len(network.banks) for network in simulation.population.stacks))
    assert busiest > PER_STEP
    assert BLENDED[simulation.slots.stage].any()


def test_what_an_observation_costs_waits_for_nothing(waits):
    simulation = simulate(4, training=BRIEF, lifecycle=HASTY)
    play(simulation, 8)
    waits.clear()
    simulation.features()
    simulation.masks()
    assert waits == []


def test_a_rollback_waits_for_one_evaluation_more(waits):
    simulation = simulate(3, training=BRIEF, lifecycle=HASTY)
    play(simulation, 8)
    simulation.population.stacks[0].trunk.value[1] = float("nan")
    waits.clear()
    step(simulation)
    assert simulation.counters.rolled_back[1]
    assert len(waits) <= PER_STEP + 2


@pytest.fixture
def far(monkeypatch):
    """Makes of torch's device without values a GPU: what is fetched is all ones, or zeros for what is said not to be.

    There every tensor has a place and a shape. Whoever mixes places, or needs a value without fetching it, gets an
    error, as nobody would on a processor.
    """

    class Far:
        fetched: ClassVar[list] = []
        sound = True

    def fetch(tensor):
        Far.fetched.append(tensor)
        value = torch.ones(tensor.shape, dtype=tensor.dtype)
        return value if Far.sound or tensor.dtype != torch.bool or tensor.ndim > 1 else ~value

    monkeypatch.setattr(torch.Tensor, "cpu", fetch)
    return Far


@pytest.mark.parametrize("task", ["digits", "digits_deep", "shapes", "cifar10_impaired", "story_grammar"])
def test_a_step_mixes_no_devices_and_needs_no_value_but_what_it_fetches(task, far):
    training = BRIEF_FEW if task == "story_grammar" else BRIEF
    simulation = simulate(6, task=task, training=training, lifecycle=HASTY, max_epochs=40, device="meta")
    seen = set()
    for seed in range(14):
        play(simulation, 1, seed)
        seen |= set(simulation.slots.stage.ravel().tolist())
        far.fetched.clear()
        far.sound = seed != 12
        step(simulation)
        assert all(tensor.is_meta for tensor in far.fetched)
        assert len(far.fetched) <= PER_STEP + 2 * (not far.sound)
        assert simulation.counters.rolled_back.all() == (not far.sound)
    assert seen >= {Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED}
    (network,), (data,) = simulation.population.stacks, simulation.population.data
    assert all(tensor.is_meta for tensor in tensors_of(network, data))


def test_states_forks_and_exports_stay_on_the_device(far):
    env = SeedEnv(task="digits", training=BRIEF, lifecycle=HASTY, max_epochs=4, device="meta")
    env.reset(seed=0)
    env.step(np.array(action(Op.GERMINATE, 0, "conv_light", Style.GATED_GATE)))
    fork = env.fork()
    fork.set_state(env.get_state())
    for _ in range(3):
        *_, terminated, _, info = fork.step(np.array(action(Op.ADVANCE, 0)))
    assert terminated
    assert info["test_accuracy"] > 0
    assert all(tensor.is_meta for tensor in fork.export_host().state_dict().values())
    population = fork._simulation.population
    assert all(tensor.is_meta for tensor in tensors_of(population.stacks[0], population.data[0]))


def tensors_of(network, data):
    """Everything that a stack keeps."""
    stacks = [network.trunk, *(s for bank in network.banks.values() for s in bank.stacks())]
    kept = [t for stack in stacks for t in (stack.value, stack.momentum, stack.snapshot)]
    return kept + [tensor for pair in data.tensors.values() for tensor in pair]


@needs_cuda
@pytest.mark.parametrize("task", ["digits", "digits_deep", "shapes", "story_grammar"])
def test_everything_lives_on_the_device_that_was_asked_for(task):
    simulation = simulate(4, task=task, training=BRIEF_FEW, lifecycle=HASTY, device="cuda")
    play(simulation, 12)
    assert len(simulation.population.bounds) == 1
    for network, data in zip(simulation.population.stacks, simulation.population.data, strict=True):
        assert all(tensor.is_cuda for tensor in tensors_of(network, data))


@needs_cuda
@pytest.mark.parametrize("task", ["digits", "story_grammar"])
def test_a_gpu_stays_close_to_the_processor_over_the_first_epochs(task):
    training = BRIEF_FEW if task == "story_grammar" else BRIEF
    here, there = (simulate(4, task=task, training=training, lifecycle=HASTY, device=d) for d in ("cpu", "cuda"))
    for simulation in (here, there):
        play(simulation, 4)
    np.testing.assert_array_equal(here.slots.stage, there.slots.stage)
    np.testing.assert_allclose(here.signals.loss, there.signals.loss, rtol=1e-2)


@needs_cuda
def test_both_environments_run_on_a_gpu_and_go_on_from_a_state():
    options = {"training": BRIEF, "lifecycle": HASTY, "device": "cuda", "max_epochs": 6}
    for env in (SeedEnv(**options), SeedVectorEnv(4, autoreset_mode="disabled", **options)):
        env.reset(seed=0)
        state = env.get_state()
        for _ in range(6):
            env.step(env.action_space.sample())
        env.set_state(state)
        env.step(env.action_space.sample())
        assert (env.unwrapped._simulation.slots.stage != Stage.UNKNOWN).all()
