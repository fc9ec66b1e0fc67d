"""Rollouts in one process: the policy and one batched environment take turns."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv

from esper_agent.rollout.rollouts import require_backend

SECONDS = ("env", "policy")


class BatchedRollouts:
    """Steps an environment with a policy and hands back what happened, rollout after rollout.

    A rollout is `[envs, time]`: at its root what the policy saw (with `is_init` and the recurrent state *before* the
    step) and what it wrote, under `next` what came of it, with the last observation of episodes that ended. Episodes
    run on from one rollout into the next.

    A loop over `step_and_maybe_reset` does the work, for TorchRL's `Collector` does the same with a copy of all data
    and keeps to itself the step it would take next, without which a run cannot be resumed bit for bit.

    Args:
        env: a batched environment; `InitTracker` and the policy's primer are added here.
        policy: an `ActorCritic`, or any policy that writes `action`.
        steps: steps per rollout and environment; whole episodes when it is the length of an episode.
        seed: host i begins with the episode of seed + i; fresh entropy when None.
    """

    resumes_exactly = True
    """Does `load_state_dict` continue as if there had been no interruption?"""

    def __init__(self, env: EnvBase, policy: TensorDictModuleBase, *, steps: int, seed: int | None = None) -> None:
        self._source = env
        self._env = recording(env, policy)
        self._policy = policy
        self._steps = steps
        self._upcoming: TensorDictBase | None = None
        self.seconds = dict.fromkeys(SECONDS, 0.0)
        if seed is not None:
            env.set_seed(seed)

    def collect(self) -> TensorDictBase:
        """The next rollout `[envs, steps]`; `seconds` then tells where its time went."""
        self.seconds = dict.fromkeys(SECONDS, 0.0)
        begun = time.perf_counter()
        upcoming = self._env.reset() if self._upcoming is None else self._upcoming
        self.seconds["env"] += time.perf_counter() - begun
        taken = []
        for _ in range(self._steps):
            step, upcoming = self._step(upcoming)
            taken.append(step)
        self._upcoming = upcoming
        rollout: TensorDictBase = torch.stack(taken, -1).contiguous()
        return rollout.exclude("info").reshape(-1, self._steps)

    def _step(self, present: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Act and step: what happened, and what the next step begins with."""
        begun = time.perf_counter()
        # Both moves are free where the policy lives on the CPU.
        acted = self._policy(present.to(_device(self._policy))).to("cpu")
        decided = time.perf_counter()
        step, upcoming = self._env.step_and_maybe_reset(acted)
        self.seconds["policy"] += decided - begun
        self.seconds["env"] += time.perf_counter() - decided
        return step, upcoming

    def sync(self) -> None:
        """Tell the rollouts that the policy has changed; here they share its weights."""

    def state_dict(self) -> dict[str, Any]:
        """Hosts and their data order, the step that comes next with its recurrent state, and the policy's draws."""
        return {
            "backend": "batched",
            "env": self._source.get_state(),
            "upcoming": None if self._upcoming is None else self._upcoming.clone().to_dict(),
            "generator": self._generator_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit, given the policy's weights of then."""
        require_backend(state, "batched")
        self._source.set_state(state["env"])
        upcoming = state["upcoming"]
        self._upcoming = None
        if upcoming is not None:
            self._upcoming = TensorDict(upcoming, self._env.batch_size, device="cpu").clone()
        self._set_generator_state(state["generator"])

    def _generator_state(self) -> torch.Tensor | None:
        generator: torch.Generator | None = getattr(self._policy, "generator", None)
        return None if generator is None else generator.get_state()

    def _set_generator_state(self, state: torch.Tensor | None) -> None:
        if state is not None:
            self._policy.generator.set_state(state)

    def close(self) -> None:
        """Stop the environment's threads or processes."""
        self._env.close(raise_if_closed=False)


def recording(env: EnvBase, policy: TensorDictModuleBase) -> TransformedEnv:
    """The environment with what a policy needs to know about time: beginnings, and its own recurrent state.

    Without its primer a policy with memory would forget at every step.
    """
    primers = [policy.make_tensordict_primer()] if getattr(policy, "state_keys", ()) else []
    return TransformedEnv(env, Compose(InitTracker(), *primers))


def _device(policy: TensorDictModuleBase) -> torch.device:
    tensor = next(itertools.chain(policy.parameters(), policy.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
