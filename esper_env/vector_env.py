"""The vector environment: the same simulation with many hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import nn

from esper_env.actions import CANONICAL_ACTION, as_vectors
from esper_env.arrays import Bools, Ints
from esper_env.config import ConfigError, check_number, plain, unknown_name
from esper_env.env import MAX_SEED
from esper_env.info import report
from esper_env.options import resolve
from esper_env.simulation import Simulation
from esper_env.spaces import Observation, action_space, observation_space, observe, split_mask
from esper_env.states import pack, unpack

MADE_WITH = ("num_envs", "chunk", "threads", "max_episode_steps", "autoreset_mode", "render_mode")
"""Arguments of a vector environment beside those of its simulation."""
AUTORESET_MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}
Info = dict[str, Any]


class SeedVectorEnv(VectorEnv[Observation, Ints, npt.NDArray[Any]]):
    """Many `SeedEnv` as one stacked network: see `esper_env.SeedEnv` for actions, observations and rewards.

    Args:
        num_envs: number of hosts.
        chunk: hosts per stacked network; None chooses what suits the cache.
        threads: stacks that run at the same time.
        max_episode_steps: truncate episodes at so many steps.
        autoreset_mode: `next_step` (default), `same_step` or `disabled`, or the `AutoresetMode` member.
        render_mode: None; to watch a host, make a single environment and give it that host's seed.
        options: the arguments of `SeedEnv`.

    `reset(seed=s)` seeds host i with s + i, and host i then draws the seeds of its later episodes as a `SeedEnv`
    seeded alike does. With `same_step` the last observation of an episode is in `info["final_obs"]`. With
    `disabled` finished hosts are restarted by `reset(options={"reset_mask": mask})`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        num_envs: int = 1,
        *,
        chunk: int | None = None,
        threads: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = "next_step",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if render_mode is not None:
            raise ConfigError(
                f"render_mode={render_mode!r}: many hosts at once are not drawn. To watch one, make a single "
                "environment with this render_mode and reset it with that host's seed."
            )
        num_envs, chunk, threads, max_episode_steps = map(plain, (num_envs, chunk, threads, max_episode_steps))
        check_number("num_envs", num_envs, 1, whole=True)
        check_number("threads", threads, 1, whole=True)
        for name, value in (("chunk", chunk), ("max_episode_steps", max_episode_steps)):
            if value is not None:
                check_number(name, value, 1, whole=True)
        self._made_with: dict[str, Any] = {
            "chunk": chunk,
            "threads": threads,
            "max_episode_steps": max_episode_steps,
        } | options
        self.config, task = resolve(options, MADE_WITH)
        self.num_envs = num_envs
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._simulation = Simulation(self.config, task, num_envs, chunk=chunk, threads=threads)
        self._blueprints = len(self._simulation.blueprints)
        self.single_action_space = action_space(self.config.num_slots, self._blueprints)
        self.single_observation_space = observation_space(self.config.num_slots, self._blueprints)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._max_steps = max_episode_steps
        self._steps = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)
        self._begun = np.zeros(num_envs, bool)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Iterable[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin new episodes in all hosts, or in those under `options["reset_mask"]`."""
        mask = self._reset_mask(options)
        if isinstance(seed, (int, np.integer)):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
        self._restart(mask, self._seeds(seed))
        observation = observe(self._simulation)
        return observation, self._info(observation, mask)

    def _reset_mask(self, options: dict[str, Any] | None) -> Bools:
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, bool)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {mask!r}.")
        if not mask.any():
            raise ValueError("options['reset_mask'] selects no environment; leave the call out.")
        return mask

    def _seeds(self, seed: int | Iterable[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + env for env in range(self.num_envs)]
        seeds = list(seed) if np.iterable(seed) else []
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed must be an int, or {self.num_envs} of them, one for each environment; got {seed!r}."
            )
        return [None if each is None else index(each) for each in seeds]

    def _restart(self, mask: Bools, seeds: Sequence[int | None]) -> None:
        given = {env: seed for env, seed in enumerate(seeds) if mask[env] and seed is not None}
        # All generators before anything changes, for a seed may be refused.
        fresh = {env: seeding.np_random(seed)[0] for env, seed in given.items()}
        self._generators = [fresh.get(env, generator) for env, generator in enumerate(self._generators)]
        drawn = {env: int(self._generators[env].integers(MAX_SEED)) for env in np.flatnonzero(mask) if env not in given}
        self._simulation.reset(mask, [(given | drawn)[env] for env in np.flatnonzero(mask)])
        self._steps[mask], self._over[mask], self._begun[mask] = 0, False, True

    def step(self, actions: Ints) -> tuple[Observation, npt.NDArray[np.float64], Bools, Bools, Info]:
        """Carry out one action per host and train one epoch; illegal actions run as WAIT."""
        vectors = as_vectors(actions, self.num_envs)
        if not self._begun.all():
            raise ResetNeeded("No episode has begun: call reset() before step().")
        waiting = self._over.copy()
        if waiting.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            ended = np.flatnonzero(waiting).tolist()
            raise ResetNeeded(f"Environments {ended} have ended: reset(options={{'reset_mask': ...}}) them first.")
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        if not waiting.all():
            # Hosts about to be reset are carried along: what they compute is thrown away below.
            outcome = self._simulation.step(np.where(waiting[:, None], CANONICAL_ACTION, vectors))
            self._steps += 1
            reward = np.where(waiting, 0.0, outcome.reward)
            terminated = outcome.terminated & ~waiting
            if self._max_steps is not None:
                truncated = (self._steps >= self._max_steps) & ~waiting
        if waiting.any():
            self._restart(waiting, [None] * self.num_envs)
        over = terminated | truncated
        final = self._finish(over)
        self._over = over & (self.autoreset_mode != AutoresetMode.SAME_STEP)
        observation = observe(self._simulation)
        return observation, reward, terminated, truncated, self._info(observation) | final

    def _finish(self, over: Bools) -> Info:
        """In `same_step` mode keep the last observation and info of finished episodes, and begin new ones."""
        if self.autoreset_mode != AutoresetMode.SAME_STEP or not over.any():
            return {}
        observation = observe(self._simulation)
        last = np.full(self.num_envs, None, dtype=object)
        for env in np.flatnonzero(over).tolist():
            last[env] = {name: array[env] for name, array in observation.items()}
        info = self._info(observation, over)
        self._restart(over, [None] * self.num_envs)
        return {"final_obs": last, "_final_obs": over.copy(), "final_info": info, "_final_info": over.copy()}

    def _info(self, observation: Observation, present: Bools | None = None) -> Info:
        """The info of every host; each key `k` has Gymnasium's mask `_k` of the hosts that it was made for."""
        present = np.ones(self.num_envs, bool) if present is None else present
        terms: Info = {name: term.copy() for name, term in self._simulation.terms.items()}
        info: Info = report(self._simulation) | {
            "reward_terms": terms | {f"_{name}": present.copy() for name in terms},
            "action_mask": split_mask(observation["action_mask"], self.config.num_slots, self._blueprints),
        }
        return info | {f"_{name}": present.copy() for name in info}

    def action_masks(self) -> Bools:
        """Masks of the present states, `[num_envs, sum(nvec)]`."""
        return self._simulation.masks().heads

    def export_host(self, env: int) -> nn.Module:
        """The grown committed network of host number `env` as an independent module.

        With `same_step` autoreset a finished host is gone when its last step returns: use `next_step` to keep it.
        """
        if not 0 <= env < self.num_envs:
            raise IndexError(f"There are hosts 0 to {self.num_envs - 1}, not {env}.")
        if not self._begun[env]:
            raise ResetNeeded("There is no host yet: call reset() before export_host().")
        return self._simulation.export_host(env)

    # States

    _EVOLVING = ("_steps", "_over", "_begun", "_generators")

    def _shell(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._EVOLVING}

    def get_state(self) -> dict[str, Any]:
        """Everything that evolves, as an independent, picklable copy."""
        return pack(self._simulation, self._shell())

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state; one that is foreign, older or of another configuration is refused."""
        for name, value in unpack(self._simulation, self._shell(), state).items():
            setattr(self, name, value)

    def fork(self) -> Self:
        """An independent vector environment in the same state."""
        twin = type(self)(self.num_envs, autoreset_mode=self.autoreset_mode, **self._made_with)
        twin.spec = self.spec
        twin.set_state(self.get_state())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        made = {"num_envs": self.num_envs, "autoreset_mode": self.autoreset_mode} | self._made_with
        kept = {name: getattr(self, name) for name in ("spec", "action_space", "single_action_space")}
        return {"made_with": made, "kept": kept, "state": self.get_state()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(**saved["made_with"])  # type: ignore[misc]
        self.__dict__.update(saved["kept"])
        self.set_state(saved["state"])

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        if hasattr(self, "_simulation"):  # Gymnasium 1.1 also closes what never came to be
            self._simulation.population.close()


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    for name, member in AUTORESET_MODES.items():
        if mode in (member, name, member.value):
            return member
    raise ConfigError(unknown_name("autoreset_mode", mode, AUTORESET_MODES))
