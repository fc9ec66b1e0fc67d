"""The environment as TorchRL sees it: `SeedVectorEnv`, with tensors for arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded
from torchrl.envs import EnvBase

from esper_env import SeedVectorEnv
from esper_env.info import report


class SeedTorchEnv(EnvBase):  # type: ignore[misc]
    """Many `SeedEnv` as one TorchRL environment with the batch size `[num_envs]`.

    | key | dtype, shape | |
    |---|---|---|
    | `features` | float32, features | |
    | `blueprint_index` | int64, slots | -1 when empty |
    | `action_mask` | bool, sum(nvec) | |
    | `slot_by_op` | bool, ops * slots | |
    | `("info", name)` | 1, or slots | every key of `esper_env.info.INFO`: float32, int64 or bool |
    | `("info", "reward_terms", name)` | float32, 1 | they add up to the reward |
    | `("info", "objective_return")` | float32, 1 | the objective of this episode so far, undiscounted |
    | `("info", "discounted_return")` | float32, 1 | its rewards so far, each discounted to the first step |
    | `action` | int64, 8 | |
    | `reward`, `done`, `terminated`, `truncated` | 1 | |

    A finished episode waits for a reset, whole or partial; TorchRL's `step_and_maybe_reset` sees to it and leaves the
    last observation where it is. The next episode's seed is drawn as `SeedVectorEnv` draws it.

    Args:
        num_envs: number of hosts.
        chunk: hosts per stacked network; None chooses what suits the cache.
        threads: stacks that run at the same time.
        max_episode_steps: truncate episodes at so many steps.
        seed: host i begins with the episode of seed + i; fresh entropy when None.
        options: the arguments of `SeedEnv`.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        chunk: int | None = None,
        threads: int = 1,
        max_episode_steps: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(batch_size=(num_envs,), device="cpu")
        with _gradients():
            self._vector = SeedVectorEnv(
                num_envs,
                chunk=chunk,
                threads=threads,
                max_episode_steps=max_episode_steps,
                autoreset_mode="disabled",
                **options,
            )
        self._seeds: list[int | None] = [None] * num_envs
        self._returns = {name: np.zeros(num_envs) for name in ("objective_return", "discounted_return")}
        self.single_action_space: Any = self._vector.single_action_space
        self.single_observation_space: Any = self._vector.single_observation_space
        self.config = self._vector.config
        self._declare()
        if seed is not None:
            self.set_seed(seed)

    def _declare(self) -> None:
        n, space = self.batch_size[0], self.single_observation_space
        features, index = space["features"], space["blueprint_index"]
        flag = Categorical(2, (n, 1), dtype=torch.bool)
        self.action_spec = MultiCategorical(self.single_action_space.nvec, (n, len(self.single_action_space.nvec)))
        self.observation_spec = Composite(
            features=Bounded(*_limits(features, n), dtype=torch.float32),
            blueprint_index=Bounded(*_limits(index, n), dtype=torch.int64),
            action_mask=Binary(shape=(n, *space["action_mask"].shape), dtype=torch.bool),
            slot_by_op=Binary(shape=(n, *space["slot_by_op"].shape), dtype=torch.bool),
            info=self._info_spec(),
            shape=(n,),
        )
        self.reward_spec = Unbounded((n, 1))
        self.done_spec = Composite(done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=(n,))

    def _info_spec(self) -> Composite:
        """Read off the tables themselves, so that what they gain later comes along."""
        simulation = self._vector._simulation
        example = _tensors(report(simulation) | {"reward_terms": simulation.terms} | self._returns)
        return Composite(_spec_like(example), shape=self.batch_size)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        begins = np.ones(self.batch_size, bool)
        if tensordict is not None and tensordict.get("_reset") is not None:
            begins = tensordict["_reset"].reshape(self.batch_size).numpy()
        seeds = [seed if chosen else None for seed, chosen in zip(self._seeds, begins.tolist(), strict=True)]
        with _gradients():
            observation, info = self._vector.reset(seed=seeds, options={"reset_mask": begins})
        self._seeds = [None if chosen else seed for seed, chosen in zip(self._seeds, begins.tolist(), strict=True)]
        for total in self._returns.values():
            total[begins] = 0.0
        return self._pack(observation, info)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        with _gradients():
            observation, reward, terminated, truncated, info = self._vector.step(tensordict["action"].numpy())
        self._returns["objective_return"] += info["objective_reward"]
        self._returns["discounted_return"] += self.config.reward.gamma ** (info["epoch"] - 1.0) * reward
        ends = {"done": terminated | truncated, "terminated": terminated, "truncated": truncated}
        return self._pack(observation, info, reward=reward, **ends)

    def _pack(
        self, observation: dict[str, npt.NDArray[Any]], info: dict[str, Any], **outcome: npt.NDArray[Any]
    ) -> TensorDict:
        masks = {name: observation[name].view(bool) for name in ("action_mask", "slot_by_op")}
        told = {name: value for name, value in info.items() if name != "action_mask"} | self._returns
        return TensorDict(_tensors(observation | masks | {"info": told} | outcome), self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        self._seeds = [None if seed is None else seed + env for env in range(self.batch_size[0])]

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Let host i begin its next episode with seed + i; returns the first seed that is left for others."""
        self._set_seed(seed)
        return seed if seed is None or static_seed else seed + self.batch_size[0]

    def get_state(self) -> dict[str, Any]:
        """Everything that evolves, as an independent, picklable copy."""
        returns = {name: total.copy() for name, total in self._returns.items()}
        return {"vector": self._vector.get_state(), "seeds": list(self._seeds), "returns": returns}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state; one that is foreign, older or of another configuration is refused."""
        self._vector.set_state(state["vector"])
        self._seeds = list(state["seeds"])
        self._returns = {name: total.copy() for name, total in state["returns"].items()}

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Stop the threads."""
        self._vector.close()
        super().close(raise_if_closed=raise_if_closed)


@contextmanager
def _gradients() -> Iterator[None]:
    """Collectors and evaluations step environments under `no_grad`, but these hosts train."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays as tensors with a last axis; those of the environment are made afresh each step, so memory is shared.

    Masks of the info (Gymnasium's `_name` beside `name`) are left out.
    """
    return {
        name: _tensors(value) if isinstance(value, dict) else _tensor(value)
        for name, value in arrays.items()
        if name[0] != "_"
    }


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return torch.from_numpy(array[:, None] if array.ndim == 1 else array)


def _spec_like(example: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Composite(_spec_like(value), shape=next(iter(value.values())).shape[:1])
        if isinstance(value, dict)
        else Unbounded(value.shape, dtype=value.dtype)
        for name, value in example.items()
    }


def _limits(space: Any, envs: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.from_numpy(limit).expand(envs, *limit.shape) for limit in (space.low, space.high))  # type: ignore[return-value]
