"""Rollouts with worker processes: TorchRL's `ParallelEnv`, each worker a batched environment of its share of hosts."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchrl
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import ParallelEnv

from esper_agent.rollout.batched import BatchedRollouts
from esper_agent.rollout.environment import SeedTorchEnv
from esper_agent.rollout.rollouts import require_backend
from esper_env.config import ConfigError, check_number

PATIENCE = 1e6
"""Seconds that an idle worker waits for work; TorchRL's own 10,000 would end it during a very long pause."""


START_TIMEOUT = 300.0
"""Seconds that the workers may take to start, if `step_timeout` is not longer: imports can be slow."""


class WorkerError(RuntimeError):
    """A worker process died, raised an error or did not answer in time; the message says which, and why."""


class WorkerEnv(SeedTorchEnv):
    """A `SeedTorchEnv` in a process of its own: it ends with its parent, and leaves word when it raises.

    Args:
        num_envs: hosts of this worker.
        word: file for the traceback of an error.
        options: as for `SeedTorchEnv`.
    """

    def __init__(self, num_envs: int, *, word: str, **options: Any) -> None:
        if multiprocessing.parent_process() is not None:
            _serve()
        with _leaving_word(word):
            super().__init__(num_envs, **options)
        self._word = word
        _ready(word).touch()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        with _leaving_word(self._word):
            return super()._step(tensordict)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        with _leaving_word(self._word):
            return super()._reset(tensordict, **kwargs)


