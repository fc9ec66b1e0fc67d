"""`big`: a network of the fully grown size, trained from the start as hosts are, with no growth about it.

Its learning rate is constant, so the network after e epochs is the one that a budget of e epochs would have given:
one training holds every budget, and each episode of an agent is compared with the epoch that costs as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.playing import in_company
from benchmarks.suite.recordings import read_table, write_table
from esper_agent.evaluate import Episode
from esper_env.actions import Algorithm
from esper_env.config import EnvConfig
from esper_env.growth.optimizer import Rates
from esper_env.growth.population import Population
from esper_env.growth.training import SlotState
from esper_env.lifecycle.stages import Stage
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.options import resolve
from esper_env.streams import Streams
from esper_env.tasks.table import Task

LENGTH = 2
"""Epochs of the training, in lengths of an episode. Whoever spends more is compared with the last."""


@dataclass(frozen=True)
class Point:
    """The network of one evaluation seed after some epochs."""

    evaluation_seed: int
    epoch: int
    flops: float
    committed_test_accuracy: float
    objective_return: float
    shaped_return: float
    final_params: int


COLUMNS = tuple(field.name for field in fields(Point))


def train_static(
    env_options: Mapping[str, Any], seeds: Sequence[int], epochs: int | None = None, *, threads: int = 1
) -> list[Point]:
    """Train the host with the task's budget blueprint in every slot; a point per seed and epoch.

    The objective is what it is for an agent: a tenth of the rise of the validation accuracy, less rent for
    parameters in use; nothing is planted, so nothing is shocked.
    """
    config, task = resolve(env_options)
    task = task.at(config.data_dir, config.download)
    epochs = LENGTH * config.max_epochs if epochs is None else epochs
    company = in_company(seeds)
    streams = [Streams.of(seed) for seed in company]
    population, state = _grown(config, task, streams, threads)
    whole = np.full((len(company), 1), (1 << len(task.host.slots)) - 1)
    everybody, training, gamma = np.ones(len(company), bool), config.training, config.reward.gamma
    macs, params = _size(population, task)
    rent = config.reward.rent / config.max_epochs

    points: list[Point] = []
    with closing(population):
        _, accuracy, flops = population.evaluate(everybody, whole, state.alpha, state.algorithm)
        before, objective, discounted = accuracy[:, 0], np.zeros(len(company)), np.zeros(len(company))
        for epoch in range(1, epochs + 1):
            order = [_order(stream, population, training) for stream in streams]
            views = [task.host.views(s.order, len(order[0])) for s in streams] if task.augment else None
            growth = population.grow(state, order, whole, Rates.of(training), training.proximal, views)
            flops = flops + growth.flops + 6.0 * macs * len(order[0])
            reward = config.reward.progress * (growth.accuracy[:, 0] - before) - rent
            before = growth.accuracy[:, 0]
            objective, discounted = objective + reward, discounted + gamma ** (epoch - 1) * reward
            _, test, _ = population.evaluate(everybody, whole, state.alpha, state.algorithm, "test")
            points += [
                Point(
                    seed,
                    epoch,
                    float(flops[env]),
                    float(test[env, 0]),
                    float(objective[env]),
                    float(discounted[env]),
                    params,
                )
                for env, seed in enumerate(seeds)
            ]
    return points


def _grown(config: EnvConfig, task: Task, streams: Sequence[Streams], threads: int) -> tuple[Population, SlotState]:
    """Hosts with all their slots permanent, as if they had been planted and made so before the first epoch."""
    training, count, slots = config.training, len(streams), len(task.host.slots)
    population = Population(
        task.host,
        count,
        chunk=None,
        threads=min(threads, count),
        device=config.device,
        batch_size=training.batch_size or task.batch_size,
        generated=task.source.generated,
    )
    for env, stream in enumerate(streams):
        population.build_host(env, stream.host())
        data = task.source.load(stream.data() if task.source.generated else None)
        population.put_data(env, data, training.val_samples)
        for slot in range(slots):
            population.plant(env, slot, task.budget_blueprint, stream.planting(slot, 1))
    shape = (count, slots)
    return population, SlotState(
        stage=np.full(shape, int(Stage.FOSSILIZED)),
        alpha=np.ones(shape),
        algorithm=np.full(shape, int(Algorithm.ADD)),
        updated=np.ones(shape, bool),
        fossil=np.ones(shape, bool),
    )


def _size(population: Population, task: Task) -> tuple[int, int]:
    """Multiply-adds of one sample, and parameters, of the network with all its seeds."""
    slots = task.host.slots
    blueprint = IMPLEMENTATIONS[task.budget_blueprint, task.host.topology]
    macs = sum(task.host.macs_by_level()) + sum(blueprint.macs(slot.channels, slot.positions) for slot in slots)
    params = int(population.stacks[0].trunk.value.shape[1]) + sum(blueprint.size(slot.channels) for slot in slots)
    return macs, params


def _order(stream: Streams, population: Population, training: Any) -> Any:
    """The samples of an epoch, as the simulation draws them."""
    order = stream.order.permutation(int(population.data[0].tensors["train"][1].shape[1]))
    batches, size = training.batches_per_epoch, training.batch_size
    return order if batches is None else np.resize(order, batches * size)


def episodes(points: Iterable[Point], task: str, max_epochs: int, *, agent: str = "big") -> list[Episode]:
    """The rows of as many epochs as an episode has; comparisons use the epoch of equal FLOPs instead."""
    return [as_episode(point, task, agent) for point in points if point.epoch == max_epochs]


def as_episode(point: Point, task: str, agent: str) -> Episode:
    """A point as if the training had ended there."""
    return Episode(
        agent=agent,
        task=task,
        training_seed=-1,
        evaluation_seed=point.evaluation_seed,
        objective_return=point.objective_return,
        shaped_return=point.shaped_return,
        committed_test_accuracy=point.committed_test_accuracy,
        final_params=point.final_params,
        flops=point.flops,
        env_steps=point.epoch,
    )


def matched(points: Iterable[Point], played: Iterable[Episode]) -> list[Episode]:
    """For every episode, the network of its own seed after the first epoch that has cost at least as much.

    So it never has less to spend than the agent; an agent that spends more than the whole curve is told apart by the
    FLOPs of the row.
    """
    curves: dict[int, list[Point]] = {}
    for point in points:
        curves.setdefault(point.evaluation_seed, []).append(point)
    rows = []
    for episode in played:
        curve = sorted(curves[episode.evaluation_seed], key=lambda point: point.epoch)
        point = next((p for p in curve if p.flops >= episode.flops), curve[-1])
        row = as_episode(point, episode.task, "big")
        rows.append(Episode(**asdict(row) | {"training_seed": episode.training_seed}))
    return rows


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Write a curve."""
    write_table(path, COLUMNS, [asdict(point) for point in points])


def read_points(path: Path) -> list[Point]:
    """The points of a curve."""
    whole = ("evaluation_seed", "epoch", "final_params")
    return [
        Point(**{name: int(value) if name in whole else float(value) for name, value in row.items()})  # type: ignore[arg-type]
        for row in read_table(path, COLUMNS)
    ]
