"""The page: how a run learned, what it reaches beside the baselines, what it does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from esper_agent.evaluate import (
    Episode,
    evaluate_named,
    evaluate_run,
    held_out_seeds,
    summarise,
    table,
    write_csv,
)
from esper_agent.loggers import read_metrics
from esper_agent.metrics import Metrics
from esper_agent.policies.baselines import BASELINES
from esper_agent.report.changes import then_and_now
from esper_agent.report.curve import COLOURS, curve
from esper_agent.report.fates import fates_table
from esper_agent.report.health import health
from esper_agent.report.results import results_table
from esper_agent.train import TrainConfig, load_config

LATEST = 500
"""Episodes of the end of the training that the fate of seeds is counted over."""

HELD_OUT = "Dots with 95 % intervals, and dashed lines: trained policy and baselines on held-out seeds."


def evaluate_baselines(config: TrainConfig, episodes: int, *, threads: int = 1) -> list[Episode]:
    """What the policies that do not learn reach in the environment of a run."""
    return evaluate_named(BASELINES, config.env_options, held_out_seeds(episodes), threads=threads)


def write_report(
    run: Path, episodes: int, *, which: str = "best", threads: int = 1, baselines: Sequence[Episode] | None = None
) -> tuple[str, Path]:
    """Evaluate a run's policy and the baselines on held-out seeds and draw the page.

    Args:
        run: folder of the run.
        episodes: held-out episodes per policy.
        which: checkpoint of the run, `best` or `last`.
        threads: stacks of hosts run at the same time.
        baselines: what `evaluate_baselines` returned, where that has been done already.

    Returns:
        The table of results as text, and the path of the page; rows go to `evaluation.csv` beside it.
    """
    config = load_config(run)
    rows = evaluate_run(run, config.env_options, held_out_seeds(episodes), which=which, threads=threads)
    rows += evaluate_baselines(config, episodes, threads=threads) if baselines is None else baselines
    write_csv(run / "evaluation.csv", rows)
    return table(summarise(rows)), write_page(run, config, rows, which)


def write_page(run: Path, config: TrainConfig, rows: Sequence[Episode] = (), which: str = "last") -> Path:
    """Draw the page of a run from its files and from `rows`, the evaluation if there was one."""
    page = run / "report.html"
    page.write_text(render(run, config, rows, which))
    return page


def render(run: Path, config: TrainConfig, rows: Sequence[Episode], which: str) -> str:
    """The page."""
    updates = _updates(run / "metrics.csv")
    accounts = _accounts(run / "episodes.jsonl")
    results = summarise(rows)
    return Template(_asset("page.html")).substitute(
        title=escape(f"{config.policy} on {config.task}"),
        facts=escape(
            f"{run} · seed {config.seed} · {updates[-1]['steps']:,.0f} environment steps, updates: {len(updates):,}"
        ),
        results=results_table(rows, results, config.policy) if rows else "",
        results_note=escape(
            f"Mean and 95 % bootstrap interval over the same {len(rows) // len(results)} held-out episodes for all; "
            f"{config.policy} is the {which} checkpoint and acts by the mode. The lead is taken episode by episode."
            if rows
            else f"Not evaluated yet: esper report {run} plays held-out episodes with it and with the baselines."
        ),
        style=COLOURS + _asset("page.css"),
        curve=curve([updates], results, config.policy),
        curve_note=HELD_OUT if rows else "",
        ops=then_and_now(updates, "op/", "share of steps", percent=True),
        fates=fates_table(accounts),
        fates_note=f"Seeds planted in the last {len(accounts):,} training episodes, actions drawn rather than chosen.",
        terms=then_and_now(updates, "reward/", "sum over an episode", percent=False),
        health=health(updates),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _updates(path: Path) -> list[Metrics]:
    return [{name: float(value) for name, value in row.items() if value} for row in read_metrics(path)]


def _accounts(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines[-LATEST:]]
