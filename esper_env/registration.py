"""The environment ids, one row each."""

from __future__ import annotations

from typing import Any

import gymnasium

IDS: dict[str, dict[str, Any]] = {
    "Esper-Seed-v0": {},
    "Esper-Seed-5Slot-v0": {"task": "digits_deep"},
    "Esper-Seed-Capable-v0": {"task": "digits_capable"},
    "Esper-Seed-Shapes-v0": {"task": "shapes"},
    "Esper-Seed-Story-v0": {"task": "story_grammar"},
    "Esper-Seed-CIFAR10-v0": {"task": "cifar10_baseline"},
    "Esper-Seed-CIFAR10-Impaired-v0": {"task": "cifar10_impaired"},
    "Esper-Seed-CIFAR10-Minimal-v0": {"task": "cifar10_minimal"},
    "Esper-Seed-CIFAR10-Scale-v0": {"task": "cifar10_scale"},
    "Esper-Seed-CIFAR10-MultiChannel-v0": {"task": "cifar10_multichannel"},
    "Esper-Seed-CIFAR10-PostPool-v0": {"task": "cifar10_postpool"},
    "Esper-Seed-CIFAR10-HighRes-v0": {"task": "cifar10_highres"},
    "Esper-Seed-CIFAR10-DeepMultiChannel-v0": {"task": "cifar10_deep_multichannel"},
    "Esper-Seed-CIFAR10-DeepImpaired-v0": {"task": "cifar10_deep_impaired"},
}
"""Keyword arguments that each id stands for; without any it is the default task, `digits`."""


def register_ids() -> None:
    """Register every id with Gymnasium; calling it again changes nothing."""
    for name, kwargs in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="esper_env.env:SeedEnv",
                vector_entry_point="esper_env.vector_env:SeedVectorEnv",
                kwargs=kwargs,
            )
