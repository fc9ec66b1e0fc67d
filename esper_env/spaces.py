"""Spaces of the environments, and the observation dict that fills them for all environments at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from esper_env.actions import head_sizes
from esper_env.masks import head_slices
from esper_env.observation import feature_bounds
from esper_env.simulation import Simulation

Observation = dict[str, npt.NDArray[Any]]


def action_space(num_slots: int, num_blueprints: int) -> spaces.MultiDiscrete:
    """One choice per head, in the order of `ACTION_HEADS`."""
    return spaces.MultiDiscrete(np.array(head_sizes(num_slots, num_blueprints)))


def observation_space(num_slots: int, num_blueprints: int) -> spaces.Dict[Any]:
    """One flat Dict.

    Flat, because nested masks break stable-baselines3 and two-dimensional MultiBinary breaks TorchRL.
    """
    low, high = feature_bounds(num_slots)
    return spaces.Dict(
        {
            "features": spaces.Box(low, high, dtype=np.float32),
            "blueprint_index": spaces.Box(-1, num_blueprints - 1, (num_slots,), np.int64),
            "action_mask": spaces.MultiBinary(sum(head_sizes(num_slots, num_blueprints))),
            "slot_by_op": spaces.MultiBinary(head_sizes(num_slots, num_blueprints)[-1] * num_slots),
        }
    )


def observe(simulation: Simulation) -> Observation:
    """Observations of every environment, each array with a leading environment axis."""
    masks = simulation.masks()
    return {
        "features": simulation.features(),
        "blueprint_index": simulation.slots.blueprint.astype(np.int64),
        "action_mask": masks.heads.astype(np.int8),
        "slot_by_op": masks.slot_by_op.reshape(simulation.envs, -1).astype(np.int8),
    }


def split_mask(
    action_mask: npt.NDArray[np.int8], num_slots: int, num_blueprints: int
) -> tuple[npt.NDArray[np.int8], ...]:
    """The flat mask by head, copied, as `action_space.sample(mask=...)` takes it."""
    mask = action_mask.copy()
    return tuple(mask[..., span] for span in head_slices(num_slots, num_blueprints).values())
