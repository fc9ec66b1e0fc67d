"""Wrappers for agents that want another shape of action.

What Gymnasium has already is not written again:

| to get | use |
|---|---|
| one flat vector as observation | `gymnasium.wrappers.FlattenObservation` |
| some keys of the observation only | `gymnasium.wrappers.FilterObservation` |
| a scaled, clipped or normalised reward | `gymnasium.wrappers.TransformReward`, `NormalizeReward` |
| earlier observations in the present one | `gymnasium.wrappers.FrameStackObservation` |
| the length and return of episodes | `gymnasium.wrappers.RecordEpisodeStatistics` |
"""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from esper_env.actions import CANONICAL_ACTION, CAUSAL_MASK, HEAD_INDEX, Op, blueprint_names, head_sizes
from esper_env.arrays import Bools, Ints
from esper_env.config import ConfigError, EnvConfig
from esper_env.env import SeedEnv
from esper_env.masks import head_slices
from esper_env.simulation import Simulation
from esper_env.spaces import Observation
from esper_env.vector_env import SeedVectorEnv


class JointActions:
    """All actions that can do something, numbered: every op with each combination of the heads that matter for it.

    Args:
        num_slots: slots of the environment.
        blueprints: names that can be planted; the others have no number.
        num_blueprints: size of the environment's blueprint head; that of one made now when None.
    """

    def __init__(self, num_slots: int, blueprints: tuple[str, ...], num_blueprints: int | None = None) -> None:
        self.num_slots, self.num_blueprints = num_slots, num_blueprints or len(blueprint_names())
        plantable = [i for i, name in enumerate(blueprint_names()) if name in blueprints]
        rows = []
        for op in Op:
            choices: list[Any] = [[int(value)] for value in CANONICAL_ACTION]
            for head, size in enumerate(head_sizes(num_slots, self.num_blueprints)):
                if CAUSAL_MASK[op, head]:
                    choices[head] = plantable if head == HEAD_INDEX["blueprint"] else range(size)
            choices[HEAD_INDEX["op"]] = [int(op)]
            rows += list(product(*choices))
        self.vectors: Ints = np.array(rows, np.int64)
        """The action vector of each number, `[actions, 8]`; number 0 is WAIT."""

    def __len__(self) -> int:
        return len(self.vectors)

    def mask(self, observation: Observation) -> Bools:
        """Which of them are legal in the states seen, `[..., actions]`: exactly those that would execute."""
        return self._legal(np.asarray(observation["action_mask"], bool), np.asarray(observation["slot_by_op"], bool))

    def present_mask(self, simulation: Simulation) -> Bools:
        """Which of them are legal in the present state of every host, `[envs, actions]`."""
        masks = simulation.masks()
        return self._legal(masks.heads, masks.slot_by_op)

    def _legal(self, heads: Bools, slot_by_op: Bools) -> Bools:
        op, slot = self.vectors[:, HEAD_INDEX["op"]], self.vectors[:, HEAD_INDEX["slot"]]
        ops = heads[..., head_slices(self.num_slots, self.num_blueprints)["op"]]
        joint = slot_by_op.reshape(*heads.shape[:-1], len(Op), self.num_slots)
        legal: Bools = ops[..., op] & (joint[..., op, slot] | (op == Op.WAIT))
        return legal

    def lookup(self, numbers: Any) -> Ints:
        """The vectors of these numbers, `[..., 8]`."""
        chosen = np.asarray(numbers)
        if not np.issubdtype(chosen.dtype, np.integer) or (chosen < 0).any() or (chosen >= len(self)).any():
            raise ValueError(f"An action is a whole number from 0 to {len(self) - 1} here; got {numbers!r}.")
        vectors: Ints = self.vectors[chosen]
        return vectors


def _joint_actions(config: EnvConfig, heads: spaces.MultiDiscrete) -> JointActions:
    """Those of an environment; blueprints may have been registered since it was made."""
    return JointActions(config.num_slots, config.blueprints, int(heads.nvec[HEAD_INDEX["blueprint"]]))


def _check_shape(numbers: Any, shape: tuple[int, ...]) -> None:
    if np.shape(numbers) != shape:
        what = f"{shape[0]} numbers, one for each host," if shape else "a single number"
        raise ValueError(f"An action is {what} here; got {numbers!r}.")


def _with_mask(info: dict[str, Any], mask: Bools) -> dict[str, Any]:
    return info | {"action_mask": mask.astype(np.int8)}


class FlatDiscrete(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """One `Discrete` action instead of eight heads, with an exact mask.

    `info["action_mask"]` is the mask that `action_space.sample(mask=...)` takes, `action_masks()` is what MaskablePPO
    asks for. `joint_actions.vectors[number]` tells what a number stands for. The observation stays as it is.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        bare = env.unwrapped
        if not isinstance(bare, SeedEnv):
            raise ConfigError(
                f"FlatDiscrete wraps Esper's environments, such as Esper-Seed-v0, not a {type(bare).__name__}."
            )
        self.joint_actions = _joint_actions(bare.config, bare.action_space)
        self.action_space = spaces.Discrete(len(self.joint_actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, _with_mask(info, self.action_masks())

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action of this number."""
        _check_shape(action, ())
        observation, reward, terminated, truncated, info = self.env.step(self.joint_actions.lookup(action))
        return observation, reward, terminated, truncated, _with_mask(info, self.action_masks())

    def action_masks(self) -> Bools:
        """Which numbers are legal in the present state, `[actions]`; before a `reset`, that of a host without seeds."""
        legal: Bools = self.joint_actions.present_mask(cast(SeedEnv, self.unwrapped)._simulation)[0]
        return legal


class FlatDiscreteVector(VectorWrapper):
    """`FlatDiscrete` for a vector environment; `info["action_mask"]` is `[num_envs, actions]`.

    So is that of `info["final_info"]`, with the mask of the last observation of hosts whose episode has ended.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        bare = env.unwrapped
        if not isinstance(bare, SeedVectorEnv):
            raise ConfigError(
                "FlatDiscreteVector wraps a SeedVectorEnv: gymnasium.make_vec with "
                f"vectorization_mode='vector_entry_point', not a {type(bare).__name__}."
            )
        heads = cast(spaces.MultiDiscrete, bare.single_action_space)
        self.joint_actions = _joint_actions(bare.config, heads)
        self.single_action_space = spaces.Discrete(len(self.joint_actions))
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, _with_mask(info, self.action_masks())

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take the actions of these numbers, one per host."""
        _check_shape(actions, (self.num_envs,))
        observation, reward, terminated, truncated, info = self.env.step(self.joint_actions.lookup(actions))
        if "final_info" in info:
            info["final_info"] = _with_mask(info["final_info"], self._final_masks(info["final_obs"]))
        return observation, reward, terminated, truncated, _with_mask(info, self.action_masks())

    def action_masks(self) -> Bools:
        """Which numbers are legal in the present states, `[num_envs, actions]`; before a `reset` as for one host."""
        return self.joint_actions.present_mask(cast(SeedVectorEnv, self.unwrapped)._simulation)

    def _final_masks(self, last: Any) -> Bools:
        masks = np.zeros((self.num_envs, len(self.joint_actions)), bool)
        for env, observation in enumerate(last):
            if observation is not None:
                masks[env] = self.joint_actions.mask(observation)
        return masks
