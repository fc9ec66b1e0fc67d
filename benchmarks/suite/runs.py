"""Run folders: what a run is, where it came from, and what is finished."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reports import machine
from benchmarks.suite.playing import Played
from benchmarks.suite.protocol import VERSION, Contestant
from benchmarks.suite.recordings import key, read_actions, write_actions, write_episodes
from esper_agent.doctor import version
from esper_agent.evaluate import Episode, read_episodes
from esper_agent.files import write_json
from esper_env.arrays import Ints
from esper_env.config import ConfigError

ROOT = Path(__file__).parents[2]
DECISIVE = ("esper_env", "esper_agent", "benchmarks/suite/*.py", "pyproject.toml", "constraints.txt")
"""What results depend on, of all that is in the repository."""
PACKAGES = ("torch", "numpy", "gymnasium", "scikit-learn", "torchrl", "tensordict", "stable-baselines3", "sb3-contrib")


@dataclass(frozen=True)
class Run:
    """One contestant, one task, one training seed."""

    folder: Path
    label: str
    """The contestant's name, with the share of the steps where that is not all."""
    contestant: Contestant
    task: str
    env: Mapping[str, Any]
    """Arguments of the environment in which it is evaluated."""
    seed: int
    steps: int
    full_steps: int
    """Steps that the protocol asks for."""
    evaluation_seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    """The contestant's options, with those that were tuned."""
    num_envs: int = 16
    temperatures: tuple[float, ...] = (1.0,)
    """At which a learned policy may draw when it is evaluated."""
    tuning_seeds: tuple[int, ...] = ()
    """What the temperature is chosen by."""
    version: int = VERSION

    @property
    def training(self) -> Path:
        """Folder of what training writes."""
        return self.folder / "training"

    @property
    def finished(self) -> bool:
        """Are its episodes played? They are written last."""
        return (self.folder / "episodes.csv").exists()

    def describe(self) -> dict[str, Any]:
        """What the run is: a folder begun with another description is not continued."""
        choice = {
            "temperatures": list(self.temperatures),
            "tuning_seeds": [*self.tuning_seeds[:1], len(self.tuning_seeds)],
        }
        return {
            "protocol": self.version,
            "agent": self.label,
            "contestant": {name: value for name, value in asdict(self.contestant).items() if name != "summary"},
            "settings": dict(self.settings),
            "task": self.task,
            "env": dict(self.env),
            "training_seed": self.seed,
            "steps": self.steps,
            "steps_of_the_protocol": self.full_steps,
            "num_envs": self.num_envs,
            **(choice if len(self.temperatures) > 1 else {}),
            "evaluation_seeds": [self.evaluation_seeds[0], len(self.evaluation_seeds)],
        }

    def open(self) -> None:
        """Begin the folder or continue it, noting commit and versions of every session that worked on it.

        Raises:
            ConfigError: when the folder was begun as something else.
        """
        path, present = self.folder / "run.json", json.loads(json.dumps(self.describe()))
        now = session()
        sessions: list[Any] = []
        if path.exists():
            begun = json.loads(path.read_text())
            sessions = begun.pop("sessions")
            for name, value in present.items():
                if begun.get(name) != value:
                    raise ConfigError(
                        f"{self.folder} was begun with {name} = {begun.get(name)!r} and cannot go on with {value!r}: "
                        "move it away, or choose another --runs."
                    )
        if now not in sessions and not self.finished:
            sessions.append(now)
        write_json(path, present | {"sessions": sessions})

    def note_temperature(self, chosen: float, tried: Mapping[float, float]) -> None:
        """Keep at which temperature the policy plays, and what every one returned on tuning seeds."""
        returns = {f"{temperature:g}": value for temperature, value in tried.items()}
        write_json(self._temperature, {"temperature": chosen, "tuning_returns": returns})

    def noted_temperature(self) -> dict[str, Any]:
        """What `note_temperature` kept; nothing for what does not learn."""
        found: dict[str, Any] = json.loads(self._temperature.read_text()) if self._temperature.exists() else {}
        return found

    @property
    def _temperature(self) -> Path:
        return self.folder / "temperature.json"

    def finish(self, played: Played) -> None:
        """Keep the episodes and their actions."""
        if played.actions:  # a static network acts in none
            actions = {key(episode): taken for episode, taken in zip(played.episodes, played.actions, strict=True)}
            write_actions(self.folder / "actions.csv.gz", actions)
        write_episodes(self.folder / "episodes.csv", played.episodes)

    def sessions(self) -> list[Any]:
        """Commits, versions and machines that the run saw."""
        found: list[Any] = json.loads((self.folder / "run.json").read_text())["sessions"]
        return found

    def results(self) -> tuple[list[Episode], dict[tuple[int, int], Ints]]:
        """Episodes and actions of a finished run."""
        actions = self.folder / "actions.csv.gz"
        return read_episodes(self.folder / "episodes.csv"), read_actions(actions) if actions.exists() else {}


def session() -> dict[str, Any]:
    """What results may depend on besides what a run is: commit, versions, machine."""
    return {"commit": commit(), "versions": versions(), "machine": machine()}


def commit() -> str:
    """The commit of the working tree, marked where what decides results differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "-uno", "--", *DECISIVE)
    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if changed else "")


def versions() -> dict[str, str]:
    """Versions that results may depend on."""
    found = {package: version(package) or "missing" for package in PACKAGES}
    return found | {"torch": str(torch.__version__), "numpy": str(np.__version__)}
