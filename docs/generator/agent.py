"""The agent: policies, options, backends, files of a run."""

from __future__ import annotations

from docs.generator.markdown import code, first_line, options, table
from esper_agent import listing
from esper_agent.commands import COMMANDS, Train
from esper_agent.config import PolicyConfig, PPOConfig
from esper_agent.rollout.backends import BACKENDS
from esper_agent.runs import TrainConfig


def policies() -> str:
    """Every policy and what it does."""
    return table(("Policy", "What it does"), ((code(name), told) for name, told in listing.policies().items()))


def backends() -> str:
    """Where environments can run."""
    return table(("Backend", "What it is"), ((code(name), told) for name, told in BACKENDS.items()))


def commands() -> str:
    """The commands of `esper`."""
    kinds = {"train": Train, **COMMANDS}
    return table(("Command", "What it does"), ((code(f"esper {n}"), first_line(k)) for n, k in kinds.items()))


def train_options() -> str:
    """The settings of a run."""
    return options(TrainConfig)


def ppo_options() -> str:
    """How a policy learns."""
    return options(PPOConfig)


def policy_options() -> str:
    """The shape of a policy."""
    return options(PolicyConfig)
