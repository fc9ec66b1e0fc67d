"""What `make bench` measured, from the file that it writes."""

from __future__ import annotations

import json
from pathlib import Path

from docs.generator.markdown import table

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "throughput.json"


def speed() -> str:
    """Every figure with its quartiles and its goal, and where they were measured."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    machine = measured["machine"]
    rows = []
    for row in measured["rows"]:
        unit = "×" if row["unit"] == "×" else f" {row['unit']}"
        low, high = row["quartiles"]
        goal = "" if row["bar"] is None else f"{row['bar']}, {'met' if row['met'] else '**missed**'}"
        rows.append((row["name"], f"{row['value']:.3g}{unit}", f"{low:.3g} to {high:.3g}", goal))
    where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}"
    return f"{table(('Figure', 'Median', 'Quartiles', 'Goal'), rows)}\n\nMeasured on: {where}."
