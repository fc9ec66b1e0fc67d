"""Rollouts on several machines: TorchRL's Ray collector over the same environment."""

from __future__ import annotations

import copy
import os
import secrets
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv

from esper_agent.rollout.batched import recording
from esper_agent.rollout.environment import SeedTorchEnv
from esper_agent.rollout.parallel import WorkerError, seed_after
from esper_agent.rollout.rollouts import require_backend
from esper_env.config import ConfigError, check_number


class RayRollouts:
    """Rollouts of Ray actors, each with a copy of the policy and a batched environment of its share of hosts.

    The actors get the weights at `sync`, so call it after every update. An actor that dies, raises, or takes longer
    than `step_timeout` for a step ends all of them in a `WorkerError`.

    Weights travel through Ray's object store. TorchRL's own way is a process group at the address that the host's name
    resolves to, which on many machines is one that no other can reach.

    Args:
        policy: an `ActorCritic`, or any policy that writes `action`.
        num_envs: hosts in all; a multiple of `workers`.
        steps: steps per rollout and environment.
        workers: actors, one CPU each.
        seed: host i begins with the episode of seed + i; fresh entropy when None.
        step_timeout: seconds that a step of an actor may take; the time between rollouts does not count.
        ray_init: arguments of `ray.init`, such as the `address` of a cluster; a local one is started by default.
        make_env: what an actor builds, called as `make_env(num_envs, seed=..., **options)` in its process.
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
        make_env: Callable[..., SeedTorchEnv] = SeedTorchEnv,
        **options: Any,
    ) -> None:
        check_number("workers", workers, 1, whole=True)
        check_number("step_timeout", step_timeout, 1e-3)
        if num_envs % workers:
            raise ConfigError(f"{num_envs} environments cannot be shared evenly by {workers} workers.")
        self._ray = _import_ray()
        self._policy, self._steps, self._workers, self._share = policy, steps, workers, num_envs // workers
        self._seed, self._collected, self._timeout = seed, 0, step_timeout
        self._ray_init = ray_init or {
            "address": "local",  # where RAY_ADDRESS names a cluster too: it is joined when it is asked for
            "include_dashboard": False,
            "log_to_driver": False,  # errors come with the results
            "num_cpus": max(workers, os.cpu_count() or 1),
        }
        self._make_env = partial(make_env, **options)
        self.seconds = {"env": 0.0, "policy": 0.0}
        self._collector = self._start(seed)

    def _start(self, seed: int | None) -> Any:
        from torchrl.collectors.distributed import RayCollector

        own, joined = copy.deepcopy(self._policy).cpu(), self._ray.is_initialized()
        firsts = [None if seed is None else seed + i * self._share for i in range(self._workers)]
        try:
            with warnings.catch_warnings():
                # It fears that weights cannot be sent to a policy made by a factory, but `sync` does.
                warnings.filterwarnings("ignore", "The policy is not an nn.Module")
                return RayCollector(
                    collector_class=_Actor,
                    create_env_fn=[partial(_recorded_env, own, self._make_env, self._share, first) for first in firsts],
                    # Copies of one policy would all draw the same actions.
                    policy_factory=[partial(_reseeded, own, secrets.randbits(62) if f is None else f) for f in firsts],
                    trust_policy=True,
                    # One step per call: what takes long is then seen step by step.
                    frames_per_batch=self._workers * self._share,
                    total_frames=-1,
                    sync=True,
                    ray_init_config=self._ray_init,
                    remote_configs={"num_cpus": 1, "num_gpus": 0},
                    # One dict each: in one dict for all, the last worker's policy factory replaces the others.
                    # Buffers for a single step have a stride of 0, by which torch's `stack` divides.
                    collector_kwargs=[{"use_buffers": False} for _ in range(self._workers)],
                    weight_sync_schemes={},
                )
        except self._ray.exceptions.RayError as error:
            if not joined:
                self._ray.shutdown()
            raise WorkerError(f"The Ray workers could not start:\n{error}") from error
        except ConnectionError as error:
            raise WorkerError(f"There is no Ray cluster at {self._ray_init.get('address')}: {error}") from error

    def collect(self) -> TensorDictBase:
        """The next rollout `[envs, steps]`; `seconds` has its time as `env`, for the actors do not tell them apart."""
        begun = time.perf_counter()
        # All steps are asked for at once, so that no actor waits for another.
        asked = [[actor.next.remote() for actor in self._actors] for _ in range(self._steps)]
        steps: list[Any] = [torch.cat(self._answers(calls)) for calls in asked]
        self.seconds["env"] = time.perf_counter() - begun
        self._collected += 1
        rollout: TensorDictBase = torch.cat(steps, -1)
        return rollout.exclude("info", "collector")

    @property
    def _actors(self) -> list[Any]:
        actors: list[Any] = self._collector.remote_collectors
        if not actors:
            raise WorkerError("The workers have been stopped; make new rollouts.")
        return actors

    def _answers(self, calls: list[Any]) -> list[Any]:
        """What the actors answer, one call each; the first that fails, or all that are late, end the rollouts."""
        deadline = time.monotonic() + self._timeout
        pending = {call: worker for worker, call in enumerate(calls)}
        answers: dict[int, Any] = {}
        while pending:
            ready, late = self._ray.wait(list(pending), timeout=max(deadline - time.monotonic(), 0.0))
            if not ready:
                self._fail(
                    f"{' and '.join(self._name(pending[call]) for call in late)} did not answer within step_timeout = "
                    f"{self._timeout:g} s. Raise it if a step may take so long."
                )
            worker = pending.pop(ready[0])
            try:
                answers[worker] = self._ray.get(ready[0])
            except self._ray.exceptions.RayError as error:
                self._fail(f"{self._name(worker)} {_what_happened(self._ray, error)}", error)
        return [answers[worker] for worker in range(len(calls))]

    def _fail(self, reason: str, cause: BaseException | None = None) -> NoReturn:
        self.close()
        raise WorkerError(reason) from cause

    def _name(self, worker: int) -> str:
        first = worker * self._share
        return f"Ray worker {worker} (hosts {first} to {first + self._share - 1})"

    def sync(self) -> None:
        """Send the policy's weights to the actors."""
        actors = self._actors
        weights = self._ray.put({name: tensor.cpu() for name, tensor in self._policy.state_dict().items()})
        self._answers([actor.cascade_execute.remote("policy.load_state_dict", weights) for actor in actors])

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


class _Actor(Collector):  # type: ignore[misc]
    """A collector that Ray can ask whether it is there, which it does before it passes on an error.

    Without an answer of its own Python asks for the length, which for an endless collector is no whole number.
    """

    def __bool__(self) -> bool:
        return True


def _recorded_env(
    policy: TensorDictModuleBase, make_env: Callable[..., SeedTorchEnv], num_envs: int, seed: int | None
) -> TransformedEnv:
    return recording(make_env(num_envs, seed=seed), policy)


def _reseeded(policy: TensorDictModuleBase, seed: int) -> TensorDictModuleBase:
    own = copy.deepcopy(policy)
    if getattr(own, "generator", None) is not None:
        own.generator = torch.Generator().manual_seed(seed)
    return own


def _what_happened(ray: Any, error: Exception) -> str:
    """Ray's account of it: the cause of a death with process and machine, or the traceback of an error."""
    return f"{'died' if isinstance(error, ray.exceptions.RayActorError) else 'raised an error'}:\n{error}"


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError("ray is not installed; the ray backend needs it: pip install 'esper-env[ray]'") from error
