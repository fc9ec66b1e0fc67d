"""What the page knows of held-out episodes: a row and a recording of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esper_agent.evaluate import Episode, evaluate_named, evaluate_run, held_out_seeds
from esper_agent.policies.baselines import BASELINES
from esper_agent.recording import Recorder, Recording
from esper_agent.train import TrainConfig, value_unit


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy or of several, on the same seeds for each."""

    rows: Sequence[Episode] = ()
    recordings: Sequence[Recording] = ()


def evaluate_baselines(config: TrainConfig, episodes: int, *, threads: int = 1) -> Evaluation:
    """What the policies that do not learn reach in the environment of a run."""
    recorder, seeds = Recorder(), held_out_seeds(episodes)
    rows = evaluate_named(BASELINES, config.env_options, seeds, threads=threads, observer=recorder)
    return Evaluation(rows, recorder.recordings)


def evaluate_trained(
    run: Path, config: TrainConfig, episodes: int, *, which: str = "best", threads: int = 1
) -> Evaluation:
    """What the policy of a run reaches in it."""
    recorder, seeds = Recorder(value_unit(run, which)), held_out_seeds(episodes)
    rows = evaluate_run(run, config.env_options, seeds, which=which, threads=threads, observer=recorder)
    return Evaluation(rows, recorder.recordings)
