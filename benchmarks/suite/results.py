"""The folder of results: for every agent its episodes, the actions they were played with, and how it learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reports import RESULTS
from benchmarks.suite.protocol import LATE
from benchmarks.suite.recordings import (
    Key,
    read_actions,
    read_table,
    write_actions,
    write_episodes,
    write_table,
)
from benchmarks.suite.runs import Run
from benchmarks.suite.static import Point, read_points
from esper_agent.evaluate import Episode, read_episodes
from esper_agent.files import locked, write_json
from esper_agent.loggers import read_metrics
from esper_env.arrays import Ints
from esper_env.config import ConfigError

__all__ = ["RESULTS", "Agent", "publish", "put", "read_agents"]

MANIFEST = "agent.json"
RETURN = "episode/objective_return"
METRICS = tuple(dict.fromkeys([RETURN, *(m for late in LATE for m in (late.metric, late.relative_to) if m)]))
CURVE_COLUMNS = ("training_seed", "steps", *METRICS)


@dataclass(frozen=True)
class Agent:
    """What an agent has handed in."""

    folder: Path
    name: str
    manifest: Mapping[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Tasks that it has results for."""
        return sorted(path.stem for path in self.folder.glob("*.csv"))

    def episodes(self, task: str) -> list[Episode]:
        """Its held-out episodes."""
        return read_episodes(self.folder / f"{task}.csv")

    def actions(self, task: str) -> dict[tuple[int, int], Ints]:
        """What it did in them."""
        path = self.folder / f"{task}.actions.csv.gz"
        return read_actions(path) if path.exists() else {}

    def curves(self, task: str) -> dict[int, list[dict[str, float]]]:
        """How it learned: by training seed, the metrics of every update."""
        path = self.folder / f"{task}.curves.csv.gz"
        found: dict[int, list[dict[str, float]]] = {}
        for row in read_table(path, CURVE_COLUMNS) if path.exists() else []:
            numbers = {name: float(value) for name, value in row.items() if value and name != "training_seed"}
            found.setdefault(int(row["training_seed"]), []).append(numbers)
        return found

    def points(self, task: str) -> list[Point]:
        """The curve of a static network."""
        path = self.folder / f"{task}.curve.csv.gz"
        return read_points(path) if path.exists() else []

    def runs(self, task: str) -> list[Mapping[str, Any]]:
        """Where its results on a task came from, a line per training seed."""
        return list(self.manifest.get("runs", {}).get(task, {}).values())


def read_agents(results: Path = RESULTS) -> list[Agent]:
    """Everybody who has handed in results."""
    return [read_agent(path.parent) for path in sorted(results.glob(f"*/{MANIFEST}"))]


def read_agent(folder: Path) -> Agent:
    """The results in a folder."""
    path = folder / MANIFEST
    if not path.exists():
        raise ConfigError(
            f"There are no results in {folder}: {MANIFEST} is missing. benchmarks/suite/SUBMISSION.md tells what "
            "belongs there."
        )
    try:
        manifest = json.loads(path.read_text())
        return Agent(folder, str(manifest["agent"]), manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} does not describe an agent ({type(error).__name__}: {error}).") from error


def publish(run: Run, results: Path = RESULTS) -> None:
    """Put a finished run among the results, in place of an earlier one of the same task and seed."""
    episodes, actions = run.results()  # before anything goes, for they may not be whole
    share = run.steps / run.full_steps if run.full_steps else 1.0
    origin = {"steps": run.steps, "share_of_steps": share, "settings": dict(run.settings), "sessions": run.sessions()}
    about = {
        "agent": run.label,
        "summary": run.contestant.summary,
        "protocol": run.version,
        "plans": run.contestant.plans,
        "static": run.contestant.kind == "static",
    }
    with locked(results, wait=True):
        folder = put(results, about, run.task, run.seed, origin | run.noted_temperature(), episodes, actions)
        _publish_curve(run, folder / f"{run.task}.curves.csv.gz")
        if (run.folder / "curve.csv.gz").exists():
            shutil.copyfile(run.folder / "curve.csv.gz", folder / f"{run.task}.curve.csv.gz")


def put(
    results: Path,
    about: Mapping[str, Any],
    task: str,
    training_seed: int,
    origin: Mapping[str, Any],
    episodes: Sequence[Episode],
    actions: Mapping[Key, Ints],
) -> Path:
    """Put an agent's held-out episodes among the results, in place of those of the same task and training seed.

    What the agent handed in under another version of the protocol goes. Whoever calls holds the lock of `results`.

    Args:
        results: folder of results.
        about: the head of the agent's manifest.
        task: of the protocol.
        training_seed: of the training that played, -1 where there was none.
        origin: where the episodes came from, for the manifest.
        episodes: what was reached in them.
        actions: what was done in them; none for a static network.

    Returns:
        The agent's folder.
    """
    folder = results / str(about["agent"])
    remove_other_versions(folder, about["protocol"])
    manifest, rows, recorded = folder / MANIFEST, folder / f"{task}.csv", folder / f"{task}.actions.csv.gz"
    others = [row for row in (read_episodes(rows) if rows.exists() else []) if row.training_seed != training_seed]
    if actions:
        kept = read_actions(recorded) if recorded.exists() else {}
        write_actions(recorded, {k: taken for k, taken in kept.items() if k[0] != training_seed} | dict(actions))
    runs = json.loads(manifest.read_text())["runs"] if manifest.exists() else {}
    runs.setdefault(task, {})[str(training_seed)] = dict(origin)
    ordered = {name: dict(sorted(runs[name].items(), key=lambda item: int(item[0]))) for name in sorted(runs)}
    write_json(manifest, dict(about) | {"runs": ordered})
    write_episodes(rows, [*others, *episodes])
    return folder


def remove_other_versions(folder: Path, version: int) -> None:
    """Remove what an agent handed in under another version of the protocol."""
    if (folder / MANIFEST).exists() and read_agent(folder).manifest.get("protocol") != version:
        # The manifest goes last: where this was killed before, it is done again.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            path.unlink()


def _publish_curve(run: Run, path: Path) -> None:
    source = run.training / "metrics.csv"
    if not source.exists():
        return
    others = read_table(path, CURVE_COLUMNS) if path.exists() else []
    rows: list[Mapping[str, Any]] = [row for row in others if int(row["training_seed"]) != run.seed]
    for row in read_metrics(source):
        rows.append({"training_seed": run.seed} | {name: row.get(name) or "" for name in CURVE_COLUMNS[1:]})
    write_table(path, CURVE_COLUMNS, sorted(rows, key=lambda row: (int(row["training_seed"]), float(row["steps"]))))
