"""Rollouts on several machines: TorchRL's Ray collector over the same environment."""

from __future__ import annotations

import copy
import os
import secrets
import time
import warnings
from functools import partial
from importlib import import_module
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import TransformedEnv

from esper_agent.rollout.backends import require_backend
from esper_agent.rollout.batched import recording
from esper_agent.rollout.environment import SeedTorchEnv
from esper_agent.rollout.parallel import WorkerError, seed_after
from esper_env.config import ConfigError, check_number


class RayRollouts:
    """Rollouts of Ray actors, each with a copy of the policy and a batched environment of its share of hosts.

    The actors get the weights at `sync`, so call it after every update. An actor that dies or raises, or does not
    deliver a rollout in `steps` times `step_timeout` seconds, ends all of them in a `WorkerError`.

    Args:
        policy: an `ActorCritic`, or any policy that writes `action`.
        num_envs: hosts in all; a multiple of `workers`.
        steps: steps per rollout and environment.
        workers: actors, one CPU each.
        seed: host i begins with the episode of seed + i; fresh entropy when None.
        step_timeout: seconds that a step of an actor may take, on average over a rollout.
        ray_init: arguments of `ray.init`, such as the `address` of a cluster; a local one is started by default.
        options: of the environment.
    """

    resumes_exactly = False

    def __init__(
        self,
        policy: TensorDictModuleBase,
        *,
        num_envs: int,
        steps: int,
        workers: int = 2,
        seed: int | None = None,
        step_timeout: float = 600.0,
        ray_init: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check_number("workers", workers, 1, whole=True)
        check_number("step_timeout", step_timeout, 1e-3)
        if num_envs % workers:
            raise ConfigError(f"{num_envs} environments cannot be shared evenly by {workers} workers.")
        self._ray = _import_ray()
        self._policy, self._steps, self._workers, self._share = policy, steps, workers, num_envs // workers
        self._seed, self._collected, self._timeout = seed, 0, step_timeout * steps
        self._ray_init = ray_init or {
            "include_dashboard": False,
            "log_to_driver": False,  # errors come with the results
            "num_cpus": max(workers, os.cpu_count() or 1),
        }
        self._options = options
        self.seconds = {"env": 0.0, "policy": 0.0}
        self._collector = self._start(seed)

    def _start(self, seed: int | None) -> Any:
        from torchrl.collectors.distributed import RayCollector

        own = copy.deepcopy(self._policy).cpu()
        firsts = [None if seed is None else seed + i * self._share for i in range(self._workers)]
        with warnings.catch_warnings():
            # It fears that weights cannot be sent to a policy made by a factory, but they can.
            warnings.filterwarnings("ignore", "The policy is not an nn.Module")
            return RayCollector(
                [partial(_recorded_env, own, self._share, seed=first, **self._options) for first in firsts],
                # Copies of one policy would all draw the same actions.
                policy_factory=[partial(_reseeded, own, secrets.randbits(62) if f is None else f) for f in firsts],
                trust_policy=True,
                frames_per_batch=self._workers * self._share * self._steps,
                total_frames=-1,
                sync=True,
                ray_init_config=self._ray_init,
                remote_configs={"num_cpus": 1, "num_gpus": 0},
                # One dict each: in one dict for all, the last worker's policy factory replaces the others.
                collector_kwargs=[{} for _ in range(self._workers)],
            )

    def collect(self) -> TensorDictBase:
        """The next rollout `[envs, steps]`; `seconds` has its time as `env`, for the actors do not tell them apart."""
        begun = time.perf_counter()
        pending = {actor.next.remote(): worker for worker, actor in enumerate(self._collector.remote_collectors)}
        parts: dict[int, TensorDictBase] = {}
        while pending:
            left = self._timeout - (time.perf_counter() - begun)
            ready, late = self._ray.wait(list(pending), num_returns=1, timeout=max(left, 0.0))
            if not ready:
                self._fail(f"{self._name(pending[late[0]])} did not deliver within {self._timeout:g} s.")
            worker = pending.pop(ready[0])
            try:
                parts[worker] = self._ray.get(ready[0])
            except self._ray.exceptions.RayError as error:
                self._fail(f"{self._name(worker)} failed:\n{error}", error)
        self.seconds["env"] = time.perf_counter() - begun
        self._collected += 1
        return torch.cat([parts[worker].exclude("info", "collector") for worker in range(self._workers)])

    def _fail(self, reason: str, cause: BaseException | None = None) -> None:
        self.close()
        raise WorkerError(reason) from cause

    def _name(self, worker: int) -> str:
        first = worker * self._share
        return f"Ray worker {worker} (hosts {first} to {first + self._share - 1})"

    def sync(self) -> None:
        """Send the policy's weights to the actors."""
        self._collector.update_policy_weights_(TensorDict.from_module(self._policy).data.cpu())

    def state_dict(self) -> dict[str, Any]:
        """How far we are; hosts and draws are with the actors."""
        return {"backend": "ray", "collected": self._collected, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `state_dict`, with new actors and episodes that begin anew: a warning says so."""
        require_backend(state, "ray")
        warnings.warn(
            "The ray backend does not save its hosts: all episodes begin anew, with other seeds than before. "
            "Resume with the batched backend if the run must continue bit for bit.",
            stacklevel=2,
        )
        self.close()
        self._collected, self._seed = state["collected"], state["seed"]
        self._collector = self._start(seed_after(self._seed, self._collected))

    def close(self) -> None:
        """Stop the actors; a cluster that was running before goes on."""
        self._collector.shutdown()


def _recorded_env(policy: TensorDictModuleBase, num_envs: int, **options: Any) -> TransformedEnv:
    return recording(SeedTorchEnv(num_envs, **options), policy)


def _reseeded(policy: TensorDictModuleBase, seed: int) -> TensorDictModuleBase:
    own = copy.deepcopy(policy)
    if getattr(own, "generator", None) is not None:
        own.generator = torch.Generator().manual_seed(seed)
    return own


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError("ray is not installed; the ray backend needs it: pip install 'esper[ray]'") from error
