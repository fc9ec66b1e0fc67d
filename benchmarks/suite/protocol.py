"""The protocol: what is compared, on what, with which seeds and budgets, and what each comparison is to show.

The tables are fixed before the final runs. A change of any row that has been run is a new `VERSION`, and results of
different versions are never put side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from esper_env.config import ConfigError, unknown_name

VERSION = 8

TUNED_SINCE = 6
"""The version since which nothing that settings are chosen by has changed, neither the environment nor the tuning
seeds: what was tried then still counts."""
HELD_OUT_SEED = 1_000_000 + 1_000 * VERSION
"""The first held-out seed. They are played once per final policy, and no earlier version has played them."""
TUNING_SEED = 800_000
"""The first of the seeds that settings are chosen by: above those that training begins with, below the held-out."""
UNTRAINED = (-1,)
"""The training seed of what does not learn."""


@dataclass(frozen=True)
class Contestant:
    """Somebody who plays: how it is made, and with what settings."""

    name: str
    kind: str
    """A key of `benchmarks.suite.contestants.KINDS`."""
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: str = ""
    """The grid of `benchmarks.suite.tuning` that its settings are chosen from; none when empty."""
    tuned_on: str = ""
    """The task that it is tuned on; each task on its own when empty."""
    plans: bool = False
    """Does it try actions out on forks? Then its FLOPs and steps hold more than the episode's."""


@dataclass(frozen=True)
class Entry:
    """A contestant on a task: with which training seeds, and for how many environment steps each."""

    agent: str
    task: str
    seeds: tuple[int, ...] = UNTRAINED
    steps: int = 0


@dataclass(frozen=True)
class Comparison:
    """A claim: an agent against others in some quantities, and what it takes for the claim to hold."""

    claim: str
    agent: str
    against: tuple[str, ...]
    tasks: tuple[str, ...]
    quantities: tuple[str, ...]
    goal: str
    """A key of `GOALS`."""


GOALS = {
    "above": "the agent's interval lies above the other's",
    "not below": "the agent's estimate reaches at least the lower end of the other's interval",
    "reported": "no goal: reported, whatever it is",
}


@dataclass(frozen=True)
class Late:
    """A claim about the last tenth of a training: a share or a mean of a metric."""

    claim: str
    metric: str
    over: float
    """The goal: the value lies above this."""
    relative_to: str = ""
    """Count the share of updates in which the metric exceeds `alive` of this one, rather than taking the mean."""
    alive: float = 0.0


@dataclass(frozen=True)
class Protocol:
    """All tables together."""

    contestants: tuple[Contestant, ...]
    entries: tuple[Entry, ...]
    comparisons: tuple[Comparison, ...]
    late: tuple[Late, ...]
    env: Mapping[str, Mapping[str, Any]]
    """For every task, arguments of its environment besides the task: the same for all contestants."""
    episodes: int = 50
    """Held-out episodes per final policy."""
    tuning_episodes: int = 16
    tuning_steps: int = 20_000
    """Steps that a learner is trained for with each setting it is tuned over."""
    num_envs: int = 16
    temperatures: tuple[float, ...] = (1.0, 0.25, 0.0)
    """At which a learned policy may draw in held-out episodes: the one that returns most on tuning seeds, for every
    training. At 1 it plays as in training, with all that it explored with; at 0 it may be caught where the likeliest
    action changes nothing."""
    version: int = VERSION
    tuned_since: int = TUNED_SINCE

    def contestant(self, name: str) -> Contestant:
        """The contestant of this name."""
        found = {contestant.name: contestant for contestant in self.contestants}
        if name not in found:
            raise ConfigError(unknown_name("contestant", name, found))
        return found[name]

    def entry(self, agent: str, task: str) -> Entry:
        """The row of a contestant on a task."""
        self.contestant(agent)
        rows = {entry.task: entry for entry in self.entries if entry.agent == agent}
        if task not in rows:
            raise ConfigError(unknown_name(f"task for {agent}", task, rows))
        return rows[task]

    def env_options(self, task: str) -> dict[str, Any]:
        """Arguments of the environment that everybody plays in."""
        if task not in self.env:
            raise ConfigError(unknown_name("task of the protocol", task, self.env))
        return {"task": task, **self.env[task]}

    def held_out_seeds(self) -> list[int]:
        """The evaluation seeds of every final policy."""
        return [HELD_OUT_SEED + i for i in range(self.episodes)]

    def tuning_seeds(self) -> list[int]:
        """The evaluation seeds of every setting that is tried."""
        return [TUNING_SEED + i for i in range(self.tuning_episodes)]


