"""Agents that lack something, where the configuration has no switch for it: policies by name.

esper train --policy benchmarks.suite.ablations:no-feedback
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from esper_agent.config import PolicyConfig
from esper_agent.policies.actor_critic import ActorCritic
from esper_agent.policies.distribution import ActionLayout
from esper_agent.policies.networks import PolicyNetwork, initialise
from esper_agent.policies.registry import policy_names, register_policy
from esper_agent.spec import EnvSpec
from esper_env.observation import BASE_FEATURES

FEEDBACK = tuple(i for i, feature in enumerate(BASE_FEATURES) if feature.name.startswith("last_action"))
"""Features on the last action: whether it executed, and which op it asked for."""


class NoFeedback(PolicyNetwork):
    """Does not see what it did last."""

    def _encode(self, features: Tensor, blueprint_index: Tensor) -> Tensor:
        seen = features.clone()
        seen[..., list(FEEDBACK)] = 0.0
        return super()._encode(seen, blueprint_index)


class NoBlueprints(PolicyNetwork):
    """Does not see which blueprint a slot holds: every slot looks empty."""

    def _encode(self, features: Tensor, blueprint_index: Tensor) -> Tensor:
        return super()._encode(features, torch.full_like(blueprint_index, -1))


def _build(kind: type[PolicyNetwork], spec: EnvSpec, generator: torch.Generator, **options: Any) -> ActorCritic:
    """The default policy around another network, with the same initial weights from the same seed."""
    config = PolicyConfig.from_mapping("policy", options)
    with torch.random.fork_rng(devices=[]):
        network = kind(spec, config)
    initialise(network, generator)
    return ActorCritic(
        ActionLayout(spec.num_slots, spec.num_blueprints, config.uniform_mixing, config.first_bias), network
    )


def no_feedback(spec: EnvSpec, *, generator: torch.Generator, **options: Any) -> ActorCritic:
    """`lstm` without the features on its last action."""
    return _build(NoFeedback, spec, generator, **options)


def no_blueprints(spec: EnvSpec, *, generator: torch.Generator, **options: Any) -> ActorCritic:
    """`lstm` without the blueprints in its slots."""
    return _build(NoBlueprints, spec, generator, **options)


POLICIES = {"no-feedback": no_feedback, "no-blueprints": no_blueprints}
for _name, _factory in POLICIES.items():
    if _name not in policy_names():
        register_policy(_name, _factory)
