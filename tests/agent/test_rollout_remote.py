"""Rollouts of Ray actors; those that need Ray are skipped without the extra."""

import os
import select
import signal
import sys
import threading

import pytest
import torch

from esper_agent.rollout import make_rollouts
from esper_agent.rollout.environment import SeedTorchEnv
from esper_agent.rollout.parallel import WorkerError
from tests.agent.test_backends import BRIEF, small_policy


def needs_ray(test):
    """Skip without Ray; Ray and TorchRL warn of what they do themselves."""
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        return pytest.mark.skip(reason="needs the extra ray: pip install 'esper-env[ray]'")(test)
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(test))


def fall_asleep(*_):
    threading.Event().wait()


def fall_ill(*_):
    raise FloatingPointError("the second actor is ill")


def sickly(num_envs, *, seed, **options):
    """An environment that raises in its first step where it has the later half of the hosts."""
    env = SeedTorchEnv(num_envs, seed=seed, **options)
    if seed == 5:
        env._vector.step = fall_ill
    return env


def sleepy(num_envs, *, seed, **options):
    """An environment that never ends a step where it has the later half of the hosts."""
    env = SeedTorchEnv(num_envs, seed=seed, **options)
    if seed == 5:
        env._vector.step = fall_asleep
    return env


def processes(rollouts):
    """The process of every actor."""
    import ray

    return ray.get(
        [actor.__ray_call__.remote(lambda _: os.getpid()) for actor in rollouts._collector.remote_collectors]
    )


def ended(pid):
    """Wait until a process of this machine has ended."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    return bool(select.select([file], [], [], 10)[0])


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"esper-env\[ray\]"):
        make_rollouts("ray", small_policy(), num_envs=4, steps=2, env_options=BRIEF)


@needs_ray
def test_actors_play_with_fresh_weights_and_draws_of_their_own_and_one_that_is_killed_is_named():
    import ray

    policy = small_policy()
    rollouts = make_rollouts("ray", policy, num_envs=4, steps=6, seed=3, env_options=BRIEF, workers=2)
    first = rollouts.collect()
    assert first.shape == (4, 6)
    assert not torch.equal(first["action"][:2], first["action"][2:])
    assert first["is_init"].squeeze(-1).int().tolist() == [[1, 0, 0, 0, 1, 0]] * 4
    with torch.no_grad():
        for weights in policy.parameters():
            weights.mul_(1.5)
    rollouts.sync()
    rollout = rollouts.collect()
    # The second rollout goes on where the first ended, with the recurrent state of the old weights.
    assert torch.equal(rollout["features"][:, 0], first["next", "features"][:, -1])
    torch.testing.assert_close(policy.unroll(rollout).state_value, rollout["state_value"], atol=1e-4, rtol=1e-4)

    pids = processes(rollouts)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"Ray worker 1 \(hosts 2 to 3\) died:"):
        rollouts.collect()
    assert all(map(ended, pids))
    with pytest.raises(WorkerError, match="have been stopped"):
        rollouts.sync()
    assert not ray.is_initialized()


@needs_ray
def test_an_actor_that_hangs_is_named_after_the_timeout_and_none_is_left():
    from esper_agent.rollout.remote import RayRollouts

    rollouts = RayRollouts(small_policy(), num_envs=4, steps=6, seed=3, step_timeout=20.0, make_env=sleepy, **BRIEF)
    pids = processes(rollouts)
    with pytest.raises(WorkerError, match=r"Ray worker 1 \(hosts 2 to 3\) did not answer within step_timeout = 20 s"):
        rollouts.collect()
    assert all(map(ended, pids))


@needs_ray
def test_an_actor_that_raises_is_named_with_its_message():
    import ray

    from esper_agent.rollout.remote import RayRollouts

    rollouts = RayRollouts(small_policy(), num_envs=4, steps=6, seed=3, make_env=sickly, **BRIEF)
    with pytest.raises(WorkerError, match=r"(?s)Ray worker 1 .* raised an error:.*the second actor is ill"):
        rollouts.collect()
    assert not ray.is_initialized()


@needs_ray
def test_a_ray_that_runs_already_is_left_alone_unless_it_is_named(monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where nobody answers
    rollouts = make_rollouts("ray", small_policy(), num_envs=2, steps=2, seed=3, env_options=BRIEF, workers=1)
    rollouts.close()
    assert not ray.is_initialized()
