"""The vector environment as stable-baselines3 knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

try:
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "esper_env.sb3 needs stable-baselines3: pip install 'esper-env[compat]'.", name=error.name
    ) from error

from esper_env.arrays import Ints
from esper_env.vector_env import SeedVectorEnv

Info = dict[str, Any]


class SeedVecEnv(VecEnv):
    """Many environments as one stacked network, for agents of stable-baselines3 and sb3-contrib.

    The same as a `DummyVecEnv` of `SeedEnv`, but trained together: finished episodes begin anew by themselves, with
    `terminal_observation` and `TimeLimit.truncated` in the info of their last step.

    Args:
        num_envs: number of hosts.
        options: those of `SeedVectorEnv` (but `autoreset_mode`): `task`, `threads`, `max_episode_steps`, …

    Example:
        >>> from sb3_contrib import MaskablePPO
        >>> envs = SeedVecEnv(2, task="digits", max_epochs=4)
        >>> agent = MaskablePPO("MultiInputPolicy", envs, n_steps=4, batch_size=8, n_epochs=1, device="cpu", seed=1)
        >>> agent.learn(8).num_timesteps
        8
    """

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        self.vector_env = SeedVectorEnv(num_envs, **options, autoreset_mode="same_step")
        self._actions: Ints | None = None
        super().__init__(num_envs, self.vector_env.single_observation_space, self.vector_env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin new episodes, from the seeds given to `seed` or with each host's own next one."""
        observation, info = self.vector_env.reset(seed=self._seeds)
        self.reset_infos = [_of(info, env) for env in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: Ints) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out the actions; what has ended begins anew in the same step."""
        observation, reward, terminated, truncated, info = self.vector_env.step(np.asarray(self._actions))
        over = terminated | truncated
        infos = []
        for env in range(self.num_envs):
            own = _of(info["final_info"] if over[env] else info, env)
            own["TimeLimit.truncated"] = bool(truncated[env] and not terminated[env])
            if over[env]:
                own["terminal_observation"] = info["final_obs"][env]
                self.reset_infos[env] = _of(info, env)
            infos.append(own)
        return observation, reward.astype(np.float32), over, infos

    def close(self) -> None:
        """Stop the threads."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute once per environment; the spaces are those of a single one."""
        single = {
            "observation_space": self.vector_env.single_observation_space,
            "action_space": self.vector_env.single_action_space,
        }
        value = single[attr_name] if attr_name in single else getattr(self.vector_env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not possible: the environments are one, and their configuration is fixed when it is made."""
        raise NotImplementedError(
            f"{attr_name!r} can not be set: the environments of a SeedVecEnv share what they were made with. "
            "Make another SeedVecEnv with other options."
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """`action_masks` of each environment; there are no single environments to call anything else on."""
        if method_name != "action_masks":
            raise AttributeError(f"SeedVecEnv has the method 'action_masks' for each environment, not {method_name!r}.")
        masks = self.vector_env.action_masks()
        return [masks[env] for env in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Nothing is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Any]:
        """There is no renderer."""
        return [None for _ in range(self.num_envs)]


def _of(info: Info, env: int) -> Info:
    """One environment's part of a vector environment's info, as the single environment reports it."""
    return _named({name: value for name, value in info.items() if not name.startswith(("final_", "_final_"))}, env)


def _named(values: Info, env: int) -> Info:
    """The parts of all but Gymnasium's masks, `_k` beside each key `k`."""
    masks = {f"_{name}" for name in values}
    return {name: _part(value, env) for name, value in values.items() if name not in masks}


def _part(value: Any, env: int) -> Any:
    if isinstance(value, dict):
        return _named(value, env)
    if isinstance(value, tuple):
        return tuple(part[env] for part in value)
    return value[env] if value.ndim > 1 else value[env].item()
