"""The single environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import nn

from esper_env.actions import as_vectors
from esper_env.config import ConfigError, EnvConfig
from esper_env.info import report
from esper_env.lifecycle.stages import Stage
from esper_env.network.export import GrownNetwork
from esper_env.options import resolve
from esper_env.simulation import Simulation
from esper_env.spaces import Observation, action_space, observation_space, observe, split_mask
from esper_env.states import pack, unpack

MAX_SEED = 2**63
_ONE = np.ones(1, bool)


class SeedEnv(gymnasium.Env[Observation, npt.NDArray[np.int64]]):
    """An agent grows a neural network while it trains."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None:
            raise ConfigError(f"render_mode {render_mode!r} is not available; this environment has no renderer.")
        self._options = options
        self.config: EnvConfig
        self.config, task = resolve(options)
        self._simulation = Simulation(self.config, task, 1)
        self._blueprints = len(self._simulation.blueprints)
        self.action_space: spaces.MultiDiscrete = action_space(self.config.num_slots, self._blueprints)
        self.observation_space: spaces.Dict = observation_space(self.config.num_slots, self._blueprints)
        self._running = False
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Build a fresh host from the seed and validate it untrained; `options` are not used."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
        self._simulation.reset(_ONE, [episode])
        self._running = self._begun = True
        return self._observe()

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action and train one epoch; an illegal action runs as WAIT."""
        if not self._running:
            problem = "The episode is over" if self._begun else "No episode has begun"
            raise ResetNeeded(f"{problem}: call reset() before step().")
        outcome = self._simulation.step(as_vectors(np.asarray(action)[None], 1))
        self._running = not outcome.terminated[0]
        observation, info = self._observe()
        return observation, float(outcome.reward[0]), bool(outcome.terminated[0]), False, info

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        observation = {name: array[0] for name, array in observe(self._simulation).items()}
        info: dict[str, Any] = {name: array[0] for name, array in report(self._simulation).items()}
        info["reward_terms"] = {name: term[0] for name, term in self._simulation.terms.items()}
        info["action_mask"] = split_mask(observation["action_mask"], self.config.num_slots, self._blueprints)
        return observation, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The mask of the present state, flat over heads, as sb3-contrib's MaskablePPO asks for it."""
        return self._simulation.masks().heads[0]

    # States

    def get_state(self) -> dict[str, Any]:
        """Everything that evolves, as an independent, picklable copy."""
        shell = {"running": self._running, "begun": self._begun, "np_random": self._np_random}
        return pack(self._simulation, shell)

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state; one that is foreign, older or of another configuration is refused."""
        shell = unpack(self._simulation, state)
        self._running, self._begun, self._np_random = shell["running"], shell["begun"], shell["np_random"]

    def fork(self) -> SeedEnv:
        """An independent environment in the same state."""
        twin = SeedEnv(**self._options)
        twin.spec = self.spec
        twin.set_state(self.get_state())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self._options, "spec": self.spec, "state": self.get_state()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(**saved["options"])  # type: ignore[misc]
        self.spec = saved["spec"]
        self.set_state(saved["state"])

    def export_host(self) -> nn.Module:
        """The grown committed network (the host and its fossilized seeds) as an independent module."""
        if not self._begun:
            raise ResetNeeded("There is no host yet: call reset() before export_host().")
        network, env = self._simulation.population.home(0)
        slots = self._simulation.slots
        return GrownNetwork(network, env, slots.stage[0] == Stage.FOSSILIZED, slots.algorithm[0])

    def close(self) -> None:
        """Free threads; the environment can not be stepped afterwards."""
        self._simulation.population.close()
