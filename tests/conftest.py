"""One thread and a little CIFAR-10 for every test, and short ways to a simulation and to actions."""

import numpy as np
import pytest
import torch

from esper_env.actions import Op, Style, blueprint_names, head_sizes
from esper_env.options import resolve
from esper_env.simulation import Simulation
from esper_env.tasks import TASKS

BRIEF = {"batches_per_epoch": 3, "val_samples": 96}
"""Training options for epochs of a few milliseconds."""
BRIEF_FEW = {"batches_per_epoch": 2, "batch_size": 3, "val_samples": 7}
"""The same where a sample is large, for texts and photographs; in sizes that suit no vector register."""
SMALL_IMAGES = ("digits", "digits_capable", "digits_deep", "shapes")
QUICK_TASKS = tuple(name for name in TASKS if not name.startswith("tinystories"))
"""Tasks to play whole episodes of; a host for tinystories takes a second for an epoch, however short."""
HASTY = {"min_training_epochs": 1, "embargo_epochs": 1}
"""Lifecycle options with which seeds run through all stages in a few epochs."""
EAGERNESS = {Op.GERMINATE: 3, Op.SET_ALPHA_TARGET: 1, Op.PRUNE: 0.5, Op.FOSSILIZE: 1, Op.ADVANCE: 6}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def cifar_folder(tmp_path_factory):
    """A small archive, found by every environment that is not told of another."""
    folder = tmp_path_factory.mktemp("cifar")
    write_cifar(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_DATA_DIR", str(folder))
        yield folder


def write_cifar(folder, images=20):
    """Binary batches of so many images each, in the layout of the archive; returns pixels and labels by file."""
    rng, written = np.random.default_rng(0), {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = rng.permutation(np.arange(images) % 10)
        pixels = rng.integers(0, 256, (images, 3, 32, 32), np.uint8)
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(images, -1)], 1)
        (folder / name).write_bytes(records.tobytes())
        written[name] = (pixels, labels)
    return written


def simulate(envs=2, *, seeds=None, chunk=None, threads=1, **options):
    """A simulation at epoch 0; environment i has seed i unless said otherwise."""
    config, task = resolve(options)
    simulation = Simulation(config, task, envs, chunk=chunk, threads=threads)
    simulation.reset(np.ones(envs, bool), list(range(envs)) if seeds is None else list(seeds))
    return simulation


def action(op=Op.WAIT, slot=0, blueprint="noop", style=Style.SIGMOID_ADD, tempo=0, target=2, speed=0, curve=0):
    """An action vector."""
    return [slot, blueprint_names().index(blueprint), style, tempo, target, speed, curve, op]


def step(simulation, *vectors):
    """Step with one action vector per environment, or the same one for all; WAIT when none is given."""
    vectors = vectors or (action(),)
    chosen = vectors * simulation.envs if len(vectors) == 1 else vectors
    return simulation.step(np.array(chosen))


def random_actions(simulation, generators):
    """Legal actions, each drawn from its environment's own generator and state alone."""
    legal = simulation.legality()
    sizes = head_sizes(simulation.num_slots, len(simulation.blueprints))
    vectors = []
    for env, rng in enumerate(generators):
        vector = rng.integers(0, sizes)
        vector[1] = rng.choice(np.flatnonzero(simulation.plantable))
        ops = [op for op in EAGERNESS if legal[env, op].any()]
        vector[7], draw = Op.WAIT, rng.random()
        if ops and draw < 0.85:
            weights = np.array([EAGERNESS[op] for op in ops])
            vector[7] = op = rng.choice(ops, p=weights / weights.sum())
            vector[0] = rng.choice(np.flatnonzero(legal[env, op]))
        vectors.append(vector)
    return np.array(vectors)


def play(simulation, steps, seed=0, envs=None):
    """Random legal play, the same for an environment whatever its neighbours do; returns the generators."""
    names = range(simulation.envs) if envs is None else envs
    generators = [np.random.default_rng((seed, name)) for name in names]
    for _ in range(steps):
        simulation.step(random_actions(simulation, generators))
    return generators
