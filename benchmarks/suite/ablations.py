"""Agents that lack something, where the configuration has no switch for it: policies by name.

esper train --policy benchmarks.suite.ablations:no-feedback
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper_agent.config import PolicyConfig
from esper_agent.policies.networks import PolicyNetwork
from esper_agent.policies.registry import network_policy, policy_names, register_policy
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


POLICIES = {"no-feedback": NoFeedback, "no-blueprints": NoBlueprints}
for _name, _network in POLICIES.items():
    if _name not in policy_names():
        register_policy(_name, network_policy(PolicyConfig(), _network))
