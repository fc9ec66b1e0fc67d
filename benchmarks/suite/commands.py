"""The commands under `esper bench`: one dataclass each. What brings in torch is imported inside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from esper_agent.exits import INTERRUPTED
from esper_env.config import ConfigError, check_number

HERE = Path(__file__).parents[1]
UNLIMITED = float("inf")


@dataclass(frozen=True)
class Run:
    """Work on runs of the protocol until they are finished or time is up.

    The same command again goes on, also after kill -9.

    Examples:
      esper bench run --agent schedule heuristic
      esper bench run --agent lstm --task digits --seeds 0 --minutes 60
    """

    agent: tuple[str, ...]
    """Contestants; `esper bench status` lists them."""
    task: tuple[str, ...] = ()
    """Tasks; all that the protocol has for the agent when none is given."""
    seeds: tuple[int, ...] = ()
    """Training seeds; all of the protocol's when none is given."""
    budget: float = 1.0
    """Share of the protocol's training steps. Below 1 the agent is called name@share in files, tables and pictures."""
    minutes: float = UNLIMITED
    """Stop at the next checkpoint after so long; with 0, at the first."""
    threads: int = 2
    """Stacks of hosts run at the same time."""
    runs: Path = Path("runs/bench")
    """Where runs are kept, one folder each; to continue elsewhere take its training/checkpoints/last.pt along."""
    results: Path = HERE / "results"
    """Where finished runs are handed in."""

    def __call__(self) -> int:
        """Work."""
        from benchmarks.suite.runner import Runner

        _check_means(self.threads, self.minutes)
        if not self.agent:
            raise ConfigError("Nothing to run: give --agent NAME ...; esper bench status lists the names.")
        runner = Runner(runs=self.runs, results=self.results, budget=self.budget)
        finished = runner.work(self.agent, self.task, self.seeds, threads=self.threads, minutes=self.minutes, show=_say)
        print("Finished." if finished else "Not finished: run the same command again to go on.")
        return 0 if finished else INTERRUPTED


@dataclass(frozen=True)
class Tune:
    """Choose an agent's settings by a grid on tuning seeds.

    The same command again goes on; what was tried is kept.

    Examples:
      esper bench tune --agent schedule
    """

    agent: str
    """A contestant with a grid: schedule or maskable-ppo-tuned."""
    task: str = "digits"
    """The task."""
    minutes: float = UNLIMITED
    """Try no further setting after so long."""
    threads: int = 2
    """Stacks of hosts run at the same time."""
    runs: Path = Path("runs/bench")
    """Where what is trained on the way is kept."""

    def __call__(self) -> int:
        """Tune."""
        import time

        from benchmarks.suite.runner import Runner

        _check_means(self.threads, self.minutes)
        search = Runner(runs=self.runs).search(self.agent, self.task)
        deadline = time.monotonic() + 60 * self.minutes
        finished = search.run(scratch=self.runs / "tuning", threads=self.threads, deadline=deadline, show=_say)
        print(search.result.read_text() if finished else "Not finished: run the same command again to go on.")
        return 0 if finished else INTERRUPTED


@dataclass(frozen=True)
class Report:
    """Write docs/results.md and its pictures from the results.

    Examples:
      esper bench report
    """

    results: Path = HERE / "results"
    """Folder of results, one folder for each agent."""
    page: Path = HERE.parent / "docs" / "results.md"
    """The page; pictures go to a folder of its name beside it."""
    threads: int = 2
    """Stacks of hosts run at the same time: scaffolding is measured by replaying."""

    def __call__(self) -> int:
        """Write."""
        from benchmarks.suite.report import write_report
        from benchmarks.suite.runner import Runner

        _check_means(self.threads)
        fields = write_report(self.results, self.page, Runner().protocol, threads=self.threads)
        for task, field in fields.items():
            print(f"{task}: {', '.join(field.rows)}")
        print(self.page)
        return 0


@dataclass(frozen=True)
class Validate:
    """Replay an agent's recorded actions and confirm its scores.

    They must agree bit for bit, or within a tolerance; else the exit code is 1.

    Examples:
      esper bench validate benchmarks/results/lstm
    """

    folder: tyro.conf.Positional[Path]
    """The agent's results, such as benchmarks/results/lstm."""
    tolerance: float = 0.0
    """By how much scores may differ: above 0 only where results come from another machine, which rounds otherwise."""
    threads: int = 2
    """Stacks of hosts run at the same time."""

    def __call__(self) -> int:
        """Validate."""
        from benchmarks.suite.runner import Runner
        from benchmarks.suite.validation import validate

        _check_means(self.threads)
        check_number("tolerance", self.tolerance, 0)
        verdict = validate(self.folder, Runner().protocol, tolerance=self.tolerance, threads=self.threads, show=_say)
        for finding in verdict.findings:
            print(finding)
        print(verdict)
        return 0 if verdict.accepted else 1


@dataclass(frozen=True)
class Status:
    """Show every entry of the protocol, and what is left to train.

    Examples:
      esper bench status
    """

    budget: float = 1.0
    """Share of the protocol's training steps."""
    runs: Path = Path("runs/bench")
    """Where runs are kept."""
    speed: float = 60.0
    """Environment steps per second, to tell how long the rest takes."""

    def __call__(self) -> int:
        """Print the table."""
        from benchmarks.reports import table
        from benchmarks.suite.runner import Runner

        check_number("speed", self.speed, 1e-3)
        rows, total, runner = [], 0, Runner(runs=self.runs, budget=self.budget)
        for entry, done, asked, left in runner.status():
            total += left
            hours = "tune first" if runner.untuned(entry) else f"{left / self.speed / 3600:.1f}" if left else ""
            rows.append(
                [f"{entry.agent} on {entry.task}", f"{entry.steps:,}" if entry.steps else "", f"{done}/{asked}"]
            )
            rows[-1] += [f"{left:,}" if left else "", hours]
        print(table(["entry", "steps a run", "finished", "steps left", "hours"], rows))
        print(f"\n{total:,} steps left: {total / self.speed / 3600:.1f} hours at {self.speed:g} steps a second.")
        return 0


def _check_means(threads: int, minutes: float = UNLIMITED) -> None:
    check_number("threads", threads, 1, whole=True)
    if minutes != UNLIMITED:
        check_number("minutes", minutes, 0)


def _say(line: str) -> None:
    print(line, flush=True)


COMMANDS: dict[str, Any] = {"run": Run, "tune": Tune, "report": Report, "validate": Validate, "status": Status}
"""Commands by name."""
