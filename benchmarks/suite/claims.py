"""What the results say: by task who scored what, and what became of every claim of the protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.suite.protocol import Comparison, Late, Protocol, unscaled
from benchmarks.suite.results import Agent
from benchmarks.suite.static import matched
from benchmarks.suite.statistics import Interval, improvement_probability, interquartile_mean, paired_difference
from esper_agent.evaluate import Episode
from esper_env.arrays import Floats
from esper_env.config import ConfigError

LEAST_GAP = 5.0
"""Points of accuracy that `big` must be above `wait` for a normalised score to mean anything."""


@dataclass
class Field:
    """All results on one task."""

    task: str
    agents: dict[str, Agent] = field(default_factory=dict)
    rows: dict[str, list[Episode]] = field(default_factory=dict)

    def scores(self, agent: str, quantity: str) -> list[Floats]:
        """Scores of an agent, an array for each training."""
        return by_training(self.rows[agent], quantity)

    def estimate(self, agent: str, quantity: str) -> Interval:
        """Interquartile mean of an agent."""
        return interquartile_mean(self.scores(agent, quantity))

    def against(self, agent: str, other: str) -> list[Episode]:
        """The episodes of another agent to compare an agent with: of `big` those of equal FLOPs."""
        points = self.agents[other].points(self.task)
        return matched(points, self.rows[agent]) if points else self.rows[other]

    def normalised(self, agent: str) -> float | None:
        """(agent - wait) / (big - wait) in mean test accuracy, `big` at the FLOPs of the agent; None if undefined."""
        if not {"wait", "big"} <= set(self.rows):
            return None
        own, wait, big = (_mean(rows) for rows in (self.rows[agent], self.rows["wait"], self.against(agent, "big")))
        return (own - wait) / (big - wait) if big - wait >= LEAST_GAP else None

    def outspending(self, agent: str) -> int:
        """In how many episodes has an agent spent more than the longest training of `big`?"""
        pairs = zip(self.rows[agent], self.against(agent, "big"), strict=True)
        return sum(row.flops > big.flops for row, big in pairs)


def by_training(rows: Iterable[Episode], quantity: str) -> list[Floats]:
    """Scores, an array for each training seed, in the order of the evaluation seeds."""
    found: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row.training_seed, row.evaluation_seed)):
        found.setdefault(row.training_seed, []).append(getattr(row, quantity))
    return [np.array(values) for values in found.values()]


def _mean(rows: Sequence[Episode]) -> float:
    return float(np.mean([row.committed_test_accuracy for row in rows]))


def gather(agents: Sequence[Agent], protocol: Protocol) -> dict[str, Field]:
    """Results by task, in the protocol's order of tasks and agents; others follow by name.

    Raises:
        ConfigError: when an agent's are of another version of the protocol.
    """
    for agent in agents:
        version = agent.manifest.get("protocol")
        if version != protocol.version:
            raise ConfigError(
                f"{agent.folder} holds results of version {version} of the protocol, which cannot stand beside those "
                f"of version {protocol.version}: run the agent again, or take the folder away."
            )
    order = [contestant.name for contestant in protocol.contestants]

    def place(agent: Agent) -> tuple[int, str]:
        name = unscaled(agent.name)[0]
        return (order.index(name) if name in order else len(order), agent.name)

    fields = {}
    for task in protocol.env:
        here = [agent for agent in sorted(agents, key=place) if task in agent.tasks]
        if here:
            found = {agent.name: agent for agent in here}
            fields[task] = Field(task, found, {agent.name: _whole(agent, task) for agent in here})
    return fields


def _whole(agent: Agent, task: str) -> list[Episode]:
    rows = agent.episodes(task)
    if len({len(scores) for scores in by_training(rows, "flops")}) != 1:
        raise ConfigError(
            f"{agent.folder / task}.csv needs as many episodes of every training: esper bench validate {agent.folder} "
            "says which are missing."
        )
    return rows


def missing(fields: Mapping[str, Field], protocol: Protocol) -> dict[tuple[str, str], tuple[int, int]]:
    """What the protocol asks for and the results do not hold: by agent and task, the training seeds there and asked."""
    lacking = {}
    for entry in protocol.entries:
        here = fields.get(entry.task)
        rows = here.rows.get(entry.agent, []) if here else []
        whole = sum(sum(row.training_seed == seed for row in rows) >= protocol.episodes for seed in entry.seeds)
        if whole < len(entry.seeds):
            lacking[entry.agent, entry.task] = (whole, len(entry.seeds))
    return lacking


# What became of the claims


@dataclass(frozen=True)
class Outcome:
    """One comparison of two agents in one quantity on one task."""

    comparison: Comparison
    task: str
    quantity: str
    other: str
    ours: Interval | None = None
    theirs: Interval | None = None
    probability: Interval | None = None
    difference: Interval | None = None
    """Mean difference on the same held-out seeds; None where not all of the same seeds were played."""
    whole: bool = True
    """Are both there with all training seeds and episodes?"""

    @property
    def verdict(self) -> str:
        """Does the claim hold?"""
        if self.ours is None or self.theirs is None:
            return "not run yet"
        so_far = "" if self.whole else " so far"
        if self.comparison.goal == "above":
            return ("holds" if self.ours.low > self.theirs.high else "**missed**") + so_far
        if self.comparison.goal == "not below":
            return ("holds" if self.ours.value >= self.theirs.low else "**missed**") + so_far
        return "reported" + so_far


def outcomes(fields: Mapping[str, Field], protocol: Protocol) -> list[Outcome]:
    """Every comparison of the protocol."""
    found, lacking = [], missing(fields, protocol)
    for comparison in protocol.comparisons:
        for task in comparison.tasks:
            for other in comparison.against:
                for quantity in comparison.quantities:
                    outcome = _outcome(fields.get(task), comparison, task, other, quantity)
                    whole = not {(comparison.agent, task), (other, task)} & set(lacking)
                    found.append(replace(outcome, whole=whole))
    return found


def _outcome(here: Field | None, comparison: Comparison, task: str, other: str, quantity: str) -> Outcome:
    agent = comparison.agent
    if here is None or not {agent, other} <= set(here.rows):
        return Outcome(comparison, task, quantity, other)
    rows = here.against(agent, other)
    ours, theirs = here.scores(agent, quantity), by_training(rows, quantity)
    seeds = [{row.evaluation_seed for row in played} for played in (here.rows[agent], rows)]
    return Outcome(
        comparison,
        task,
        quantity,
        other,
        interquartile_mean(ours),
        interquartile_mean(theirs),
        improvement_probability(ours, theirs),
        paired_difference(ours, theirs) if seeds[0] == seeds[1] else None,
    )


def late_values(agent: Agent, task: str, late: Late) -> list[float]:
    """A claim about the last tenth of the training, for every training seed."""
    found = []
    for updates in agent.curves(task).values():
        last = updates[-max(1, len(updates) // 10) :]
        values = [row[late.metric] for row in last if late.metric in row]
        if late.relative_to:
            values = [
                float(row[late.metric] > late.alive * row[late.relative_to])
                for row in last
                if late.metric in row and late.relative_to in row
            ]
        if values:
            found.append(float(np.mean(values)))
    return found
