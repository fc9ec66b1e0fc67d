"""Figures of speed: ratios of things that run in turn, and what a step spends beside its networks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
import torch

from benchmarks.grower import Grower
from benchmarks.throughput.figures import Bar, Figure, Work, interleave, ratio
from benchmarks.throughput.naive_observation import observe
from benchmarks.throughput.states import (
    ADD,
    MIXES,
    SHORT,
    TASK,
    Styles,
    alone,
    blending,
    naive,
    naive_steps,
    rotated,
    steps,
)
from esper_env.actions import HEAD_INDEX, Style, head_sizes
from esper_env.env import SeedEnv
from esper_env.growth.population import Growth
from esper_env.observation import encode
from esper_env.simulation import Simulation

MANY = 32
OBSERVED, OBSERVED_MORE = 64, 1024
ACTIVE_SETS = (0b111, 0b011, 0b101, 0b110, 0b001, 0b010, 0b100, 0b000)


def without_seeds(rounds: int) -> list[Figure]:
    """Hosts alone: many stacked, one, and the naive environment."""
    sides = {
        "naive": naive_steps([naive()]),
        "K=1": steps([alone(1)], 4),
        f"K={MANY}": steps([alone(MANY)]),
    }
    many, _, stacked = _compared("no seeds", sides, rounds)
    return [_with_bar(many, 4.0), _with_bar(stacked, 7.0)]


def three_blending(rounds: int) -> list[Figure]:
    """Three blending seeds of mixed blueprints: many stacked, one, and the naive environment."""
    many, single, stacked = _compared("three blending seeds", _blending_sides(ADD), rounds)
    return [_with_bar(many, 2.0), _with_bar(stacked, 6.0), _with_bar(single, 2.2)]


def mixed_styles(rounds: int) -> list[Figure]:
    """The same with all styles mixed as well."""
    return _compared("three blending seeds, all styles", _blending_sides(tuple(Style)), rounds)


def _blending_sides(styles: Styles) -> dict[str, Work]:
    return {
        "naive": naive_steps([naive(mix, rotated(styles, i), i) for i, mix in enumerate(MIXES)]),
        "K=1": steps([blending(1, [mix], rotated(styles, i)) for i, mix in enumerate(MIXES)]),
        f"K={MANY}": steps([blending(MANY, MIXES, styles)]),
    }


def _compared(state: str, sides: dict[str, Work], rounds: int) -> list[Figure]:
    """K = many against 1, 1 against naive, and many against naive."""
    seconds = interleave(sides, rounds)
    many = f"K={MANY}"

    def against(slow: str, fast: str) -> Figure:
        detail = {f"ms {side}": 1e3 * float(np.median(seconds[side])) for side in (slow, fast)}
        return Figure(f"{state}: {fast} against {slow}", "×", seconds[slow] / seconds[fast], detail=detail)

    return [against("K=1", many), against("naive", "K=1"), against("naive", many)]


def _with_bar(figure: Figure, at_least: float) -> Figure:
    return Figure(figure.name, figure.unit, figure.samples, Bar(at_least), figure.detail)


def coalitions(rounds: int) -> list[Figure]:
    """All coalitions against one validation pass of the main networks."""
    states = {
        "K=1, conv_light": blending(1, [["conv_light"]]),
        f"K={MANY}, conv_light": blending(MANY, [["conv_light"]]),
        f"K={MANY}, mixed blueprints": blending(MANY),
        f"K={MANY}, mixed active sets": blending(MANY, active=ACTIVE_SETS),
    }
    return [
        ratio(
            f"8 coalitions against one pass: {name}",
            {"all": _evaluations(state, everything=True), "main": _evaluations(state, everything=False)},
            3 * rounds,
            Bar(2.6, at_least=False),
        )
        for name, state in states.items()
    ]


def _evaluations(simulation: Simulation, *, everything: bool) -> Work:
    active = simulation.alpha() > 0
    main = (active @ (1 << np.arange(simulation.num_slots)))[:, None]
    masks = np.arange(1 << simulation.num_slots) & main if everything else main
    count = max(1, 16 // simulation.envs)

    def work() -> int:
        for _ in range(count):
            simulation.population.evaluate(
                np.ones(simulation.envs, bool), masks, simulation.alpha(), simulation.slots.algorithm
            )
        return count * simulation.envs

    return work


def two_threads(rounds: int) -> list[Figure]:
    """One thread against two, and against two processes with half of the hosts each, by the clock on the wall.

    What two processes gain over one thread is what the machine has to give: they share neither Python nor memory.
    """
    states: dict[str, Callable[..., Simulation]] = {"no seeds": alone, "three blending seeds": blending}
    figures = []
    for name, make in states.items():
        with TwoProcesses(make, MANY // 2) as processes:
            sides = {
                "1 thread": steps([make(MANY)]),
                "2 threads": steps([make(MANY, threads=2)]),
                "2 processes": processes.work,
            }
            seconds = interleave(sides, rounds, clock=time.perf_counter, settled=True)
        for other, bar in (("2 threads", Bar(1.7)), ("2 processes", None)):
            detail = {f"ms {side}": 1e3 * float(np.median(seconds[side])) for side in ("1 thread", other)}
            samples = seconds["1 thread"] / seconds[other]
            figures.append(Figure(f"two {other[2:]} against one thread, K={MANY}: {name}", "×", samples, bar, detail))
    return figures


class TwoProcesses:
    """Two processes that take a step each whenever they are told to, with as many hosts each."""

    def __init__(self, make: Callable[..., Simulation], envs: int) -> None:
        context = get_context("spawn")
        self.envs = envs
        self.pipes, self.theirs = zip(*(context.Pipe() for _ in range(2)), strict=True)
        self.processes = [context.Process(target=_step_when_told, args=(make, envs, pipe)) for pipe in self.theirs]

    def __enter__(self) -> Self:
        for process, pipe in zip(self.processes, self.theirs, strict=True):
            process.start()
            pipe.close()  # or nobody would hear that a process has died
        self.work()  # when this is done, both are ready
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(False)
            process.join()

    def work(self) -> int:
        """Work: one step of both at the same time."""
        for pipe in self.pipes:
            pipe.send(True)
        for pipe in self.pipes:
            pipe.recv()
        return 2 * self.envs


def _step_when_told(make: Callable[..., Simulation], envs: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    work = steps([make(envs)])
    while pipe.recv():
        pipe.send(work())


def observation(rounds: int) -> list[Figure]:
    """Encoding the observation against the naive environment's code, all slots active.

    For more environments than the bar asks about as well: there it is seen how much of it is the calls themselves.
    """
    simulation, env = blending(OBSERVED), naive(MIXES[0])
    for _ in range(10):
        env.step()
    records = [env.record] * OBSERVED
    more = np.resize(np.arange(OBSERVED), OBSERVED_MORE)
    signals, slots = simulation.signals.take(more), simulation.slots.take(more)

    def per_element() -> int:
        np.array([observe(record, 50, 1_000.0) for record in records], np.float32)
        return OBSERVED

    def encoded() -> int:
        for _ in range(20):
            simulation.features()
        return 20 * OBSERVED

    def encoded_more() -> int:
        encode(signals, slots, max_epochs=50, budget=1_000.0)
        return OBSERVED_MORE

    sides = {"per element": per_element, "encoded": encoded, f"encoded, {OBSERVED_MORE}": encoded_more}
    seconds = interleave(sides, 10 * rounds)
    slow, quick, quicker = seconds.values()
    detail = {f"µs {side}": 1e6 * float(np.median(values)) for side, values in seconds.items()}
    return [
        Figure(f"observation of {OBSERVED}: against per element", "×", slow / quick, Bar(50), detail),
        Figure(f"observation of {OBSERVED}: per environment", "µs", 1e6 * quick, Bar(3, at_least=False)),
        Figure(f"observation of {OBSERVED_MORE}: against per element", "×", slow / quicker),
    ]


class Stopwatch:
    """Processor time spent inside a simulation's networks, training and evaluating them."""

    def __init__(self, simulation: Simulation) -> None:
        self.seconds = 0.0
        for name in ("grow", "evaluate"):
            setattr(simulation.population, name, self._timed(getattr(simulation.population, name)))

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object) -> object:
            begun = time.process_time()
            result = function(*arguments)
            self.seconds += time.process_time() - begun
            return result

        return timed

    def split(self, work: Work) -> tuple[float, float]:
        """Seconds of a piece of work outside the networks, and altogether."""
        self.seconds, begun = 0.0, time.process_time()
        work()
        whole = time.process_time() - begun
        return whole - self.seconds, whole


