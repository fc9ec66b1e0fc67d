"""The page of results, generated from the CSVs: tables, pictures, and what became of every claim."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.suite import pictures, scaffold
from benchmarks.suite.claims import LEAST_GAP, Field, gather, late_values, missing, outcomes
from benchmarks.suite.protocol import ABLATIONS, PROTOCOL, REFERENCE, Protocol, unscaled
from benchmarks.suite.results import RESULTS, RETURN, Agent, read_agents
from benchmarks.suite.statistics import Interval
from esper_agent.files import write_json

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
NOTES = "notes"
"""Folder beside the results, with what people write about them: a file for each section, taken over as it is."""
BEFORE = "attempts.md"
"""The page on earlier versions of the protocol, where there is one."""
SMOOTH = 5
"""Updates per point of a learning curve."""
QUANTITIES = {"objective_return": "objective return", "committed_test_accuracy": "test accuracy"}


def write_report(
    results: Path = RESULTS, page: Path = PAGE, protocol: Protocol = PROTOCOL, *, threads: int = 1
) -> dict[str, Field]:
    """Write the page, and its pictures into a folder of its name beside it."""
    fields = gather(read_agents(results), protocol)
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    notes = results / NOTES
    before = page.with_name(BEFORE).exists()
    parts = [
        _head(fields, protocol, notes, before=before),
        _note(notes, "found", "What was found"),
        _players(fields, protocol),
    ]
    parts += [_claims(fields, protocol), _late(fields, protocol)]
    for task, here in fields.items():
        parts.append(_task(here, folder))
        parts.append(_note(notes, task))
    parts += [_ablations(fields, folder), _note(notes, "ablations")]
    parts += [_scaffold(fields, protocol, threads), _note(notes, "scaffolding")]
    page.write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n")
    return fields


def _head(fields: Mapping[str, Field], protocol: Protocol, notes: Path, *, before: bool) -> str:
    text = [
        "# Results",
        f"Generated from `benchmarks/results` by `esper bench report`; protocol version {protocol.version}, fixed in "
        "[benchmarks/suite/protocol.py](../benchmarks/suite/protocol.py). "
        "[How to enter](../benchmarks/suite/SUBMISSION.md)."
        + (" Text beside the tables is taken from `benchmarks/results/notes`." if notes.exists() else ""),
        "Estimates are interquartile means over held-out episodes, with 95 % bootstrap intervals that resample both "
        "the trainings and the held-out seeds, which are the same for all. The last checkpoint of a training plays, "
        + _temperatures(protocol.temperatures),
    ]
    if before:
        text.append(
            f"[Versions 1 to {protocol.version - 1}]({BEFORE}) were begun and given up. New settings were tried on "
            "training and tuning seeds only, but it was held-out results that showed that a change was needed. So this "
            "version has held-out seeds that no earlier one has played."
        )
    scaled = sorted({name for here in fields.values() for name in here.rows if unscaled(name)[1] != 1})
    if scaled:
        names = ", ".join(f"`{name}`" for name in scaled)
        text.append(
            f"> **Not the whole protocol:** what stands after an @ is the share of the protocol's training steps that "
            f"these agents had: {names}. They take part in no claim."
        )
    lacking = missing(fields, protocol)
    if lacking:
        by_task: dict[str, list[str]] = {}
        for (agent, task), (there, asked) in lacking.items():
            by_task.setdefault(task, []).append(
                f"`{agent}`" + (f" ({there} of {asked} training seeds)" if there else "")
            )
        lines = "\n".join(f"- {task}: {', '.join(names)}" for task, names in by_task.items())
        text.append(f"**Not run yet, or not whole:**\n\n{lines}")
    return "\n\n".join(text)


def _temperatures(temperatures: Sequence[float]) -> str:
    if tuple(temperatures) == (1.0,):
        return "drawing its actions as it did in training."
    tried = ", ".join(f"{temperature:g}" for temperature in temperatures)
    return (
        f"at the temperature of {tried} that returned most on tuning seeds: 1 draws as in training, 0 takes the "
        "likeliest action."
    )


def _note(folder: Path, name: str, title: str = "") -> str:
    path = folder / f"{name}.md"
    if not path.exists():
        return ""
    return (f"## {title}\n\n" if title else "") + path.read_text()


def _players(fields: Mapping[str, Field], protocol: Protocol) -> str:
    """What the names in the tables stand for."""
    known = {contestant.name: contestant for contestant in protocol.contestants}
    found = {name: agent for here in fields.values() for name, agent in here.agents.items() if not _is_ablation(name)}
    lines = []
    for name, agent in found.items():
        contestant = known.get(unscaled(name)[0])
        on = f" (on {contestant.tuned_on})" if contestant and contestant.tuned_on else ""
        lines.append(f"- `{name}`: {contestant.summary if contestant else agent.manifest.get('summary', '')}{on}")
    return "## Who plays\n\n" + "\n".join(lines) if lines else ""


def _is_ablation(name: str) -> bool:
    return unscaled(name)[0] in {ablation.name for ablation in ABLATIONS}


def _claims(fields: Mapping[str, Field], protocol: Protocol) -> str:
    rows, waiting = [], dict[tuple[str, str], dict[str, None]]()
    for outcome in outcomes(fields, protocol):
        if outcome.ours is None:
            others = waiting.setdefault((outcome.comparison.claim, outcome.task), {})
            others[f"`{outcome.other}`"] = None
            continue
        rows.append(
            [
                outcome.comparison.claim,
                f"`{outcome.comparison.agent}` / `{outcome.other}`",
                outcome.task,
                QUANTITIES[outcome.quantity],
                _interval(outcome.ours),
                _interval(outcome.theirs),
                _interval(outcome.probability),
                _interval(outcome.difference),
                outcome.comparison.goal,
                outcome.verdict,
            ]
        )
    head = ["claim", "agent / other", "task", "quantity", "agent", "other", "P(agent > other)", "same seeds", "goal"]
    head += ["outcome"]
    left = [f"- {claim}: {', '.join(others)} on {task}" for (claim, task), others in waiting.items()]
    later = "\n\nNot compared yet:\n\n" + "\n".join(left) if waiting else ""
    return (
        "## What became of the claims\n\n"
        + (markdown(head, rows) if rows else "Nothing has been compared yet.")
        + "\n\nGoals: *above*, the agent's interval lies above the other's; *not below*, its estimate reaches at least "
        "the lower end of the other's interval. P is the probability that an episode of the agent beats one of the "
        "other's, ties counting half. *Same seeds* is the mean difference, agent − other, with an interval that "
        "resamples the held-out seeds for both at once; no goal asks for it. `big` is compared episode by episode, "
        "after the first epoch in which it has spent at least as many FLOPs as the agent." + later
    )


def _late(fields: Mapping[str, Field], protocol: Protocol) -> str:
    rows, lacking = [], missing(fields, protocol)
    for task, here in fields.items():
        agent = here.agents.get(REFERENCE)
        if agent is None or not agent.curves(task):
            continue
        for late in protocol.late:
            values = late_values(agent, task, late)
            mean = float(np.mean(values)) if values else float("nan")
            outcome = "holds" if mean > late.over else "**missed**"
            outcome += " so far" if (REFERENCE, task) in lacking else ""
            each = ", ".join(f"{value:.2f}" for value in values)
            rows.append([late.claim, f"`{REFERENCE}`", task, f"{mean:.2f}", each, f"> {late.over:g}", outcome])
    if not rows:
        return ""
    table = markdown(["late in training", "agent", "task", "mean", "by training seed", "goal", "outcome"], rows)
    return (
        "### Late in training\n\nThe last tenth of the updates; goals are for the mean over the trainings. The op "
        "head's gradient counts as alive in an update where its norm exceeds "
        f"{100 * max(late.alive for late in protocol.late):g} % of the whole policy's.\n\n{table}"
    )


def _task(here: Field, folder: Path) -> str:
    rows, quality = [], {}
    shown = [name for name in here.rows if not _is_ablation(name)]
    for name in shown:
        episodes = here.rows[name]
        agent = here.agents[name]
        trainings = sorted({row.training_seed for row in episodes} - {-1})
        steps = sorted({run["steps"] for run in agent.runs(here.task) if run["steps"]})
        accuracy, score = here.estimate(name, "committed_test_accuracy"), here.normalised(name)
        beyond = here.outspending(name) if score is not None else 0
        params = float(np.mean([row.final_params for row in episodes]))
        quality[name] = (params, accuracy)
        rows.append(
            [
                f"`{name}`",
                " / ".join(f"{count:,}" for count in steps),
                f"{max(len(trainings), 1)} × {len(episodes) // max(len(trainings), 1)}",
                _interval(here.estimate(name, "objective_return")),
                ", ".join(f"{scores.mean():.2f}" for scores in here.scores(name, "objective_return")),
                _interval(accuracy, 1),
                f"{params:,.0f}",
                f"{np.mean([row.flops for row in episodes]) / 1e9:,.2f}",
                f"{np.mean([row.env_steps for row in episodes]):,.0f}",
                "" if score is None else f"{score:.2f}" + (f" ({beyond})" if beyond else ""),
            ]
        )
    head = ["agent", "training steps", "episodes", "objective return", "means", "test accuracy, %", "parameters"]
    head += ["GFLOP", "epochs", "normalised"]
    if not shown:
        return ""
    returns = {name: here.estimate(name, "objective_return") for name in shown}
    _picture(folder, f"{here.task}-returns", pictures.intervals(returns, "objective return"))
    _picture(folder, f"{here.task}-front", pictures.front(quality, "parameters", "test accuracy, %"))
    text = [
        f"## {here.task}",
        markdown(head, rows),
        "*Means* are the mean returns of each training, in the order of their seeds: bad episodes count in them, which "
        "interquartile means leave out. Parameters, GFLOP and epochs are means per episode: what growing one network "
        "costs, planning included, and training the agent not. *Normalised* is (agent − wait) / (big − wait) in mean, "
        "not interquartile mean, test accuracy with `big` at the agent's FLOPs; empty where big is less than "
        f"{LEAST_GAP:g} points above wait. In brackets: in how many episodes the agent spent more than the longest "
        "training of big, which is then compared at its last epoch.",
        _embed(folder, f"{here.task}-returns", f"Objective return of every agent on {here.task}"),
        _embed(folder, f"{here.task}-front", f"Test accuracy against parameters on {here.task}"),
    ]
    lines = learning_curves(here, shown)
    if lines:
        picture = pictures.curves(lines, "environment steps", "objective return, training episodes")
        _picture(folder, f"{here.task}-learning", picture)
        text.append(_embed(folder, f"{here.task}-learning", f"Learning curves on {here.task}"))
    return "\n\n".join(text)


def learning_curves(here: Field, names: Iterable[str]) -> dict[str, list[list[tuple[float, float]]]]:
    """Objective return of training episodes against steps: by agent, a curve for every training."""
    found = {}
    for name in names:
        runs = []
        for updates in here.agents[name].curves(here.task).values():
            points = np.array([(row["steps"], row[RETURN]) for row in updates if RETURN in row]).reshape(-1, 2)
            size = max(1, min(SMOOTH, len(points)))
            whole = points[: len(points) // size * size].reshape(-1, size, 2)
            if len(whole):
                runs.append([(float(part[-1, 0]), float(part[:, 1].mean())) for part in whole])
        if runs:
            found[name] = runs
    return found


def _ablations(fields: Mapping[str, Field], folder: Path) -> str:
    here, names = fields.get("digits"), [REFERENCE, *(ablation.name for ablation in ABLATIONS)]
    summary = {ablation.name: ablation.summary for ablation in ABLATIONS} | {REFERENCE: "the default agent"}
    present = [] if here is None else [name for name in here.rows if unscaled(name)[0] in names]
    if here is None or not any(unscaled(name)[0] != REFERENCE for name in present):
        return ""
    rows = [
        [
            f"`{name}`",
            summary[unscaled(name)[0]],
            _interval(here.estimate(name, "objective_return")),
            _interval(here.estimate(name, "committed_test_accuracy"), 1),
        ]
        for name in present
    ]
    table = markdown(["agent", "what differs", "objective return", "test accuracy, %"], rows)
    lines = learning_curves(here, present)
    parts = ["## Ablations", table]
    if lines:
        _picture(
            folder, "ablations", pictures.curves(lines, "environment steps", "objective return, training episodes")
        )
        parts.append(_embed(folder, "ablations", "Learning curves of the ablations"))
    return "\n\n".join(parts)


def _scaffold(fields: Mapping[str, Field], protocol: Protocol, threads: int) -> str:
    here = fields.get(scaffold.NAME)
    if here is None:
        return ""
    rows = []
    for name, agent in here.agents.items():
        if not agent.actions(scaffold.NAME):
            continue
        shares = _shares(agent, protocol, threads)
        rows.append([f"`{name}`", f"{shares.prepared:.0%}", f"{shares.both:.0%}", f"{shares.in_order:.0%}"])
    head = ["agent", "the first made permanent", "both made permanent", "the second after the first worked"]
    return (
        f"## Scaffolding: `{scaffold.NAME}`\n\n{scaffold.EXPLANATION}\n\n{markdown(head, rows)}\n\n"
        "Shares of the held-out episodes, from the recorded actions."
    )


def _shares(agent: Agent, protocol: Protocol, threads: int) -> scaffold.Shares:
    """How often an agent found the scaffold; kept beside its actions, for finding out plays every episode again."""
    kept = agent.folder / f"{scaffold.NAME}.scaffold.json"
    played = hashlib.sha256((agent.folder / f"{scaffold.NAME}.actions.csv.gz").read_bytes()).hexdigest()
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get("actions") != played:
        actions, env = agent.actions(scaffold.NAME), protocol.env_options(scaffold.NAME)
        found = {"actions": played, **asdict(scaffold.measure(actions, env, threads=threads))}
        write_json(kept, found)
    return scaffold.Shares(found["prepared"], found["both"], found["in_order"])


def _picture(folder: Path, name: str, drawing: str) -> None:
    (folder / f"{name}.svg").write_text(drawing)


def _embed(folder: Path, name: str, described: str) -> str:
    return f"![{described}]({folder.name}/{name}.svg)"


def _interval(interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return ""
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
