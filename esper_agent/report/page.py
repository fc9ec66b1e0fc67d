"""The page: how a run learned, what it reaches beside the baselines, what it does."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from esper_agent.evaluate import summarise, table
from esper_agent.files import replacing
from esper_agent.loggers import read_accounts, read_metrics
from esper_agent.metrics import Metrics
from esper_agent.recording import Recording
from esper_agent.report.changes import then_and_now
from esper_agent.report.curve import curve
from esper_agent.report.episodes import episodes_table, held_out, policies, trained_on
from esper_agent.report.evaluation import (
    Evaluation,
    evaluate_baselines,
    evaluate_trained,
    remember,
    remembered,
    silent,
)
from esper_agent.report.fates import fates_table, plantings_of_account
from esper_agent.report.health import heads_table, health
from esper_agent.report.replays import Replay, as_table, data, replays
from esper_agent.report.results import results_table
from esper_agent.report.style import colours
from esper_agent.runs import TrainConfig, load_config

LATEST = 500
"""Episodes of the end of the training that the fate of seeds is counted over."""
REPLAYS = 6
"""Episodes of the trained policy that can be watched."""
SCRIPTS = ("elements.js", "charts.js", "panels.js", "replay.js", "episodes.js")
HELD_OUT = "Dots with 95 % intervals, and dashed lines: trained policy and baselines on held-out seeds."


def write_report(
    run: Path,
    episodes: int,
    *,
    which: str = "best",
    temperature: float = 1.0,
    threads: int = 1,
    shown: int = REPLAYS,
    baselines: Evaluation | None = None,
    show: Callable[[str], None] = silent,
) -> tuple[str, Path]:
    """Evaluate a run's policy and the baselines on held-out seeds and draw the page.

    Args:
        run: folder of the run.
        episodes: held-out episodes per policy.
        which: checkpoint of the run, `best` or `last`.
        temperature: 1 draws as in training, less draws what is likely more often, 0 takes the likeliest action.
        threads: stacks of hosts run at the same time.
        shown: episodes of the trained policy that can be watched.
        baselines: what `evaluate_baselines` returned, where that has been done already.
        show: told of each policy when its episodes begin.

    Returns:
        The table of results as text, and the path of the page; rows go to `evaluation.csv` beside it.
    """
    config = load_config(run)
    trained = evaluate_trained(run, config, episodes, which=which, temperature=temperature, threads=threads, show=show)
    others = evaluate_baselines(config, episodes, threads=threads, show=show) if baselines is None else baselines
    remember(run, trained, others)
    page = write_page(run, config, trained, others, shown=shown)
    return table(summarise([*trained.rows, *others.rows])), page


def write_page(
    run: Path,
    config: TrainConfig,
    trained: Evaluation | None = None,
    others: Evaluation | None = None,
    *,
    shown: int = REPLAYS,
) -> Path:
    """Draw the page of a run from its files and from the evaluation of its policy and of others.

    Without a new one it is an earlier one, whose episodes cannot be watched again.
    """
    page = run / "report.html"
    earlier, earlier_others = remembered(run, config)
    text = render(run, config, trained or earlier, others or earlier_others, shown=shown)
    with replacing(page) as file:
        file.write(text)
    return page


def render(run: Path, config: TrainConfig, trained: Evaluation, others: Evaluation, *, shown: int) -> str:
    """The page."""
    updates = _updates(run / "metrics.csv")
    accounts = read_accounts(run / "episodes.jsonl", LATEST)
    script = "\n".join(_asset(name) for name in SCRIPTS)
    values = _learned(updates) | _evaluated(run, config, trained, others, updates)
    values |= _watched(config, trained, others, accounts, shown) | _planted(accounts)
    return Template(_asset("page.html")).substitute(
        values,
        title=escape(f"{config.policy} on {config.task}"),
        facts=escape(
            f"{run} · seed {config.seed} · {updates[-1]['steps']:,.0f} environment steps, updates: {len(updates):,}"
        ),
        style=colours() + _asset("page.css"),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def _evaluated(
    run: Path, config: TrainConfig, trained: Evaluation, others: Evaluation, updates: Sequence[Metrics]
) -> dict[str, str]:
    """What was reached, and the curve beside it."""
    rows = [*trained.rows, *others.rows]
    results = summarise(rows)
    command = f"<code>{escape(f'esper report {shlex.quote(str(run))}')}</code>"
    told = f"Not evaluated yet: {command} plays held-out episodes with it and with the baselines."
    if rows:
        told = escape(
            f"Mean and 95 % bootstrap interval over the same {len(trained.rows)} held-out episodes for all; "
            f"{config.policy} is {trained.played}, {trained.manner}. Committed: with the permanent "
            "seeds alone, in percent. GFLOP: all arithmetic of the episode, in billions. The lead is taken episode by "
            "episode."
        )
    return {
        "results": results_table(rows, results, config.policy) if rows else "",
        "results_note": told,
        "curve": curve([updates], results, config.policy),
        "curve_note": HELD_OUT if rows else "",
    }


def _watched(
    config: TrainConfig, trained: Evaluation, others: Evaluation, accounts: Sequence[Mapping[str, Any]], shown: int
) -> dict[str, str]:
    """The replays and the list of episodes: held-out ones where there are any, else of the training."""
    training = f"{config.policy}, training"
    drawn = [] if trained.recordings else [Recording.of_account(account, training) for account in accounts]
    watched = replays(trained.recordings or drawn, others.recordings, shown)
    recordings = [replay.recording for replay in watched]
    listed = held_out([*trained.recordings, *others.recordings], recordings)
    listed += trained_on(accounts, training, _places(drawn, recordings))
    note = (
        f"Held-out episodes of the trained policy, {trained.manner}, and what the others made of one of the hosts."
        if trained.recordings
        else "Episodes of the training, actions drawn. Those of esper report tell more: every probability, Q(s, op), "
        "and what the seeds are worth."
    )
    return {
        "replays_note": note,
        "choices": "".join(f'<option value="{i}">{escape(replay.label)}</option>' for i, replay in enumerate(watched)),
        "tables": "".join(_folded(replay) for replay in watched),
        "episodes": episodes_table(listed),
        "episodes_note": _which(trained, accounts),
        "policies": policies(listed),
        "data": _embedded(data(watched, config.env_options)),
    }


def _which(trained: Evaluation, accounts: Sequence[Mapping[str, Any]]) -> str:
    """The episodes that are listed."""
    if not trained.recordings:
        return f"The last {len(accounts):,} episodes of the training."
    of_training = f", and the last {len(accounts):,} of the training" if accounts else ""
    return f"All held-out episodes{of_training}."


def _places(drawn: Sequence[Recording], replayed: Sequence[Recording]) -> dict[int, int]:
    """The number of the replay by the place of its episode."""
    number = {id(recording): i for i, recording in enumerate(replayed)}
    return {place: number[id(recording)] for place, recording in enumerate(drawn) if id(recording) in number}


def _folded(replay: Replay) -> str:
    return f"<details><summary>As a table: {escape(replay.label)}</summary>{as_table(replay)}</details>"


def _embedded(value: Any) -> str:
    """JSON that no browser takes for the end of its element, whatever names it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _planted(accounts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    seeds = [seed for account in accounts for seed in plantings_of_account(account)]
    return {
        "fates": fates_table(seeds),
        "fates_note": f"Seeds of the last {len(accounts):,} training episodes."
        if accounts
        else "What was planted in training has not been kept.",
    }


def _learned(updates: Sequence[Metrics]) -> dict[str, str]:
    return {
        "ops": then_and_now(updates, "op/", "share of steps", percent=True),
        "terms": then_and_now(updates, "reward/", "sum over a rollout", percent=False),
        "heads": heads_table(updates),
        "health": health(updates),
    }


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _updates(path: Path) -> list[Metrics]:
    return [{name: float(value) for name, value in row.items() if value} for row in read_metrics(path)]
