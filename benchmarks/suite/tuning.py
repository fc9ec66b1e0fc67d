"""Settings chosen by grid on tuning seeds: every setting that was tried is a line, and a killed search goes on.

A grid is a list of stages. Each stage varies some of the settings of the best so far, all combinations of them; what
has been tried already is not tried again.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.suite.protocol import Contestant, Protocol
from esper_agent.files import replacing, write_json
from esper_agent.spec import EnvSpec
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.options import resolve

FOLDER = Path(__file__).parent / "tuned"
TUNING_TRAINING_SEED = 700
"""Learners are tuned with a training seed of their own: its hosts begin at 700,000."""

Settings = Mapping[str, Any]
Stage = Sequence[tuple[str, Sequence[Any]]]
"""Names of settings, and the values of each."""


class Tried(NamedTuple):
    """A line of the table: a setting, what it returned, and the version of the protocol it was tried under."""

    settings: str
    objective_return: float
    protocol: int


@dataclass(frozen=True)
class Grid:
    """What is varied, from where, and how a setting is judged."""

    start: Settings
    stages: Callable[[int], Sequence[Stage]]
    """From the number of slots."""
    judge: Callable[[Settings, Mapping[str, Any], Protocol, Path, int], float]
    """Mean objective return on the tuning seeds: of settings, environment, protocol, a folder, threads."""


@dataclass(frozen=True)
class Search:
    """The search for a contestant's settings on a task."""

    contestant: Contestant
    task: str
    protocol: Protocol
    folder: Path = FOLDER

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.contestant.name}-{self.task}"

    @property
    def table(self) -> Path:
        """Every setting that was tried."""
        return self.folder / f"{self.name}.csv"

    @property
    def result(self) -> Path:
        """The settings chosen, written when all stages are through."""
        return self.folder / f"{self.name}.json"

    @property
    def finished(self) -> bool:
        """Have settings been chosen that still count?"""
        return self.result.exists() and self._counts(json.loads(self.result.read_text()))

    def run(
        self, *, scratch: Path, threads: int = 1, deadline: float = float("inf"), show: Callable[[str], None] = print
    ) -> bool:
        """Try what has not been tried; False when the deadline came first."""
        grid, env = GRIDS[self.contestant.grid], self.protocol.env_options(self.task)
        slots = len(resolve(env)[1].host.slots)
        tried, best = self._tried(), dict(grid.start)
        for stage in grid.stages(slots):
            settings = list(variations(best, stage))
            for setting in settings:
                word = json.dumps(setting, sort_keys=True)
                if word not in tried:
                    if time.monotonic() > deadline:
                        return False
                    place = scratch / f"{self.name}-version{self.protocol.tuned_since}"
                    value = grid.judge(setting, env, self.protocol, place, threads)
                    tried[word] = Tried(word, value, self.protocol.version)
                    self._write(tried.values())
                    show(f"{value:7.3f}  {word}")
            words = [json.dumps(setting, sort_keys=True) for setting in settings]
            best = json.loads(max(words, key=lambda word: tried[word].objective_return))
        chosen = json.dumps(best, sort_keys=True)
        seeds = self.protocol.tuning_seeds()
        write_json(
            self.result,
            {
                "protocol": self.protocol.version,
                "settings": best,
                "objective_return": tried[chosen].objective_return,
                "tried": len(tried),
                "tuning_seeds": [seeds[0], len(seeds)],
            },
        )
        return True

    def settings(self) -> dict[str, Any]:
        """The settings that were chosen."""
        if not self.result.exists():
            raise ConfigError(
                f"{self.contestant.name} is not tuned on {self.task}: "
                f"esper bench tune --agent {self.contestant.name} --task {self.task}"
            )
        found = json.loads(self.result.read_text())
        if not self._counts(found):
            raise ConfigError(
                f"{self.result} was chosen under version {found['protocol']} of the protocol, and what settings are "
                f"chosen by has changed since: esper bench tune --agent {self.contestant.name} --task {self.task}"
            )
        chosen: dict[str, Any] = found["settings"]
        return chosen

    def _counts(self, found: Mapping[str, Any]) -> bool:
        return int(found["protocol"]) >= self.protocol.tuned_since

    def _tried(self) -> dict[str, Tried]:
        if not self.table.exists():
            return {}
        with self.table.open(newline="") as file:
            rows = [
                Tried(row["settings"], float(row["objective_return"]), int(row["protocol"]))
                for row in csv.DictReader(file)
                if self._counts(row)
            ]
        return {row.settings: row for row in rows}

    def _write(self, tried: Iterable[Tried]) -> None:
        with replacing(self.table) as file:
            csv.writer(file, lineterminator="\n").writerows([Tried._fields, *tried])


