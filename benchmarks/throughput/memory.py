"""Figures of memory, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.grower import simulate
from benchmarks.throughput.figures import Bar, Figure
from benchmarks.throughput.speed import random_play
from benchmarks.throughput.states import blending, steps

WARM_UP = 0.2
"""Share of the episodes that come before, so that allocators have seen what they will see."""
STACKED = 4
EPOCHS = 12


def resident(field: str = "VmRSS") -> float:
    """Resident memory of this process in MB: `VmRSS` now, `VmHWM` at its peak.

    Linux only. The peak of getrusage would not do: a new process inherits it from the one that starts it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}.")


def growth(episodes: int) -> dict[str, float]:
    """Resident memory over short episodes of random play, mostly planting and pruning."""
    training = {"batch_size": 16, "batches_per_epoch": 1, "val_samples": 16}
    seeds = range(STACKED)
    simulation = simulate(seeds, task="digits", max_epochs=EPOCHS, training=training, lifecycle={"embargo_epochs": 1})
    everyone, work = np.ones(STACKED, bool), random_play(simulation, EPOCHS)
    planted = 0

    def play(count: int) -> None:
        nonlocal planted
        for episode in range(0, count, STACKED):
            simulation.reset(everyone, [episode + seed for seed in seeds])
            work()
            planted += int(simulation.counters.created.sum())

    play(int(WARM_UP * episodes))
    before = resident()
    planted = 0
    play(episodes)
    return {"value": resident() - before, "MB before": before, "planted": planted}


def peak(envs: int) -> dict[str, float]:
    """Peak memory of a simulation of many hosts, every slot blending."""
    imported = resident()
    work = steps([blending(envs)], 3)
    work()
    return {"value": resident("VmHWM"), "MB imports": imported}


MEASUREMENTS: dict[str, Callable[[int], dict[str, float]]] = {"growth": growth, "peak": peak}


def in_own_process(measurement: str, argument: int) -> dict[str, float]:
    """Run a measurement in a fresh interpreter."""
    command = [sys.executable, "-m", "benchmarks.throughput.memory", measurement, str(argument)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def memory_growth(episodes: int) -> list[Figure]:
    """Growth over many episodes."""
    return [_figure(f"memory growth over {episodes} episodes", in_own_process("growth", episodes), 20)]


def memory_peak(envs: int) -> list[Figure]:
    """Peak at many hosts."""
    return [_figure(f"peak memory at K={envs}", in_own_process("peak", envs), 1000)]


def _figure(name: str, found: dict[str, float], limit: float) -> Figure:
    return Figure(name, "MB", np.array([found.pop("value")]), Bar(limit, at_least=False), found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(MEASUREMENTS[sys.argv[1]](int(sys.argv[2]))))
