"""What a policy has to know about an environment, as three numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from esper_env.actions import HEAD_NAMES, Op, head_sizes
from esper_env.config import ConfigError

OBSERVATION_KEYS = ("features", "blueprint_index", "action_mask", "slot_by_op")


@dataclass(frozen=True)
class EnvSpec:
    """Sizes of an environment's observation and action, from which every layer's size follows."""

    num_slots: int = 3
    num_blueprints: int = 13
    num_features: int = 112

    @property
    def head_sizes(self) -> tuple[int, ...]:
        """Choices per action head, in the order of the action vector."""
        return head_sizes(self.num_slots, self.num_blueprints)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each observation entry, without batch dimensions."""
        return {
            "features": (self.num_features,),
            "blueprint_index": (self.num_slots,),
            "action_mask": (sum(self.head_sizes),),
            "slot_by_op": (len(Op) * self.num_slots,),
        }

    @classmethod
    def of(cls, env: Any) -> Self:
        """The spec of a Gymnasium environment (single or vector); a spec passes through."""
        if isinstance(env, cls):
            return env
        action_space = getattr(env, "single_action_space", None) or getattr(env, "action_space", None)
        observation_space = getattr(env, "single_observation_space", None) or getattr(env, "observation_space", None)
        if action_space is None or observation_space is None:
            raise TypeError(f"expected a Gymnasium environment or an EnvSpec, got {type(env).__name__}.")
        nvec = tuple(int(n) for n in getattr(action_space, "nvec", ()))
        if len(nvec) != len(HEAD_NAMES):
            raise ValueError(
                f"the action space must be MultiDiscrete with the heads {', '.join(HEAD_NAMES)}; got {action_space}."
            )
        missing = [key for key in OBSERVATION_KEYS if key not in getattr(observation_space, "spaces", {})]
        if missing:
            raise ValueError(
                f"the observation space lacks {', '.join(missing)}; a policy reads {', '.join(OBSERVATION_KEYS)} "
                "(has a wrapper flattened or filtered the observation?)."
            )
        spec = cls(nvec[0], nvec[1], int(observation_space["features"].shape[-1]))
        spec._check(nvec, observation_space)
        return spec

    def require(self, trained_on: Self, run: Path) -> None:
        """Refuse the policy of a run that was trained on other sizes.

        Raises:
            ConfigError: with both, and what to do.
        """
        if self == trained_on:
            return
        seen = (self.num_slots, self.num_blueprints) == (trained_on.num_slots, trained_on.num_blueprints)
        raise ConfigError(
            f"The policy of {run} was trained on {trained_on.told(features=seen)}; this environment has "
            f"{self.told(features=seen)}. Choose a task or num_slots with the same, or a run that was trained on these."
        )

    def told(self, *, features: bool = False) -> str:
        """Slots and blueprints in words, and `features` where they make a difference."""
        sizes = {"slot": self.num_slots, "blueprint": self.num_blueprints}
        sizes |= {"feature": self.num_features} if features else {}
        *first, last = (f"{size} {name}{'s' * (size != 1)}" for name, size in sizes.items())
        return f"{', '.join(first)} and {last}"

    def _check(self, nvec: tuple[int, ...], observation_space: Any) -> None:
        if nvec != self.head_sizes:
            raise ValueError(f"the action space has heads of {nvec} choices; expected {self.head_sizes}.")
        for key, shape in self.shapes.items():
            if observation_space[key].shape != shape:
                raise ValueError(f"observation {key!r} has shape {observation_space[key].shape}; expected {shape}.")
