"""Streams of random numbers, and the thresholds of governor and signals, with the numbers in force."""

from __future__ import annotations

import inspect

from docs.generator.markdown import attribute_docs, code, first_line, table
from esper_env import signals
from esper_env.config import RewardConfig
from esper_env.growth import governor, training
from esper_env.streams import Streams


def streams() -> str:
    """Every stream of an episode, and what draws from it."""
    told = attribute_docs(Streams)
    for name, member in vars(Streams).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            told[name] = first_line(member)
    return table(("Stream", "Draws"), ((code(name), meaning) for name, meaning in told.items()))


def panics() -> str:
    """When the governor panics."""
    armed = f"{governor.ARMED} losses seen"
    rows = (
        ("not finite", "at once", "the validation loss is not finite, or a parameter of the host or its fossils"),
        (
            "lobotomy",
            armed,
            f"the mean loss was below {governor.LOBOTOMY_MEAN:g}·L0, and the loss is now within "
            f"{governor.LOBOTOMY_NEAR:.1%} of L0",
        ),
        (
            "divergence",
            armed,
            f"{governor.DIVERGENCE_STREAK} times running, the loss is above 3 times the mean, above the mean by 6 "
            "standard deviations, and above 3·L0",
        ),
    )
    return table(("Panic", "Armed", "When"), rows)


def governor_numbers() -> str:
    """How far back the governor looks, how often it takes snapshots, and what a panic costs."""
    return (
        f"It remembers the last {governor.WINDOW} losses that gave no cause for concern, takes a snapshot of host and "
        f"fossils at `reset`, after every {governor.SNAPSHOT_INTERVAL} healthy epochs and whenever a seed is "
        f"fossilized, and a rollback costs {RewardConfig.governor:g} points of reward (the option `governor`)."
    )


def signal_numbers() -> str:
    """The thresholds behind the signals of the observation."""
    low, high = signals.STABLE_GAIN
    rows = (
        ("plateau", f"one more with every epoch that gains less than {signals.PLATEAU_GAIN:g} points, else 0"),
        (
            "host stabilized",
            f"set after {signals.STABLE_EPOCHS} epochs running, from epoch {signals.FIRST_STABLE_EPOCH} on, in which "
            f"the loss changed by between {low:+.0%} and {high:+.0%} of itself (positive is better); it then stays set",
        ),
        ("trend, volatility", f"over the last {signals.WINDOW} epochs at most; deviations are population ones"),
        ("loss", f"clipped at {signals.MAX_LOSS:,.0f}"),
        (
            "gradient health",
            f"1 − 0.5·share of vanishing tensors − 0.8·share of exploding ones, between 0 and 1; a tensor "
            f"vanishes when its gradient's norm, as a mean over the batches, is below {training.VANISHING:g}, and "
            f"explodes above {training.EXPLODING:g}",
        ),
    )
    return table(("Signal", "How it is made"), rows)