def scaled(entry: Entry, budget: float) -> Entry:
    """The entry with a share of its training steps, under a name that says so wherever it appears."""
    if not 0 < budget <= 1:
        raise ConfigError(f"budget must be above 0 and at most 1, the share of the protocol's steps; got {budget}.")
    if budget == 1 or not entry.steps:
        return entry
    return replace(entry, agent=f"{entry.agent}@{budget:g}", steps=max(1, round(entry.steps * budget)))


def unscaled(label: str) -> tuple[str, float]:
    """Name of the contestant and share of the steps behind a label such as `lstm@0.1`."""
    name, at, share = label.partition("@")
    try:
        return name, float(share) if at else 1.0
    except ValueError as error:
        raise ConfigError(f"{label!r} is no contestant: after the @ stands the share of the steps.") from error


def _ablation(name: str, summary: str, **options: Any) -> Contestant:
    return Contestant(name, "esper", summary, options)


SCRIPTS = ("wait", "random", "schedule", "heuristic")
REFERENCE, BEGINNER = "lstm", "beginner"
ABLATIONS = (
    _ablation("lstm-q-op", "the op judged by Q(s, op), as the other heads are", ppo={"baseline": "q_op"}),
    _ablation("lstm-state", "everything judged by V(s)", ppo={"baseline": "state"}),
    _ablation(
        "lstm-lambda-95", "a λ of 0.95 for the returns: the critic's word for the far future", ppo={"gae_lambda": 0.95}
    ),
    _ablation("lstm-relevant", "a head's loss averaged over its steps alone", ppo={"head_average": "relevant"}),
    _ablation("lstm-even-entropy", "the same entropy bonus for every head", even_entropy=True),
    _ablation("lstm-no-feedback", "features 18 to 24, on the last action, are zero", policy="no-feedback"),
    _ablation("lstm-no-blueprints", "the blueprint in a slot is not seen", policy="no-blueprints"),
    _ablation(
        "lstm-parallel",
        "the blueprint chosen beside the slot, not for it",
        policy_options={"blueprint_by_slot": False},
    ),
    _ablation(
        "lstm-even-start", "no choice is less likely than another in the beginning", policy_options={"first_bias": {}}
    ),
    _ablation("lstm-128", "128 wide instead of 256", policy_options={"width": 128}),
)

CONTESTANTS = (
    Contestant("wait", "baseline", "never does anything"),
    Contestant("random", "baseline", "draws a legal action"),
    Contestant("schedule", "script", "a fixed script, the best of a grid on tuning seeds", grid="schedule"),
    Contestant("heuristic", "baseline", "rules of thumb that read the observation"),
    Contestant(BEGINNER, "baseline", "the default agent before its first update", {"policy": "lstm"}),
    Contestant(
        "greedy",
        "greedy",
        "tries plausible actions on forks for some epochs and keeps the best",
        {"every": 3, "horizon": 12},
        plans=True,
    ),
    Contestant("big", "static", "a network of the fully grown size, trained from the start"),
    Contestant("maskable-ppo", "maskable", "sb3-contrib's MaskablePPO with its defaults, 1,600 steps a rollout"),
    Contestant("maskable-ppo-tuned", "maskable", "the same with tuned settings", grid="maskable", tuned_on="digits"),
    Contestant("mlp", "esper", "our PPO, a policy without memory", {"policy": "mlp"}),
    Contestant(
        "lstm-v1",
        "esper",
        "our PPO, half as wide, a critic of states, blueprints beside the slot",
        {"policy": "lstm-v1", "ppo": {"baseline": "state"}},
    ),
    Contestant(REFERENCE, "esper", "our PPO with memory: the default agent"),
    *ABLATIONS,
    Contestant(
        "lstm-hindsight",
        "esper",
        "the default agent, paid hindsight credit as well",
        {"env": {"reward": {"hindsight": 0.1}}},
    ),
)

