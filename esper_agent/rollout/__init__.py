"""Rollouts: the environment as TorchRL sees it, and the ways of running a policy in it."""

from esper_agent.rollout.backends import BACKENDS, make_rollouts
from esper_agent.rollout.rollouts import Rollouts

__all__ = ["BACKENDS", "Rollouts", "make_rollouts"]