def beside_the_networks(rounds: int) -> list[Figure]:
    """What a step spends on everything but training and evaluating networks.

    For one host also with epochs that only repeat the outcome of the first, without training: what training leaves
    of the caches is the difference.
    """
    figures = []
    states: dict[str, Callable[[int], Simulation]] = {"no seeds": alone, "three blending seeds": blending}
    for name, make in states.items():
        for envs in (MANY, 1):
            simulation = make(envs)
            figures.append(_beside(f"{name}, K={envs}", simulation, steps([simulation], max(1, 8 // envs)), rounds))
        repeat_epochs(simulation)
        work = steps([simulation], 8)
        figures.append(_beside(f"{name}, K=1, warm caches", simulation, work, rounds, barred=False))
    simulation = alone(MANY)
    figures.append(_beside(f"random play, K={MANY}", simulation, random_play(simulation, 4), rounds, barred=False))
    return figures


def repeat_epochs(simulation: Simulation) -> None:
    """Let a simulation train for one epoch more, and then give it the outcome of that one instead of training."""
    train, outcomes = simulation.population.grow, list[Growth]()

    def grow(*arguments: Any) -> Growth:
        if not outcomes:
            outcomes.append(train(*arguments))
        return copy.deepcopy(outcomes[0])

    setattr(simulation.population, "grow", grow)  # noqa: B010 - mypy lets no method be assigned


def _beside(name: str, simulation: Simulation, work: Work, rounds: int, *, barred: bool = True) -> Figure:
    stopwatch = Stopwatch(simulation)
    units = work()
    outside, whole = np.array([stopwatch.split(work) for _ in range(rounds)]).T
    per_step = 1e3 * simulation.envs / units
    detail = {"ms outside": per_step * float(np.median(outside)), "ms step": per_step * float(np.median(whole))}
    if simulation.envs > 1:
        bar = Bar(5, at_least=False) if barred else None
        return Figure(f"beside the networks: {name}", "%", 100 * outside / whole, bar, detail)
    bar = Bar(0.7, at_least=False) if barred else None
    return Figure(f"beside the networks: {name}", "ms", per_step * outside, bar, detail)


def rendering(rounds: int) -> list[Figure]:
    """A picture of an episode, over all epochs of a host that grows; every round is another episode."""
    env = SeedEnv(task=TASK, training=SHORT, render_mode="rgb_array")
    grower, samples = Grower(MIXES[:1], training_epochs=3), []
    for seed in range(rounds + 1):
        env.reset(seed=seed)
        seconds, over = [], False
        while not over:
            over = env.step(grower.act(env._simulation)[0])[2]
            begun = time.process_time()
            env.render()
            seconds.append(time.process_time() - begun)
        samples.append(1e3 * float(np.mean(seconds)))
    return [Figure("a frame of rgb_array", "ms", np.array(samples[1:]), Bar(20, at_least=False))]


def random_play(simulation: Simulation, count: int, seed: int = 0) -> Work:
    """Work: random legal actions, all pairs of op and slot alike, waiting seldom."""
    rng = np.random.default_rng(seed)
    sizes = head_sizes(simulation.num_slots, len(simulation.blueprints))
    plantable = np.flatnonzero(simulation.plantable)

    def work() -> int:
        for _ in range(count):
            weights = simulation.legality() * rng.random((simulation.envs, 6, simulation.num_slots))
            weights[:, 0] *= 1e-3
            op, slot = np.divmod(weights.reshape(simulation.envs, -1).argmax(1), simulation.num_slots)
            action = rng.integers(0, sizes, (simulation.envs, len(sizes)))
            action[:, HEAD_INDEX["op"]], action[:, HEAD_INDEX["slot"]] = op, slot
            action[:, HEAD_INDEX["blueprint"]] = rng.choice(plantable, simulation.envs)
            simulation.step(action)
            simulation.features()
            simulation.masks()
        return count * simulation.envs

    return work
