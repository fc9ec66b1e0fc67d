"""Measure every figure of speed and memory, print them beside their bars, and write them to a JSON file.

    python -m benchmarks.throughput [--json FILE] [--only NAME ...] [--quick]

Ratios compare things that run in turn in one process, on one thread unless said; medians, with quartiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.reports import RESULTS, table, write_json
from benchmarks.throughput import agent, imports, memory, speed, tasks
from benchmarks.throughput.figures import Figure

ROUNDS, QUICK_ROUNDS = 15, 2
EPISODES, QUICK_EPISODES = 500, 100
PEAK_ENVS = 64

SPEED: dict[str, Callable[[int], list[Figure]]] = {
    "without_seeds": speed.without_seeds,
    "three_blending": speed.three_blending,
    "mixed_styles": speed.mixed_styles,
    "coalitions": speed.coalitions,
    "two_threads": speed.two_threads,
    "observation": speed.observation,
    "beside_the_networks": speed.beside_the_networks,
    "rendering": speed.rendering,
    "photographs": tasks.photographs,
    "texts": tasks.texts,
    "agent": agent.collecting_and_learning,
    "backends": agent.backends,
    "imports": imports.imports,
}
MEMORY = ("memory_growth", "memory_peak")
HEAD = ("figure", "median", "quartiles", "bar", "met", "detail")


def measure(name: str, quick: bool) -> list[Figure]:
    """One group of figures."""
    if name == "memory_growth":
        return memory.memory_growth(QUICK_EPISODES if quick else EPISODES)
    if name == "memory_peak":
        return memory.memory_peak(PEAK_ENVS)
    return SPEED[name](QUICK_ROUNDS if quick else ROUNDS)


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = (*SPEED, *MEMORY)
    parser.add_argument("--json", type=Path, default=RESULTS / "throughput.json", help="where the results go")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run, and about where does it stand")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    for name in arguments.only:
        print(f"measuring {name} …", flush=True)
        figures += measure(name, arguments.quick)
    print("\n" + table(HEAD, [figure.as_line() for figure in figures]))
    write_json(arguments.json, "throughput", {"quick": arguments.quick}, [figure.as_row() for figure in figures])


if __name__ == "__main__":
    main()
