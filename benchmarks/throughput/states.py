"""The states that are measured: hosts alone, and hosts with seeds that blend, stacked and naive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import TensorDataset

from benchmarks.grower import Grower, simulate, suited_blueprints, waiting
from benchmarks.throughput.figures import Work
from benchmarks.throughput.naive import Host, NaiveEnv, Settings
from esper_env.actions import STYLE_ALGORITHM, Algorithm, Style
from esper_env.lifecycle.alpha import running
from esper_env.lifecycle.stages import BLENDED
from esper_env.network.cnn import CnnHost
from esper_env.options import resolve
from esper_env.simulation import Simulation
from esper_env.tasks.data import Split

TASK = "digits"
ENDLESS = 1_000_000
"""Epochs of an episode that does not end while it is measured."""
SHORT = {"batches_per_epoch": 4, "val_samples": 16}
PATIENCE = 200
_BLUEPRINTS = suited_blueprints("cnn")
MIXES: tuple[tuple[str, ...], ...] = tuple(
    tuple(_BLUEPRINTS[(mix + 2 * slot) % len(_BLUEPRINTS)] for slot in range(3)) for mix in range(len(_BLUEPRINTS))
)
"""Blueprints of the three slots, by environment in turn; over all of them each blueprint is once in every slot."""
ADD = (Style.SIGMOID_ADD,)
Styles = tuple[Style, ...]


def alone(
    envs: int,
    *,
    task: str = TASK,
    chunk: int | None = None,
    threads: int = 1,
    training: Mapping[str, int] | None = None,
) -> Simulation:
    """Hosts without seeds."""
    brief = {"min_training_epochs": 3}
    return simulate(
        range(envs),
        chunk=chunk,
        threads=threads,
        task=task,
        max_epochs=ENDLESS,
        training=training,
        lifecycle=brief,
    )


def blending(
    envs: int,
    mixes: Sequence[Sequence[str]] = MIXES,
    styles: Styles = ADD,
    *,
    active: Sequence[int] = (0b111,),
    task: str = TASK,
    chunk: int | None = None,
    threads: int = 1,
) -> Simulation:
    """Hosts with a seed in every slot; those under the bit masks `active`, by environment in turn, blend for good.

    Their target is 0.5, from where no gate leads on. The others stay in TRAINING. Short epochs lead there, the
    state is then handed to a simulation with whole ones.
    """
    simulation = alone(envs, task=task, chunk=chunk, threads=threads, training=SHORT)
    grower = Grower(mixes, training_epochs=3, styles=styles, tempo=0, alpha_target=0, released=active)
    wanted = np.resize(active, envs)
    for _ in range(PATIENCE):
        simulation.step(grower.act(simulation))
        slots = simulation.slots
        settled = not running(slots, simulation.signals.epoch).any() and bool((slots.params > 0).all())
        if settled and np.array_equal(BLENDED[slots.stage] @ (1 << np.arange(3)), wanted):
            whole = alone(envs, task=task, chunk=chunk, threads=threads)
            whole.set_state(simulation.get_state())
            return whole
    raise RuntimeError(f"After {PATIENCE} steps the stages are {slots.stage.tolist()}: not all that should blend do.")


def rotated(styles: Styles, by: int) -> Styles:
    """The styles that slots get in the `by`-th environment of a stack."""
    by %= len(styles)
    return styles[by:] + styles[:by]


def steps(simulations: Sequence[Simulation], count: int = 1) -> Work:
    """Work: complete steps, observation and masks included; a unit is one step of one environment."""

    played = [(simulation, waiting(simulation.envs)) for simulation in simulations]

    def work() -> int:
        for simulation, action in played:
            for _ in range(count):
                simulation.step(action)
                simulation.features()
                simulation.masks()
            if simulation.counters.rolled_back.any():
                raise RuntimeError("A host was rolled back, so its seeds are gone: the measurement means nothing.")
        return count * sum(simulation.envs for simulation in simulations)

    return work


def naive(mix: Sequence[str] = (), styles: Styles = ADD, seed: int = 0, *, name: str = TASK) -> NaiveEnv:
    """A naive environment on the same task, with a seed of the mix blending in every slot."""
    _, task = resolve({"task": name})
    shape, data = task.host, task.source.load(None)
    assert isinstance(shape, CnnHost)
    host = Host(shape.channels, shape.kernel, shape.pools, shape.classes, shape.image_channels)
    settings = Settings(lr=task.host_lr, batch_size=task.batch_size, max_epochs=ENDLESS, budget=1_000.0)
    env = NaiveEnv(host, tensors(data.train), tensors(data.val), settings, seed=seed)
    for slot, blueprint in enumerate(mix):
        style = styles[slot % len(styles)]
        env.germinate(slot, blueprint, Algorithm(STYLE_ALGORITHM[style]).name)
        env.advance(slot, "BLENDING", alpha=0.5)
    return env


def tensors(split: Split) -> TensorDataset:
    """A split as everybody loads it."""
    images = torch.from_numpy(split.inputs).permute(0, 3, 1, 2).contiguous()
    return TensorDataset(images, torch.from_numpy(split.labels))


def naive_steps(envs: Sequence[NaiveEnv]) -> Work:
    """Work: a complete step of each; a unit is one of them."""

    def work() -> int:
        for env in envs:
            env.step()
        return len(envs)

    return work
