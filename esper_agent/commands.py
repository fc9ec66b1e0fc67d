"""The commands of `esper`: one dataclass each, from whose fields and docstrings flags and help are made.

What brings in torch is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from esper_agent.exits import DONE, FAILURE, INTERRUPTED
from esper_agent.failures import require_writable_file
from esper_agent.metrics import Metrics, warnings
from esper_agent.runs import TrainConfig, load_config
from esper_agent.train import print_update, train
from esper_env.config import ConfigError, check_number


@dataclass(frozen=True)
class Train:
    """Train an agent.

    Ctrl-C finishes the update, saves and exits with 130; --resume goes on.

    Examples:
      esper train --run runs/mine --seed 1
      esper train --run runs/mine --resume --steps 300000
      esper train --run runs/brief --env '{"max_epochs": 20}' --ppo.clip 0.1
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Continue the run in --run, with the settings it has."""

    def __call__(self) -> int:
        """Train, and say how to go on."""
        run, quoted = self.config.run, shlex.quote(self.config.run)
        with progress() as show:
            finished = train(self.config, resume=self.resume, show=show)
        if not finished:
            print(f"Interrupted. Go on with: esper train --run {quoted} --resume")
            return INTERRUPTED
        page = Path(run) / "report.html"
        print(f"Trained: {page} shows how." if page.exists() else f"Trained: {run}.")
        print(f"To evaluate it as well: esper report {quoted}")
        return DONE


@dataclass(frozen=True)
class Evaluate:
    """Play held-out episodes and print what policies reach.

    Means over whole episodes, with 95 % bootstrap intervals.

    Examples:
      esper evaluate --policy wait random schedule heuristic
      esper evaluate --run runs/mine --episodes 100 --csv rows.csv
      esper evaluate --policy schedule --task shapes
    """

    policy: tuple[str, ...] = ()
    """Names of policies that do not learn; `esper list policies` shows them."""
    run: Path | None = None
    """Folder of a run whose trained policy takes part."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of the run's checkpoints."""
    task: str | None = None
    """Task to play; the run's, or digits."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the environment, as `esper train` takes them; the run's when there is one."""
    episodes: int = 50
    """Episodes per policy, on the same seeds for all of them."""
    temperature: float = 1.0
    """1 samples as in training, less favours likely actions, 0 always takes the likeliest."""
    seed: int = 0
    """Seed of what policies draw."""
    threads: int = 2
    """Stacks of hosts run at the same time."""
    csv: Path | None = None
    """File for one row per episode."""

    def __call__(self) -> int:
        """Evaluate and print the table."""
        from esper_agent.evaluate import (
            Announcer,
            evaluate_named,
            evaluate_run,
            held_out_seeds,
            summarise,
            table,
            write_csv,
        )

        if not self.policy and self.run is None:
            raise ConfigError("Nothing to evaluate: give --policy NAME ..., --run RUN, or both.")
        for name in ("checkpoint", "temperature") if self.run is None else ():
            if getattr(self, name) != getattr(Evaluate, name):
                raise ConfigError(f"--{name} is about the policy that a run has trained: give --run, or leave it out.")
        check_number("episodes", self.episodes, 1, whole=True)
        check_number("temperature", self.temperature, 0, 100)
        if self.csv is not None:
            require_writable_file(self.csv, "--csv")
        if "task" in self.env:
            raise ConfigError("Give task as an argument of its own, not inside env.")
        saved = {} if self.run is None else load_config(self.run).env_options
        options = {"task": "digits"} | saved | ({"task": self.task} if self.task else {}) | dict(self.env)
        seeds, episodes, observer = held_out_seeds(self.episodes), [], Announcer(_say)
        if self.run is not None:
            episodes += evaluate_run(
                self.run,
                options,
                seeds,
                which=self.checkpoint,
                temperature=self.temperature,
                seed=self.seed,
                threads=self.threads,
                observer=observer,
            )
        episodes += evaluate_named(self.policy, options, seeds, seed=self.seed, threads=self.threads, observer=observer)
        print(table(summarise(episodes)))
        if self.csv is not None:
            write_csv(self.csv, episodes)
        return DONE


@dataclass(frozen=True)
class Play:
    """Play an episode yourself, in the terminal.

    See the network, choose what is done with it, and learn what that was worth.

    Examples:
      esper play
      esper play --seed 7 --advice heuristic
      esper play --advice runs/mine --save played.jsonl
    """

    task: str = "digits"
    """Task to play."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the environment."""
    seed: int | None = None
    """Seed of the episode; another one every time when None."""
    advice: str | None = None
    """What to be told in every step: how a policy such as heuristic, or that of a run given by its folder, would act.
    A trained policy also tells the probability of every op and the return it expects from it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint of the run that advises."""
    save: Path | None = None
    """File to append the finished episode to, in the format of a run's episodes.jsonl."""

    def __call__(self) -> int:
        """Play, and say how to play the same episode again."""
        import random

        from esper_agent.play import Game, play

        if "task" in self.env:
            raise ConfigError("Give task as an argument of its own, not inside env.")
        seed = random.randrange(10_000) if self.seed is None else self.seed
        check_number("seed", seed, 0, whole=True)
        if self.save is not None:
            require_writable_file(self.save, "--save")
        game = Game({"task": self.task, **self.env}, seed=seed, advice=self.advice, which=self.checkpoint)
        try:
            play(game, self.save)
        finally:
            print(f"Play the same episode again with --seed {seed}.")
        return DONE


