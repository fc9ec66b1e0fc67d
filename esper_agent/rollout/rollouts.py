"""What a backend is to those who use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tensordict import TensorDictBase

from esper_env.config import ConfigError


class Rollouts(Protocol):
    """A policy at work in many environments."""

    resumes_exactly: bool
    """Does `load_state_dict` continue as if there had been no interruption? If not, episodes begin anew."""

    seconds: dict[str, float]
    """Where the time of the latest `collect` went: `env` and `policy`."""

    def collect(self) -> TensorDictBase:
        """The next rollout `[envs, steps]`, contiguous in time, rows always the same environments.

        Root: observation, `is_init`, recurrent state before the step, what the policy wrote. `next`: reward, ends,
        observation (the last one of an episode that ended), `info`, recurrent state after the step.
        """

    def sync(self) -> None:
        """Let the policy's present weights act from now on; call it after every update."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; the policy's weights are not part of it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a `state_dict` of the same backend: exactly, or (with a warning) with new episodes."""

    def close(self) -> None:
        """Stop threads, processes or actors."""


def require_backend(state: Mapping[str, Any], backend: str) -> None:
    """Refuse a `state_dict` of another backend."""
    if state.get("backend") != backend:
        raise ConfigError(
            f"This state was saved by the {state.get('backend')} backend and cannot be continued by the {backend} one: "
            "resume with the backend that the run began with."
        )
