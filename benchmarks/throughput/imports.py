"""Figures of starting up, each in fresh interpreters: what imports cost beside torch's, and help beside imports."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np

from benchmarks.throughput.figures import Bar, Figure, Work, interleave

STATEMENTS = {
    "import torch": ("-c", "import torch"),
    "import esper_env": ("-c", "import esper_env"),
    "its classes": ("-c", "from esper_env import SeedEnv, SeedVectorEnv"),
    "esper --help": ("-m", "esper_agent", "--help"),
}


def children() -> float:
    """Processor time of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def imports(rounds: int) -> list[Figure]:
    """Importing the environment against importing torch, with and without its classes; and help beyond that."""
    seconds = interleave({name: _start(*words) for name, words in STATEMENTS.items()}, max(2, rounds // 2), children)
    torch, env, classes, help_ = (seconds[name] for name in STATEMENTS)
    detail = {f"s {name}": float(np.median(values)) for name, values in seconds.items()}
    return [
        Figure("import esper_env against import torch", "×", env / torch, Bar(1.5, at_least=False), detail),
        Figure("with its classes, which need torch", "×", classes / torch, Bar(1.5, at_least=False)),
        Figure("esper --help beyond import esper_env", "s", help_ - env, Bar(1.0, at_least=False)),
    ]


def _start(*words: str) -> Work:
    """A process from its start to its end."""

    def work() -> int:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        return 1

    return work