@dataclass(frozen=True)
class Report:
    """Evaluate a run beside the baselines, and add that to its page.

    The page is report.html in the folder of the run; it needs no other file.

    Examples:
      esper report runs/mine
      esper report runs/mine --episodes 200 --checkpoint last
      esper report runs/mine --temperature 0
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 50
    """Held-out episodes per policy."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of the run's checkpoints."""
    temperature: float = 1.0
    """1 samples as in training, less favours likely actions, 0 always takes the likeliest."""
    threads: int = 2
    """Stacks of hosts run at the same time."""
    replays: int = 6
    """Episodes of the trained policy that the page replays: the best, the worst, and some between."""

    def __call__(self) -> int:
        """Evaluate, draw, and print the table and where the page is."""
        from esper_agent.report import write_report

        check_number("episodes", self.episodes, 1, whole=True)
        check_number("replays", self.replays, 0, whole=True)
        check_number("temperature", self.temperature, 0, 100)
        text, page = write_report(
            self.run,
            self.episodes,
            which=self.checkpoint,
            temperature=self.temperature,
            threads=self.threads,
            shown=self.replays,
            show=_say,
        )
        print(f"{text}\n\n{page}")
        return DONE


@dataclass(frozen=True)
class List:
    """Show what there is to choose from.

    Examples:
      esper list
      esper list tasks
    """

    table: tyro.conf.Positional[Literal["all", "ids", "tasks", "blueprints", "policies", "metrics"]] = "all"
    """Which table."""

    def __call__(self) -> int:
        """Print the tables."""
        from esper_agent.listing import SECTIONS, listing

        if self.table != "all":
            print(listing(self.table))
            return DONE
        print("\n\n".join(f"{section}\n{'-' * len(section)}\n{listing(section)}" for section in SECTIONS))
        return DONE


@dataclass(frozen=True)
class Doctor:
    """Report versions, threads, devices and what is missing.

    The exit code is 1 when environment or agent cannot run without it.

    Examples:
      esper doctor
    """

    def __call__(self) -> int:
        """Print the findings."""
        from esper_agent.doctor import examine

        findings, able = examine()
        print(findings)
        return DONE if able else FAILURE


@dataclass(frozen=True)
class Demo:
    """Train for a few minutes on digits and show the agent beside the baselines.

    Examples:
      esper demo
      esper demo --minutes 15 --run runs/long-demo
    """

    run: Path = Path("runs/demo")
    """Folder of the run; an earlier demo in it is replaced."""
    minutes: float = 5.5
    """Time for everything; training gets what evaluating leaves, and finishes its last update."""
    episodes: int = 50
    """Held-out episodes per policy."""
    threads: int = 2
    """Stacks of hosts run at the same time."""

    def __call__(self) -> int:
        """Train, evaluate, report."""
        from esper_agent.demo import demo

        check_number("minutes", self.minutes, 0)
        check_number("episodes", self.episodes, 1, whole=True)
        check_number("threads", self.threads, 1, whole=True)
        with progress() as show:
            finished = demo(self.run, minutes=self.minutes, episodes=self.episodes, threads=self.threads, show=show)
        return DONE if finished else INTERRUPTED


COMMANDS = {
    "evaluate": Evaluate,
    "play": Play,
    "report": Report,
    "list": List,
    "doctor": Doctor,
    "demo": Demo,
}
"""Commands by name, besides `train`, whose flags may start from a run that is continued."""


def _say(line: str) -> None:
    """What a command does now; what came of it goes to stdout."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Callable[[Metrics, TrainConfig], None]]:
    """What shows the updates of a training: a bar in a terminal, lines anywhere else."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield print_update
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps  {task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("")

        def show(metrics: Metrics, config: TrainConfig) -> None:
            told = (
                f"{metrics['speed/steps_per_second']:.0f}/s"
                f"  return {metrics.get('episode/objective_return', float('nan')):.2f}"
                f"  committed {metrics.get('episode/committed_accuracy', float('nan')):.1f} %"
            )
            bar.update(row, total=config.steps, completed=int(metrics["steps"]), description=told)
            for warning in warnings(metrics):
                console.print(f"warning: {warning}", style="yellow")

        yield show
