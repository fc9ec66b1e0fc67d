"""How well a grown network ends against how long its seeds trained before they were blended in.

A seed in TRAINING changes nothing yet, and without the proximal term nothing in its gradient feels its own
output. This measures what that costs, on `digits`: final validation accuracy of the committed network, and how
many seeds were made permanent. Gate G2 refuses a seed whose gradients explode, so one that trained too long stays
in TRAINING and is lost.

Two schedules are measured. `early` plants at once, so that longer TRAINING leaves fewer epochs afterwards;
`aligned` plants so that every seed begins to blend at the same epoch, and only the length of TRAINING differs.

    python -m benchmarks.training_length [--json FILE] [--episodes N]
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grower import Grower, simulate
from benchmarks.reports import RESULTS, table, write_json

LENGTHS = (3, 6, 12, 20)
PROXIMAL = (0.0, 0.1, 0.3, 0.5, 1.0)
SCHEDULES = ("early", "aligned")
BLUEPRINTS = ("conv_light", "depthwise", "bottleneck")
EPOCHS = 50


def measure(schedule: str, blueprint: str, proximal: float, length: int, episodes: int) -> dict[str, Any]:
    """Grow all slots of `episodes` hosts and report what is committed in the end."""
    simulation = simulate(
        range(episodes), task="digits", max_epochs=EPOCHS, reward="objective", training={"proximal": proximal}
    )
    grower = Grower([[blueprint]], length, start=max(LENGTHS) - length if schedule == "aligned" else 0)
    objective = np.zeros(episodes)
    for _ in range(EPOCHS):
        simulation.step(grower.act(simulation))
        objective += simulation.counters.objective
    accuracy = simulation.counters.committed_accuracy
    return {
        "schedule": schedule,
        "blueprint": blueprint,
        "proximal": proximal,
        "training_epochs": length,
        "episodes": episodes,
        "committed_accuracy": round(float(accuracy.mean()), 2),
        "deviation": round(float(accuracy.std()), 2),
        "fossilized": float(simulation.counters.fossilized.mean()),
        "objective": round(float(objective.mean()), 3),
    }


def show(rows: list[dict[str, Any]]) -> str:
    """One line per blueprint and λ, one column per length: accuracy as mean ± standard deviation (fossils)."""
    cells = {(row["schedule"], row["blueprint"], row["proximal"], row["training_epochs"]): row for row in rows}
    lines = []
    for kind in product(SCHEDULES, BLUEPRINTS, PROXIMAL):
        if (*kind, LENGTHS[0]) not in cells:
            continue
        found = [cells[*kind, length] for length in LENGTHS]
        lines.append(
            [f"{kind[0]}  {kind[1]}  λ = {kind[2]:g}"]
            + [f"{row['committed_accuracy']:.1f} ± {row['deviation']:.1f} ({row['fossilized']:.1f})" for row in found]
        )
    return table(["epochs of TRAINING", *map(str, LENGTHS)], lines)


def main() -> None:
    """Measure every combination, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / "training_length.json")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--schedule", choices=SCHEDULES, help="measure one schedule only")
    arguments = parser.parse_args()
    schedules = SCHEDULES if arguments.schedule is None else (arguments.schedule,)
    combinations, rows = list(product(schedules, BLUEPRINTS, PROXIMAL, LENGTHS)), []
    for combination in combinations:
        rows.append(measure(*combination, arguments.episodes))
        print(f"\r{len(rows)} of {len(combinations)}", end="", file=sys.stderr, flush=True)
    print("\n" + show(rows))
    settings = {"task": "digits", "epochs": EPOCHS, "slots": 3, "tempo": "STANDARD", "style": "SIGMOID_ADD"}
    write_json(arguments.json, "training_length", settings, rows)


if __name__ == "__main__":
    main()
