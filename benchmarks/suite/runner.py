"""Running the protocol: entries become runs, runs are worked on, and what is finished goes to the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite import scaffold
from benchmarks.suite.contestants import KINDS, Work
from benchmarks.suite.protocol import PROTOCOL, Entry, Protocol, scaled, unscaled
from benchmarks.suite.results import RESULTS, publish
from benchmarks.suite.runs import Run
from benchmarks.suite.tuning import FOLDER, Search
from esper_agent.files import locked
from esper_env.config import ConfigError


@dataclass(frozen=True)
class Runner:
    """A protocol, the folders it is run in, and the share of its steps."""

    protocol: Protocol = PROTOCOL
    runs: Path = Path("runs/bench")
    results: Path = RESULTS
    tuned: Path = FOLDER
    budget: float = 1.0

    def __post_init__(self) -> None:
        scaffold.register()

    def search(self, agent: str, task: str) -> Search:
        """The search for a contestant's settings."""
        contestant = self.protocol.contestant(agent)
        if not contestant.grid:
            raise ConfigError(f"{agent} has nothing to tune.")
        return Search(contestant, contestant.tuned_on or task, self.protocol, self.tuned)

    def untuned(self, entry: Entry) -> bool:
        """Must the contestant be tuned before it can run?"""
        agent = unscaled(entry.agent)[0]
        return bool(self.protocol.contestant(agent).grid) and not self.search(agent, entry.task).finished

    def run(self, entry: Entry, seed: int) -> Run:
        """The run of an entry with one training seed."""
        if seed not in entry.seeds:
            raise ConfigError(
                f"The protocol has no training seed {seed} for {entry.agent} on {entry.task}; it has "
                f"{', '.join(map(str, entry.seeds))}."
            )
        contestant, less = self.protocol.contestant(entry.agent), scaled(entry, self.budget)
        tuned = self.search(entry.agent, entry.task).settings() if contestant.grid else {}
        folder = self.runs / entry.task / less.agent
        return Run(
            folder=folder / f"seed{seed}" if seed >= 0 else folder,
            label=less.agent,
            contestant=contestant,
            task=entry.task,
            env=self.protocol.env_options(entry.task),
            seed=seed,
            steps=less.steps,
            full_steps=entry.steps,
            evaluation_seeds=tuple(self.protocol.held_out_seeds()),
            settings={**contestant.options, **tuned},
            num_envs=self.protocol.num_envs,
            temperatures=self.protocol.temperatures,
            tuning_seeds=tuple(self.protocol.tuning_seeds()),
            version=self.protocol.version,
        )

    def work(
        self,
        agents: Iterable[str],
        tasks: Iterable[str] = (),
        seeds: Iterable[int] = (),
        *,
        threads: int = 1,
        minutes: float = float("inf"),
        show: Callable[[str], None] = print,
    ) -> bool:
        """Work on the runs of these agents, one after another, until they are finished or time is up.

        Args:
            agents: contestants.
            tasks: of the protocol; all that it has for an agent when empty.
            seeds: training seeds; all of the entry when empty.
            threads: stacks of hosts run at the same time.
            minutes: time after which what is being trained stops at its next checkpoint.
            show: told of progress.

        Returns:
            Is everything that was asked for finished?
        """
        deadline, finished, begun = time.monotonic() + 60 * minutes, True, False
        for run in list(self.runs_of(agents, tasks, seeds)):  # all are named before the first begins
            if run.finished:
                run.open()
                publish(run, self.results)
                continue
            if begun and time.monotonic() > deadline:
                return False
            begun = True  # however short the time: a session that does nothing would never come to an end
            show(f"{run.label} on {run.task}" + (f", seed {run.seed}" if run.seed >= 0 else ""))
            with locked(run.folder):
                run.open()
                done = KINDS[run.contestant.kind](run, Work(threads, deadline, show))
            finished &= done
            if done:
                publish(run, self.results)
        return finished

    def runs_of(self, agents: Iterable[str], tasks: Iterable[str] = (), seeds: Iterable[int] = ()) -> Iterator[Run]:
        """The runs of these agents; what is not in the protocol is refused."""
        wanted, chosen = list(tasks), list(seeds)
        for agent in agents:
            self.protocol.contestant(agent)
            names = wanted or [entry.task for entry in self.protocol.entries if entry.agent == agent]
            for task in names:
                entry = self.protocol.entry(agent, task)
                learns = entry.steps > 0
                for seed in chosen if learns and chosen else entry.seeds:
                    yield self.run(entry, seed)

    def status(self) -> list[tuple[Entry, int, int, int]]:
        """For every entry of the protocol: runs finished, runs asked for, and steps still to be trained."""
        rows = []
        for entry in self.protocol.entries:
            less = scaled(entry, self.budget)
            folder = self.runs / entry.task / less.agent
            places = [folder / f"seed{seed}" if seed >= 0 else folder for seed in entry.seeds]
            done = [(place / "episodes.csv").exists() for place in places]
            left = sum(
                max(0, less.steps - _trained(place)) for place, is_done in zip(places, done, strict=True) if not is_done
            )
            rows.append((less, sum(done), len(places), left))
        return rows


def _trained(folder: Path) -> int:
    """Steps in a run's curve."""
    path = folder / "training" / "metrics.csv"
    if not path.exists():
        return 0
    from esper_agent.loggers import read_metrics

    rows = read_metrics(path)
    return int(float(rows[-1]["steps"])) if rows else 0
