"""The ways to run a policy in many environments, by name."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase

from esper_agent.rollout.rollouts import Rollouts
from esper_env.config import ConfigError, unknown_name

BACKENDS = {
    "batched": "one process: all hosts as one stacked network (default; a run can be resumed bit for bit)",
    "parallel": "worker processes, each with its share of the hosts; faster than threads from two cores on",
    "ray": "actors on several machines, through Ray",
}
"""Names and what they are for."""


def make_rollouts(
    backend: str,
    policy: TensorDictModuleBase,
    *,
    num_envs: int,
    steps: int,
    env_options: dict[str, Any] | None = None,
    seed: int | None = None,
    threads: int = 1,
    workers: int = 2,
    step_timeout: float = 600.0,
    ray_init: dict[str, Any] | None = None,
) -> Rollouts:
    """Set a policy to work.

    On one core `batched` is fastest, and it is the only backend that resumes bit for bit. With more cores `parallel`,
    one worker per core, takes about a sixth less time than `batched` with as many threads, which wait for each other
    in Python (`make bench` measures both). The seed decides the episodes in the same way for every backend.

    Args:
        backend: a key of `BACKENDS`.
        policy: an `ActorCritic`, or any policy that writes `action`.
        num_envs: hosts in all.
        steps: steps per rollout and environment.
        env_options: the arguments of `SeedEnv`, and `chunk` and `max_episode_steps` of `SeedVectorEnv`.
        seed: host i begins with the episode of seed + i; fresh entropy when None.
        threads: stacks of hosts that run at the same time (`batched`).
        workers: processes (`parallel`) or actors (`ray`); `num_envs` must be a multiple of it.
        step_timeout: seconds that a step of a worker may take before it counts as hanging (`parallel`, `ray`).
        ray_init: arguments of `ray.init` (`ray`).
    """
    options = env_options or {}
    if backend == "batched":
        from esper_agent.rollout.batched import BatchedRollouts
        from esper_agent.rollout.environment import SeedTorchEnv

        env = SeedTorchEnv(num_envs, threads=threads, **options)
        return BatchedRollouts(env, policy, steps=steps, seed=seed)
    shared: dict[str, Any] = options | {
        "num_envs": num_envs,
        "steps": steps,
        "seed": seed,
        "workers": workers,
        "step_timeout": step_timeout,
    }
    if backend == "parallel":
        from esper_agent.rollout.parallel import ParallelRollouts

        return ParallelRollouts(policy, **shared)
    if backend == "ray":
        from esper_agent.rollout.remote import RayRollouts

        return RayRollouts(policy, ray_init=ray_init, **shared)
    raise ConfigError(unknown_name("backend", backend, BACKENDS))
