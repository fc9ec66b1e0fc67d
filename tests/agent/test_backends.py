"""The backends with other processes: they play as the batched one does, and fail with a reason and without orphans."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from esper_agent import create_policy
from esper_agent.rollout import make_rollouts
from esper_agent.rollout import parallel as parallel_module
from esper_agent.rollout.environment import SeedTorchEnv
from esper_agent.rollout.parallel import ParallelRollouts, WorkerEnv, WorkerError, seed_after
from esper_env.config import ConfigError

BRIEF = {"max_epochs": 4, "chunk": 2, "training": {"batches_per_epoch": 1, "val_samples": 32}}
SMALL = {"width": 32, "head_width": 16}


def small_policy():
    return create_policy("lstm", SeedTorchEnv(1, **BRIEF), seed=1, **SMALL)


def fall_ill(*_):
    raise FloatingPointError("the second worker is ill")


def fall_asleep(*_):
    print("asleep", flush=True)
    threading.Event().wait()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def worker(num_envs, *, word, step, start=None, healthy=0, **options):
    """A worker whose start, or whose steps after so many healthy ones, are replaced if it is the second one."""
    second = word.endswith("worker-1.txt")
    if start is not None and second:
        start()
    env = WorkerEnv(num_envs, word=word, **options)
    if step is not None and second:
        steps = itertools.chain(itertools.repeat(env._vector.step, healthy), itertools.repeat(step))
        env._vector.step = lambda actions: next(steps)(actions)
    return env


def parallel(step=None, **options):
    return ParallelRollouts(small_policy(), num_envs=4, steps=6, seed=3, make_env=worker, step=step, **BRIEF | options)


@contextlib.contextmanager
def at_most(seconds):
    """Fail where the block takes longer; what fails is no `Exception`, which the block might catch."""

    def late(*_):
        pytest.fail(f"not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def no_workers_left():
    return not [child for child in multiprocessing.active_children() if "Spawn" in type(child).__name__]


@pytest.mark.slow
def test_parallel_plays_as_batched_does_and_says_that_a_resumed_run_differs():
    batched = make_rollouts("batched", small_policy(), num_envs=4, steps=6, seed=3, env_options=BRIEF)
    threads = torch.get_num_threads()
    rollouts = make_rollouts("parallel", small_policy(), num_envs=4, steps=6, seed=3, env_options=BRIEF, workers=2)
    try:
        for _ in range(2):
            mine, theirs = batched.collect(), rollouts.collect()
            assert torch.equal(mine["action"], theirs["action"])
            assert torch.equal(mine["is_init"], theirs["is_init"])
            for key in ("features", "recurrent_state_h", ("next", "reward"), ("next", "features")):
                torch.testing.assert_close(mine[key], theirs[key], atol=1e-4, rtol=1e-4)
        assert not rollouts.resumes_exactly
        with pytest.warns(UserWarning, match="all episodes begin anew"):
            rollouts.load_state_dict(rollouts.state_dict())
        resumed = rollouts.collect()
        assert resumed["is_init"][:, 0].all()
        assert not torch.equal(resumed["features"], mine["features"])
    finally:
        rollouts.close()
    assert no_workers_left()
    assert torch.get_num_threads() == threads
    with pytest.raises(WorkerError, match="have been stopped"):
        rollouts.collect()


@pytest.mark.slow
def test_a_killed_worker_is_named():
    rollouts = parallel()
    rollouts.collect()
    os.kill(rollouts._pids[1], signal.SIGKILL)
    with at_most(10), pytest.raises(WorkerError, match=r"Worker 1 \(hosts 2 to 3, .*\) died: killed by SIGKILL"):
        rollouts.collect()
    assert no_workers_left()
    rollouts.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (die, "died: killed by SIGKILL"),
        (fall_ill, "(?s:raised an error:.*FloatingPointError: the second worker is ill)"),
    ],
)
def test_a_worker_that_fails_in_a_step_is_named_with_its_reason_within_ten_seconds(failure, reason):
    rollouts = parallel(failure, healthy=6)
    rollouts.collect()
    with at_most(10), pytest.raises(WorkerError, match=rf"Worker 1 \(hosts 2 to 3, process \d+\) {reason}"):
        rollouts.collect()
    assert no_workers_left()


@pytest.mark.slow
def test_a_worker_that_hangs_is_named_after_the_timeout():
    rollouts = parallel(fall_asleep, step_timeout=3.0)
    with pytest.raises(WorkerError, match=r"Worker 1 \(.*\) did not answer within step_timeout = 3 s"):
        rollouts.collect()
    assert no_workers_left()


@pytest.mark.slow
@pytest.mark.parametrize(("start", "reason"), [(die, "died at its start"), (fall_asleep, r"did not start within 25 s")])
def test_a_worker_that_never_starts_is_named(start, reason, monkeypatch):
    monkeypatch.setattr(parallel_module, "START_TIMEOUT", 25.0)
    with pytest.raises(WorkerError, match=rf"Worker 1 \(hosts 2 to 3\) {reason}"):
        parallel(start=start, step_timeout=20.0)
    assert no_workers_left()


@pytest.mark.slow
def test_workers_end_with_their_parent_even_in_the_middle_of_a_step():
    script = "from tests.agent.test_backends import *; parallel(fall_asleep).collect()"
    parent = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"asleep\n"
    parent.kill()
    # The workers hold the other end of this pipe: it closes when the last of them is gone.
    parent.communicate(timeout=10)


def test_hosts_must_be_shared_evenly():
    with pytest.raises(ConfigError, match="5 environments cannot be shared evenly by 2 workers"):
        make_rollouts("parallel", small_policy(), num_envs=5, steps=2, workers=2, env_options=BRIEF)


def test_a_wrong_option_is_the_same_error_as_everywhere():
    with pytest.raises(ConfigError, match="Did you mean 'max_epochs'"):
        make_rollouts("parallel", small_policy(), num_envs=4, steps=2, env_options={"max_epoch": 3})


def test_episodes_that_begin_anew_have_seeds_of_their_own():
    assert len({seed_after(3, rollouts) for rollouts in range(20)}) == 20
    assert seed_after(3, 5) != seed_after(4, 5)
    assert seed_after(None, 5) is None