MAIN, CAPABLE, SCAFFOLD = ("digits", "shapes"), "digits_capable", "cells"
FIVE, THREE = (0, 1, 2, 3, 4), (0, 1, 2)
STEPS = 40_000
"""Of every training, so that all are compared at equal steps. Most of what an agent learns on `digits` it has learned
by then; two cores do some 80 steps a second there and 30 on `shapes`, and the whole protocol takes them 16 hours."""
EVERY_TASK = (*MAIN, CAPABLE, SCAFFOLD)

ENTRIES = (
    *(Entry(name, task) for task in EVERY_TASK for name in (*SCRIPTS, BEGINNER, "greedy", "big")),
    *(Entry(name, task, FIVE, STEPS) for task in MAIN for name in (REFERENCE, "maskable-ppo", "maskable-ppo-tuned")),
    *(Entry(name, "digits", THREE, STEPS) for name in ("mlp", "lstm-v1", *(ablation.name for ablation in ABLATIONS))),
    Entry(REFERENCE, CAPABLE, THREE, STEPS),
    *(Entry(name, SCAFFOLD, THREE, STEPS) for name in (REFERENCE, "lstm-hindsight")),
)

RETURN, ACCURACY = "objective_return", "committed_test_accuracy"

COMPARISONS = (
    Comparison("the agent beats what does not learn", REFERENCE, SCRIPTS, MAIN, (RETURN, ACCURACY), "above"),
    Comparison("what it is worth it has learned", REFERENCE, (BEGINNER,), MAIN, (RETURN, ACCURACY), "above"),
    Comparison("it has learned when growth does not pay", REFERENCE, ("wait",), (CAPABLE,), (RETURN,), "not below"),
    Comparison("growing against a big network at equal FLOPs", REFERENCE, ("big",), MAIN, (ACCURACY,), "reported"),
    Comparison("against planning at its own cost", REFERENCE, ("greedy",), MAIN, (RETURN, ACCURACY), "reported"),
    Comparison(
        "it beats MaskablePPO at equal steps",
        REFERENCE,
        ("maskable-ppo", "maskable-ppo-tuned"),
        MAIN,
        (RETURN,),
        "above",
    ),
    Comparison("the baseline", REFERENCE, ("lstm-q-op", "lstm-state"), ("digits",), (RETURN,), "reported"),
    Comparison(
        "the other parts of the agent",
        REFERENCE,
        (*(a.name for a in ABLATIONS if a.name not in ("lstm-q-op", "lstm-state")), "mlp", "lstm-v1"),
        ("digits",),
        (RETURN,),
        "reported",
    ),
    Comparison("hindsight credit", REFERENCE, ("lstm-hindsight",), (SCAFFOLD,), (RETURN,), "reported"),
)

LATE = (
    Late("the blueprint head still explores where it matters", "entropy/blueprint", 0.1),
    Late("the op head's gradient is alive", "gradient_norm/op", 0.8, relative_to="gradient_norm/total", alive=0.01),
    Late("the critic explains the returns", "value/explained_variance", 0.5),
)

PROTOCOL = Protocol(CONTESTANTS, ENTRIES, COMPARISONS, LATE, env={task: {} for task in EVERY_TASK})