def variations(best: Settings, stage: Stage) -> Iterable[dict[str, Any]]:
    """The best settings with all combinations of a stage's values; a name such as `blueprints.1` is an element."""
    for values in itertools.product(*(choices for _, choices in stage)):
        varied = json.loads(json.dumps(dict(best)))
        for (name, _), value in zip(stage, values, strict=True):
            list_name, dot, index = name.partition(".")
            if dot:
                varied[list_name][int(index)] = value
            else:
                varied[name] = value
        yield varied


# The grids

SPATIAL = ("conv_light", "depthwise", "bottleneck", "conv_heavy")
PLAIN = ("attention", "norm", "conv_small")


def _script_stages(slots: int) -> list[Stage]:
    """Where to plant one blueprint, then which in each slot (twice round), then how."""
    subsets = [
        [name if mask >> slot & 1 else "" for slot in range(slots)] for name in SPATIAL for mask in range(1, 1 << slots)
    ]
    choices = ("", *SPATIAL, *PLAIN)
    each = [[(f"blueprints.{slot}", choices)] for slot in range(slots)]
    how: Stage = [
        ("style", ("LINEAR_ADD", "LINEAR_MULTIPLY", "SIGMOID_ADD", "GATED_GATE")),
        ("tempo", (0, 1, 2)),
        ("training_epochs", (3, 6, 10)),
    ]
    return [[("blueprints", [[""] * slots, *subsets])], *each, *each, how, [("start", (0, 2, 5, 10, 15))]]


def _judge_script(settings: Settings, env: Mapping[str, Any], protocol: Protocol, folder: Path, threads: int) -> float:
    from benchmarks.suite.playing import play
    from benchmarks.suite.script import Script

    policy = Script(EnvSpec.of(SeedEnv(**env)), **settings)
    played = play(policy, env, protocol.tuning_seeds(), agent="script", threads=threads)
    return float(np.mean([episode.objective_return for episode in played.episodes]))


MASKABLE_STAGES: tuple[Stage, ...] = (
    (("learning_rate", (3e-4, 5e-4, 1e-3)), ("ent_coef", (0.0, 0.01))),
    (("batch_size", (80, 200, 400)), ("rollout", (800, 2_000, 4_000))),
    (("net_arch", ([64, 64], [128, 128], [256, 256])),),
    (("gae_lambda", (0.95, 1.0)),),
)


def _judge_maskable(
    settings: Settings, env: Mapping[str, Any], protocol: Protocol, folder: Path, threads: int
) -> float:
    from benchmarks.suite.maskable import load_maskable, train_maskable
    from benchmarks.suite.playing import tuned_returns

    words = json.dumps(dict(settings), sort_keys=True)
    place = folder / hashlib.sha256(words.encode()).hexdigest()[:16]  # the same in every process
    train_maskable(
        place,
        settings,
        env,
        steps=protocol.tuning_steps,
        seed=TUNING_TRAINING_SEED,
        num_envs=protocol.num_envs,
        threads=threads,
        show=lambda line: None,
    )
    policy, seeds = load_maskable(place), protocol.tuning_seeds()
    return max(tuned_returns(policy, env, seeds, protocol.temperatures, threads=threads).values())


GRIDS = {
    "schedule": Grid(
        {"blueprints": [""], "style": "SIGMOID_ADD", "tempo": 1, "training_epochs": 3, "start": 0},
        _script_stages,
        _judge_script,
    ),
    "maskable": Grid(
        {
            "gamma": 0.995,
            "gae_lambda": 0.95,
            "n_epochs": 6,
            "learning_rate": 5e-4,
            "ent_coef": 0.01,
            "batch_size": 200,
            "rollout": 2_000,
            "net_arch": [128, 128],
        },
        lambda slots: MASKABLE_STAGES,
        _judge_maskable,
    ),
}