def _serve() -> None:
    """Make this process a good worker: patient, deaf to Ctrl-C (the parent decides), and gone with its parent."""
    torchrl._utils.BATCHED_PIPE_TIMEOUT = PATIENCE
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """The pipes close with the parent too, but a worker in the middle of a step would not look at them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _ready(word: str) -> Path:
    """The file by which a worker says that it is built."""
    return Path(word).with_suffix(".ready")


@contextlib.contextmanager
def _leaving_word(word: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        Path(word).write_text(traceback.format_exc())
        raise


class ParallelRollouts(BatchedRollouts):
    """Rollouts whose hosts live in worker processes, one torch thread each; the policy stays here.

    The policy acts on all hosts at once while the workers wait, and waits while they train their hosts: one worker per
    core keeps all cores at work. A script that uses it needs the usual `if __name__ == "__main__":`, for workers are
    spawned.

    A worker that dies, raises, or takes longer than `step_timeout` for a step, ends all of them in a `WorkerError`; so
    does one that does not start within `START_TIMEOUT`.

    Args:
        policy: an `ActorCritic`, or any policy that writes `action`.
        num_envs: hosts in all; a multiple of `workers`.
        steps: steps per rollout and environment.
        workers: processes.
        seed: host i begins with the episode of seed + i; fresh entropy when None.
        step_timeout: seconds that a step of a worker may take; the time between rollouts does not count.
        make_env: what a worker builds, called as `make_env(num_envs=..., word=..., **options)` in the new process.
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
        make_env: Callable[..., SeedTorchEnv] = WorkerEnv,
        **options: Any,
    ) -> None:
        check_number("workers", workers, 1, whole=True)
        check_number("step_timeout", step_timeout, 1e-3)
        if num_envs % workers:
            raise ConfigError(f"{num_envs} environments cannot be shared evenly by {workers} workers.")
        self._workers: list[Any] = []
        self._pids: list[int | None] = [None] * workers
        self._share, self._seed, self._collected, self._timeout = num_envs // workers, seed, 0, step_timeout
        self._words = tempfile.TemporaryDirectory(prefix="esper-workers-")
        try:
            super().__init__(self._start(make_env, workers, options), policy, steps=steps, seed=seed)
        except BaseException:
            self._words.cleanup()
            raise

    def _start(self, make_env: Callable[..., SeedTorchEnv], workers: int, options: dict[str, Any]) -> ParallelEnv:
        each = [{"num_envs": self._share, "word": self._word(worker)} | options for worker in range(workers)]
        patience = max(self._timeout, START_TIMEOUT)
        with _threads_kept(), _pipe_timeout(patience):
            try:
                env = ParallelEnv(
                    workers,
                    make_env,
                    create_env_kwargs=each,
                    # Shared buffers would be awaited by spinning, which takes a core away from the workers.
                    use_buffers=False,
                    daemon=True,
                    # A forked worker inherits its siblings' pipes, which then never close.
                    mp_start_method="spawn",
                    num_threads=torch.get_num_threads(),
                    shutdown_timeout=2.0,
                    # Otherwise it would build one more environment here, and await the workers without a limit.
                    metadata_from_workers=True,
                )
            except (EOFError, OSError, RuntimeError) as error:
                raise self._not_started(error, patience) from error
        env.BATCHED_PIPE_TIMEOUT = self._timeout
        self._workers = list(env._workers)
        self._pids = [process.pid for process in self._workers]
        return env

    def _not_started(self, error: Exception, patience: float) -> Exception:
        """Why the workers could not start; a wrong option is the error that it is without workers."""
        for worker in range(len(self._pids)):
            word = Path(self._word(worker))
            if word.exists():
                said = word.read_text()
                _, wrong, message = said.rpartition(f"{ConfigError.__module__}.{ConfigError.__name__}: ")
                if wrong:
                    return ConfigError(message.strip())
                return WorkerError(f"{self._name(worker)} raised an error:\n{said}")
        unready = [worker for worker in range(len(self._pids)) if not _ready(self._word(worker)).exists()]
        if isinstance(error, TimeoutError):
            late = " and ".join(self._name(worker) for worker in unready)
            return WorkerError(
                f"{late} did not start within {patience:g} s. Raise step_timeout if it may take so long."
            )
        gone = re.search(r"worker (\d+) exited", str(error))
        if gone is None:
            return WorkerError(f"The workers could not start: {error}")
        return WorkerError(f"{self._name(int(gone[1]))} died at its start (out of memory?).")

    def _word(self, worker: int) -> str:
        return str(Path(self._words.name) / f"worker-{worker}.txt")

    def collect(self) -> TensorDictBase:
        """The next rollout `[envs, steps]`; `seconds` then tells where its time went."""
        if self._source.is_closed:
            raise WorkerError("The workers have been stopped; make new rollouts.")
        try:
            rollout = super().collect()
        except (EOFError, OSError, RuntimeError) as error:
            reason = self._reason(error)
            if reason is None:
                raise
            self._stop(at_once=True)
            raise WorkerError(reason) from error
        self._collected += 1
        return rollout

    def _reason(self, error: Exception) -> str | None:
        """What happened to which worker; None where the workers are not to blame."""
        dead = self._dead(patience=5.0 if isinstance(error, (EOFError, OSError)) else 0.0)
        for worker in range(len(self._workers)):
            word = Path(self._word(worker))
            if word.exists():
                return f"{self._name(worker)} raised an error:\n{word.read_text()}"
        for worker, exitcode in dead.items():
            return f"{self._name(worker)} died: {_cause_of_death(exitcode)}."
        if "time limit" not in str(error):
            return None
        late = [self._name(i) for i, channel in enumerate(self._source.parent_channels) if not channel.poll()]
        return (
            f"{' and '.join(late)} did not answer within step_timeout = {self._timeout:g} s. "
            "Raise it if a step may take so long."
        )

    def _dead(self, patience: float) -> dict[int, int | None]:
        """Workers that ended by themselves, with their exit codes; waits so long for the first to be really dead."""
        # TorchRL closes the processes that it has ended itself, after the death of another.
        own = {i: process for i, process in enumerate(self._workers) if not process._closed}
        gone = wait([process.sentinel for process in own.values()], timeout=patience)
        for process in own.values():
            if process.sentinel in gone:
                process.join(patience)
        return {i: process.exitcode for i, process in own.items() if not process.is_alive()}

    def _name(self, worker: int) -> str:
        first = worker * self._share
        process = "" if self._pids[worker] is None else f", process {self._pids[worker]}"
        return f"Worker {worker} (hosts {first} to {first + self._share - 1}{process})"

    def state_dict(self) -> dict[str, Any]:
        """The policy's draws, and how far we are; the hosts are not part of it."""
        return {
            "backend": "parallel",
            "collected": self._collected,
            "seed": self._seed,
            "generator": self._generator_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `state_dict`, with episodes that begin anew: a warning says so."""
        require_backend(state, "parallel")
        warnings.warn(
            "The parallel backend does not save its hosts: all episodes begin anew, with other seeds than before. "
            "Resume with the batched backend if the run must continue bit for bit.",
            stacklevel=2,
        )
        self._collected, self._seed, self._upcoming = state["collected"], state["seed"], None
        self._source.set_seed(seed_after(self._seed, self._collected))
        self._set_generator_state(state["generator"])

    def close(self) -> None:
        """Stop the workers."""
        self._stop()

    def _stop(self, *, at_once: bool = False) -> None:
        if at_once:
            self._kill()
        if not self._source.is_closed:
            # After a death TorchRL's own close cleans up too, and then raises.
            with _threads_kept(), contextlib.suppress(Exception):
                self._source.close()
            self._source.is_closed = True
        self._kill()
        self._words.cleanup()

    def _kill(self) -> None:
        running = [process for process in self._workers if not process._closed]
        for process in running:
            process.kill()
        for process in running:
            process.join(5.0)


def seed_after(seed: int | None, rollouts: int) -> int | None:
    """A seed for episodes that begin anew after so many rollouts, unlike those begun before."""
    if seed is None:
        return None
    return int(np.random.SeedSequence((seed, rollouts)).generate_state(1)[0])


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name} (out of memory?)"
    return f"exit code {exitcode}"


@contextlib.contextmanager
def _pipe_timeout(seconds: float) -> Iterator[None]:
    """Seconds that a `ParallelEnv` made within waits for its workers: to be built, and for each of their steps."""
    before = torchrl._utils.BATCHED_PIPE_TIMEOUT
    torchrl._utils.BATCHED_PIPE_TIMEOUT = seconds
    try:
        yield
    finally:
        torchrl._utils.BATCHED_PIPE_TIMEOUT = before


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """`ParallelEnv` sets the number of torch threads of this process, at its start and at its end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
