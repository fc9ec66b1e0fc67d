"""Is there something to win? Waiting against a scripted grower on two tasks.

On `digits` waiting must end low and growing high; on `digits_capable` growing must cost more than it brings.

    python -m benchmarks.worth_playing [--json FILE] [--episodes N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grower import Grower, simulate, waiting
from benchmarks.reports import RESULTS, table, write_json
from esper_env.arrays import Ints
from esper_env.simulation import Simulation

TASKS = ("digits", "digits_capable")
EPOCHS = 50
GROWER = Grower([["conv_light"]], training_epochs=6)
POLICIES: dict[str, Callable[[Simulation], Ints]] = {
    "wait": lambda simulation: waiting(simulation.envs),
    "grow": GROWER.act,
}


def play(task: str, policy: str, episodes: int) -> dict[str, Any]:
    """Play whole episodes and report what they came to, each a list over the seeds 0, 1, 2, …"""
    simulation = simulate(range(episodes), task=task, max_epochs=EPOCHS, reward="objective")
    returns = np.zeros(episodes)
    for _ in range(EPOCHS):
        returns += simulation.step(POLICIES[policy](simulation)).reward
    counters = simulation.counters
    return {
        "task": task,
        "policy": policy,
        "committed_accuracy": counters.committed_accuracy.round(2).tolist(),
        "test_accuracy": counters.test_accuracy.round(2).tolist(),
        "objective_return": returns.round(4).tolist(),
        "fossilized": counters.fossilized.tolist(),
    }


def show(rows: list[dict[str, Any]]) -> str:
    """One line per task and policy: mean ± standard deviation, and the range of the accuracy."""
    lines = []
    for row in rows:
        accuracy, returns = np.array(row["committed_accuracy"]), np.array(row["objective_return"])
        lines.append(
            [
                f"{row['task']}: {row['policy']}",
                f"{accuracy.mean():.1f} ± {accuracy.std():.1f}",
                f"{accuracy.min():.1f} to {accuracy.max():.1f}",
                f"{np.mean(row['test_accuracy']):.1f}",
                f"{returns.mean():.2f} ± {returns.std():.2f}",
            ]
        )
    return table(["", "committed accuracy", "range", "test accuracy", "objective return"], lines)


def verdicts(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What must hold for the task to be worth playing."""
    found = {(row["task"], row["policy"]): row for row in rows}

    def mean(task: str, policy: str, quantity: str) -> float:
        return float(np.mean(found[task, policy][quantity]))

    return {
        "digits: waiting ends at 25 to 50 %": 25 <= mean("digits", "wait", "committed_accuracy") <= 50,
        "digits: growing ends above 80 %": mean("digits", "grow", "committed_accuracy") > 80,
        "digits: growing returns more than waiting": mean("digits", "grow", "objective_return")
        > mean("digits", "wait", "objective_return"),
        "digits_capable: growing returns less than waiting": mean("digits_capable", "grow", "objective_return")
        < mean("digits_capable", "wait", "objective_return"),
    }


def main() -> None:
    """Play every combination, print the table and the verdicts, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / "worth_playing.json")
    parser.add_argument("--episodes", type=int, default=10)
    arguments = parser.parse_args()
    rows = [play(task, policy, arguments.episodes) for task in TASKS for policy in POLICIES]
    print(show(rows), end="\n\n")
    held = verdicts(rows)
    print("\n".join(f"{'yes' if holds else 'NO '}  {sentence}" for sentence, holds in held.items()))
    settings = {"epochs": EPOCHS, "blueprint": "conv_light", "training_epochs": GROWER.training_epochs}
    write_json(arguments.json, "worth_playing", settings | {"verdicts": held}, rows)


if __name__ == "__main__":
    main()
