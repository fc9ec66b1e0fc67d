"""What the page knows of held-out episodes: a row and a recording of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from esper_agent.evaluate import (
    Announcer,
    Episode,
    evaluate_named,
    evaluate_run,
    held_out_seeds,
    read_episodes,
    write_csv,
)
from esper_agent.files import write_json
from esper_agent.policies.baselines import BASELINES
from esper_agent.recording import Recorder, Recording
from esper_agent.runs import TrainConfig, checkpoint_of, value_unit

ROWS, PLAYED = "evaluation.csv", "evaluation.json"
"""The files of an evaluation, in the run's folder."""


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy or of several, on the same seeds for each."""

    rows: Sequence[Episode] = ()
    recordings: Sequence[Recording] = ()
    played: str = ""
    """Which checkpoint of a run it was."""
    temperature: float = 1.0
    """At which it drew its actions."""

    @property
    def manner(self) -> str:
        """How actions were chosen."""
        drawn = "actions drawn" if self.temperature == 1 else f"actions drawn at temperature {self.temperature:g}"
        return drawn if self.temperature else "always the likeliest action"


def silent(line: str) -> None:
    """Show nothing."""


def evaluate_baselines(
    config: TrainConfig, episodes: int, *, threads: int = 1, show: Callable[[str], None] = silent
) -> Evaluation:
    """What the policies that do not learn reach in the environment of a run; `show` is told of each."""
    recorder, seeds = Recorder(), held_out_seeds(episodes)
    rows = evaluate_named(BASELINES, config.env_options, seeds, threads=threads, observer=Announcer(show, recorder))
    return Evaluation(rows, recorder.recordings)


def evaluate_trained(
    run: Path,
    config: TrainConfig,
    episodes: int,
    *,
    which: str = "best",
    temperature: float = 1.0,
    threads: int = 1,
    show: Callable[[str], None] = silent,
) -> Evaluation:
    """What the policy of a run reaches in it; `show` is told when it begins."""
    recorder, seeds = Recorder(value_unit(run, which)), held_out_seeds(episodes)
    rows = evaluate_run(
        run,
        config.env_options,
        seeds,
        which=which,
        temperature=temperature,
        threads=threads,
        observer=Announcer(show, recorder),
    )
    name, steps = checkpoint_of(run, which)
    return Evaluation(rows, recorder.recordings, f"the {name} checkpoint, after {steps:,} steps", temperature)


def remember(run: Path, trained: Evaluation, others: Evaluation) -> None:
    """Keep the rows, and who played them, in the run's folder."""
    # Without this file there is no evaluation: killed in between, none is remembered rather than a wrong one.
    (run / PLAYED).unlink(missing_ok=True)
    write_csv(run / ROWS, [*trained.rows, *others.rows])
    write_json(run / PLAYED, {"policy": trained.played, "temperature": trained.temperature})


def remembered(run: Path, config: TrainConfig) -> tuple[Evaluation, Evaluation]:
    """What was kept of an earlier evaluation: it stays true of its checkpoint when the training goes on."""
    if not (run / ROWS).exists() or not (run / PLAYED).exists():
        return Evaluation(), Evaluation()
    rows, kept = read_episodes(run / ROWS), json.loads((run / PLAYED).read_text())
    trained = [row for row in rows if row.agent == config.policy]
    others = [row for row in rows if row.agent != config.policy]
    return Evaluation(trained, played=kept["policy"], temperature=kept.get("temperature", 1.0)), Evaluation(others)
