"""The demonstration: a few minutes of training on digits, and what came of it beside the baselines."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from esper_agent.failures import require_writable
from esper_agent.metrics import Metrics
from esper_agent.runs import TrainConfig
from esper_agent.train import train
from esper_env.config import ConfigError

MOST_STEPS = 150_000
"""A fast machine stops here even when there is time left."""
MARK = ".demo"
"""The file that tells the folder of a demo from any other."""


def demo(
    run: Path, *, minutes: float, episodes: int, threads: int, show: Callable[[Metrics, TrainConfig], None]
) -> bool:
    """Train the default agent on the default task, evaluate it and the baselines, and write the report.

    Args:
        run: folder of the run; an earlier demo in it is replaced.
        minutes: time for everything; the update in progress is finished.
        episodes: held-out episodes per policy.
        threads: stacks of hosts run at the same time.
        show: called with the metrics of every update.

    Returns:
        False when a signal ended the training; nothing is evaluated then.
    """
    from esper_agent.report import evaluate_baselines, write_report

    begun = time.monotonic()
    require_writable(run, "--run")
    _make_room(run)
    # Learning is steep at this length, so the best checkpoint is looked for more often than in a long run.
    config = TrainConfig(run=str(run), steps=MOST_STEPS, threads=threads, evaluation_interval=10)
    print(f"Evaluating the baselines on {episodes} held-out episodes each.", flush=True)
    baselines = evaluate_baselines(config, episodes, threads=threads)
    # The trained policy needs about as long as the slowest of them, which takes up to half of their time.
    budget = max(0.0, 60 * minutes - 1.5 * (time.monotonic() - begun))
    long = f"{budget / 60:.1f} minutes" if budget else "one update, for which alone there is time (give more --minutes)"
    print(f"Training the default agent on digits for {long}, in {run}.", flush=True)
    if not train(config, show=show, budget=budget):
        print(f"Interrupted. Go on with: esper train --run {shlex.quote(str(run))} --resume")
        return False
    print("Evaluating the trained policy.", flush=True)
    table, page = write_report(run, episodes, threads=threads, baselines=baselines)
    print(f"\n{table}\n\nMean and 95 % interval. More: {page}")
    return True


def _make_room(run: Path) -> None:
    """Remove an earlier demo, but nothing else."""
    mark = run / MARK
    if mark.exists():
        print(f"Replacing the earlier demo in {run}.")
        shutil.rmtree(run)
    elif run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} holds something else than an earlier demo; choose another --run for this one.")
    run.mkdir(parents=True, exist_ok=True)
    mark.touch()
