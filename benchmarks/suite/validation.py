"""Does what was handed in score what it says? Recorded actions are played again and compared bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.playing import replay
from benchmarks.suite.protocol import PROTOCOL, Protocol, scaled, unscaled
from benchmarks.suite.recordings import key
from benchmarks.suite.results import Agent, read_agent
from benchmarks.suite.runs import versions
from benchmarks.suite.static import as_episode, episodes, train_static
from esper_agent.evaluate import Episode
from esper_env.options import resolve

SCORES = ("objective_return", "shaped_return", "committed_test_accuracy", "final_params")
COSTS = ("flops", "env_steps")
SHOWN = 5
"""Findings of one kind that are told in full."""


@dataclass(frozen=True)
class Verdict:
    """What validating an agent came to."""

    agent: str
    episodes: int
    findings: tuple[str, ...]
    tolerance: float = 0.0
    """By how much a return or an accuracy was allowed to differ."""

    @property
    def accepted(self) -> bool:
        """Was nothing found?"""
        return not self.findings

    def __str__(self) -> str:
        """In one line."""
        within = f" within a tolerance of {self.tolerance:g}" if self.tolerance else ""
        return f"{self.agent}: {self.episodes} episodes {'' if self.accepted else 'NOT '}confirmed{within}."


def validate(
    folder: Path,
    protocol: Protocol = PROTOCOL,
    *,
    tolerance: float = 0.0,
    threads: int = 1,
    show: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Check files, seeds and scores of the agent in a folder.

    Args:
        folder: the agent's results.
        protocol: what they are held against.
        tolerance: by how much a return or an accuracy may differ. On the machine and with the versions that an
            agent was evaluated with, replays agree to the last bit; on others rounding differs, and grows.
        threads: stacks of hosts run at the same time.
        show: told of progress.
    """
    agent = read_agent(folder)
    findings = list(_about_the_folder(agent, protocol))
    count = 0
    for task in agent.tasks:
        if task not in protocol.env:
            findings.append(f"{task} is no task of the protocol; it has {', '.join(protocol.env)}.")
            continue
        rows = agent.episodes(task)
        count += len(rows)
        found = list(_about_the_rows(agent, task, rows, protocol))
        show(f"{agent.name} on {task}: {len(rows)} episodes")
        findings += found or _about_the_scores(agent, task, rows, protocol, tolerance, threads)
    if findings and tolerance == 0 and _elsewhere(agent):
        findings.append(
            "Note: these results come from other versions of packages or another processor, where rounding differs; "
            "--tolerance says by how much scores may."
        )
    return Verdict(agent.name, count, tuple(findings), tolerance)


def _about_the_folder(agent: Agent, protocol: Protocol) -> Iterable[str]:
    if agent.name != agent.folder.resolve().name:
        yield f"The folder is called {agent.folder.resolve().name}, but its agent {agent.name}."
    if agent.manifest.get("protocol") != protocol.version:
        yield f"The results belong to version {agent.manifest.get('protocol')} of the protocol, not {protocol.version}."
    if not agent.tasks:
        yield "There are no results: a file TASK.csv for each task is expected."


def _about_the_rows(agent: Agent, task: str, rows: list[Episode], protocol: Protocol) -> Iterable[str]:
    if any(row.agent != agent.name or row.task != task for row in rows):
        yield f"{task}.csv has rows of another agent or task than {agent.name} and {task}."
    held_out = set(protocol.held_out_seeds())
    by_training: dict[int, list[int]] = {}
    for row in rows:
        by_training.setdefault(row.training_seed, []).append(row.evaluation_seed)
    for training, seeds in by_training.items():
        twice = [seed for seed, times in Counter(seeds).items() if times > 1]
        if twice or set(seeds) != held_out:
            lacking, foreign = sorted(held_out - set(seeds)), sorted(set(seeds) - held_out)
            yield (
                f"{task}: training seed {training} must play every held-out seed, {min(held_out)} to {max(held_out)}, "
                f"once; missing {lacking[:SHOWN]}, foreign {foreign[:SHOWN]}, twice {twice[:SHOWN]}."
            )
    name, share = unscaled(agent.name)
    asked = [scaled(entry, share) for entry in protocol.entries if entry.agent == name and entry.task == task]
    for entry in asked:
        foreign = sorted(set(by_training) - set(entry.seeds))
        if foreign:
            yield f"{task}: the protocol has no training seeds {foreign} for {name}."
    told = agent.manifest.get("runs", {}).get(task, {})
    for training in by_training:
        steps = told.get(str(training), {}).get("steps")
        if steps is None:
            yield f"{task}: agent.json must say how many steps training seed {training} had."
        elif any(steps != entry.steps for entry in asked):
            yield f"{task}: training seed {training} had {steps} steps, where the protocol has {asked[0].steps}."
    if not agent.manifest.get("static"):
        recorded = set(agent.actions(task))
        if recorded != {key(row) for row in rows}:
            yield f"{task}: there must be one action sequence for every episode; {len(recorded)} for {len(rows)}."


def _about_the_scores(
    agent: Agent, task: str, rows: list[Episode], protocol: Protocol, tolerance: float, threads: int
) -> list[str]:
    env, differing = protocol.env_options(task), list[str]()
    if agent.manifest.get("static"):
        points = train_static(env, [row.evaluation_seed for row in rows], threads=threads)
        again = episodes(points, task, resolve(env)[0].max_epochs, agent=agent.name)
        said = agent.points(task)
        if [(p.evaluation_seed, p.epoch) for p in said] != [(p.evaluation_seed, p.epoch) for p in points]:
            return [f"{task}.curve.csv.gz must hold epochs 1 to {points[-1].epoch} of every held-out seed."]
        curves = [[as_episode(point, task, agent.name) for point in curve] for curve in (said, points)]
        pairs = [*zip(rows, again, strict=True), *zip(*curves, strict=True)]
    else:
        actions, pairs = agent.actions(task), []
        for training in sorted({row.training_seed for row in rows}):
            mine = [row for row in rows if row.training_seed == training]
            taken = [actions[key(row)] for row in mine]
            seeds = [row.evaluation_seed for row in mine]
            again = replay(taken, env, seeds, agent=agent.name, training_seed=training, threads=threads)
            pairs += zip(mine, again, strict=True)
    for row, played in pairs:
        differing += _differences(row, played, tolerance, plans=bool(agent.manifest.get("plans")))
    more = [f"… and {len(differing) - SHOWN} more."] if len(differing) > SHOWN else []
    return [*differing[:SHOWN], *more]


def _differences(row: Episode, played: Episode, tolerance: float, *, plans: bool) -> Iterable[str]:
    place = f"{row.task}, training seed {row.training_seed}, evaluation seed {row.evaluation_seed}"
    for name in (*SCORES, *COSTS):
        said, found = getattr(row, name), getattr(played, name)
        may_exceed = plans and name in COSTS
        if name in SCORES:
            fits = abs(said - found) <= (tolerance if name != "final_params" else 0)
        else:
            fits = said >= found if may_exceed else said == found
        if not fits:
            yield f"{place}: {name} is said to be {said!r}, the replay gives {found!r}."


def _elsewhere(agent: Agent) -> bool:
    """Were the results made with other versions, or on another machine, than these?"""
    from benchmarks.reports import machine

    here = {"versions": versions(), "processor": machine()["processor"]}
    sessions = [session for task in agent.tasks for run in agent.runs(task) for session in run.get("sessions", [])]
    return any(
        {"versions": session.get("versions"), "processor": session.get("machine", {}).get("processor")} != here
        for session in sessions
    )
