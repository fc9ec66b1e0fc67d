"""Where networks live, and how seldom a step waits for them."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esper_env.actions import Op, Style
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.network.transfer import upload, upload_together
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import BRIEF, BRIEF_FEW, HASTY, QUICK_TASKS, action, play, random_actions, simulate, step

WAITING = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "nonzero")
"""Methods of a tensor for which the processor waits until a GPU has got that far."""
PER_STEP = 5
"""Training loss, gradient statistics, soundness, and losses and accuracies of all coalitions."""
PER_BANK = 15
"""Uploads per step and bank: what a row does in training, how it is updated, where it is added, and what is planted."""
KINDS_OF_HOST = ["digits", "digits_deep", "shapes", "cifar10_impaired", "cifar10_postpool", "cifar10_scale"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")


def banks_of(simulation):
    return sum(len(network.banks) for network in simulation.population.stacks)


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


class Uploads(TorchDispatchMode):
    """Counts what goes up to a device, and notes what of it the processor would wait for."""

    def __init__(self):
        super().__init__()
        self.sent, self.blocking, self.unseen = 0, [], UnseenUploads(self)

    def __enter__(self):
        self.unseen.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.unseen.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            self.note(func, args[:1], kwargs.get("device"), kwargs.get("non_blocking"))
        elif func is torch.ops.aten.copy_.default:
            self.note(func, args[1:2], args[0].device, (*args, False)[2])
        else:
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.note(func, [t for t in tensors if t.ndim], max((t.device for t in tensors), key=str, default=None))
        return func(*args, **kwargs)

    def note(self, how, sources, device, non_blocking=False):
        """Everything on the processor among `sources` goes to `device`."""
        sent = sum(source.device.type == "cpu" for source in sources)
        if device is not None and device.type != "cpu" and sent:
            self.sent += sent
            if not non_blocking:
                self.blocking.append(str(how))


class UnseenUploads(TorchFunctionMode):
    """What torch does for a GPU by copies of its own, and otherwise for a device without values."""

    def __init__(self, uploads):
        super().__init__()
        self.uploads = uploads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func is torch.tensor or (func is torch.as_tensor and not isinstance(args[0], np.ndarray))
        found = made and str(kwargs.get("device", "cpu")) != "cpu"
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device.type != "cpu":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            found = any(isinstance(part, list) for part in index)
            if func is torch.Tensor.__setitem__ and not isinstance(args[2], torch.Tensor):
                found |= any(isinstance(part, torch.Tensor) and part.dtype != torch.bool for part in index)
        if found:
            self.uploads.note(func.__name__, [torch.empty(0)], torch.device("meta"))
        return func(*args, **kwargs)


BLOCKING = {
    "to": lambda far: torch.ones(2).to(far.device),
    "copy_": lambda far: far[0].copy_(torch.ones(3)),
    "a constant": lambda far: torch.tensor([0, 1], device=far.device),
    "an array": lambda far: torch.as_tensor(np.ones(2), device=far.device),
    "a list": lambda far: torch.as_tensor([0.0, 1.0], device=far.device),
    "an array as index": lambda far: far[np.array([0, 1])],
    "a list as index": lambda far: far[[0, 1]],
    "an index from here": lambda far: far.index_select(0, torch.tensor([0, 1])),
    "written from here": lambda far: far.__setitem__(1, torch.ones(3)),
    "a number for chosen rows": lambda far: far.__setitem__(torch.zeros(2, dtype=torch.long, device=far.device), 0),
}
FREE = {
    "upload": lambda far: upload(np.arange(6).reshape(2, 3).T, far.device),
    "upload together": lambda far: upload_together((np.arange(2), np.arange(0), np.arange(3)), far.device),
    "an uploaded row": lambda far: far.__setitem__(1, upload(np.ones(3, np.float32), far.device)),
    "a number for a row": lambda far: far.__setitem__(1, 0),
    "a number": lambda far: far * torch.tensor(2.0),
    "what is there": lambda far: far[torch.zeros(2, dtype=torch.long, device=far.device)] + torch.ones_like(far[:2]),
}


@pytest.mark.parametrize("name", BLOCKING | FREE)
def test_every_way_up_to_a_device_is_known_to_wait_or_not_to(name):
    here = torch.zeros(4, 3)
    for device, waiting in (("cpu", 0), ("meta", int(name in BLOCKING))):
        with Uploads() as uploads:
            (BLOCKING | FREE)[name](here.to(device) if device == "cpu" else torch.zeros(4, 3, device=device))
        assert len(uploads.blocking) == waiting
    assert uploads.sent == waiting + name.startswith(("upload", "an uploaded"))


def test_uploading_keeps_every_bit_and_shares_the_memory_of_a_processor():
    array, turned = np.arange(6, dtype=np.float32), np.arange(6).reshape(2, 3).T
    tensor = upload(array, torch.device("cpu"))
    array[2] = 9.0
    assert tensor[2] == 9.0
    np.testing.assert_array_equal(upload(turned, torch.device("cpu")), turned)
    parts = upload_together((turned[0], turned[1][:0], turned[2]), torch.device("cpu"))
    for part, whole in zip(parts, (turned[0], turned[1][:0], turned[2]), strict=True):
        np.testing.assert_array_equal(part, whole)


def test_what_goes_to_a_gpu_leaves_from_page_locked_memory_without_waiting(monkeypatch):
    done = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: done.append("locked") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, device, non_blocking: done.append((device, non_blocking)) or self
    )
    cuda = torch.device("cuda")
    upload(np.arange(3), cuda)
    assert done == ["locked", (cuda, True)]


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
        busiest = max(busiest, banks_of(simulation))
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


@pytest.mark.parametrize("task", [*KINDS_OF_HOST, "story_grammar"])
def test_a_step_mixes_no_devices_waits_for_no_upload_and_needs_no_value_but_what_it_fetches(task, far):
    training = BRIEF_FEW | {"batches_per_epoch": 1}
    simulation = simulate(6, task=task, training=training, lifecycle=HASTY, max_epochs=40, device="meta")
    seen = set()
    for seed in range(14):
        play(simulation, 1, seed)
        seen |= set(simulation.slots.stage.ravel().tolist())
        far.fetched.clear()
        far.sound = seed != 12
        banks = banks_of(simulation)
        with Uploads() as uploads:
            simulation.step(random_actions(simulation, [np.random.default_rng((seed, env)) for env in range(6)]))
        assert uploads.blocking == []
        assert uploads.sent <= PER_BANK * (1 + max(banks, banks_of(simulation)))
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
@pytest.mark.parametrize("task", QUICK_TASKS)
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
