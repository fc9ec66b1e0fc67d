"""Training: collect, learn, log, keep."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esper_agent import checkpoint
from esper_agent.failures import require_writable
from esper_agent.files import locked, replacing
from esper_agent.loggers import EpisodesFile, MetricsFile, Services, require_services
from esper_agent.metrics import Metrics, rollout_metrics, warnings
from esper_agent.runs import (
    CHECKPOINTS,
    FIXED,
    HOST_SEEDS,
    RESOLVED,
    SELECTION_SEED,
    TrainConfig,
    differences,
    make_policy,
    options_of_its_time,
    resolve,
)
from esper_env.config import ConfigError
from esper_env.threads import one_thread

# `esper --help` reads this module, so whatever brings in torch is imported where it is used.


class Training:
    """A run in progress: everything that a checkpoint holds, and where its files are."""

    def __init__(self, config: TrainConfig) -> None:
        from esper_agent.learning.ppo import PPO
        from esper_agent.rollout import make_rollouts
        from esper_env.tasks import read_files

        self.config = config
        self.folder = Path(config.run)
        self.policy, env = make_policy(config)
        read_files(env)
        self.resolved = resolve(config, self.policy, env)
        if env.reward.gamma != config.ppo.gamma:
            raise ConfigError(
                f"ppo.gamma is {config.ppo.gamma} but the environment's reward has gamma {env.reward.gamma}: "
                "with different ones the shaping no longer cancels. Set both to the same."
            )
        self.ppo = PPO(self.policy, config.ppo, num_envs=config.num_envs, seed=config.seed)
        self.rollouts = make_rollouts(
            config.backend,
            self.policy,
            num_envs=config.num_envs,
            steps=self.resolved["rollout_steps"],
            env_options=config.env_options,
            seed=config.seed * HOST_SEEDS,
            threads=config.threads,
            workers=config.workers,
            step_timeout=config.step_timeout,
            ray_init=None if config.ray_address is None else {"address": config.ray_address},
        )
        self.checkpoints = checkpoint.CheckpointFolder(self.folder / CHECKPOINTS, config.keep)
        self.metrics_file = MetricsFile(self.folder / "metrics.csv")
        self.episodes_file = EpisodesFile(self.folder / "episodes.jsonl")
        self.steps, self.updates = 0, 0
        self.best = float("-inf")

    @property
    def finished(self) -> bool:
        """Has the run all its steps?"""
        return self.steps >= self.config.steps

    def open(self, *, resume: bool) -> None:
        """Begin the run's folder, or continue from its last checkpoint."""
        check_folder(self.folder, resume=resume)
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self.load_state_dict(self.checkpoints.read_last())
        values = asdict(self.config) | {"resolved": self.resolved}
        with replacing(self.folder / "config.json") as file:
            file.write(json.dumps(values, indent=2) + "\n")
        self.metrics_file.resume(self.updates)
        self.episodes_file.resume(self.updates)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        return {
            "config": asdict(self.config),
            "resolved": self.resolved,
            "policy": self.policy.state_dict(),
            "ppo": self.ppo.state_dict(),
            "rollouts": checkpoint.pack(self.rollouts.state_dict()),
            "unfinished_episodes": checkpoint.pack(self.episodes_file.unfinished),
            "counters": {"steps": self.steps, "updates": self.updates, "best": self.best},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        given, asked = [name for name in FIXED if name not in RESOLVED], asdict(self.config)
        ours = {name: asked[name] for name in given} | self.resolved
        theirs = {name: state["config"][name] for name in given} | state["resolved"]
        theirs["policy_options"] = options_of_its_time(state["resolved"])
        for name, was, now in differences(theirs, ours):
            raise ConfigError(f"The run began with {name}={was!r} and cannot go on with {now!r}: choose another --run.")
        checkpoint.put_weights(self.policy, state["policy"])
        self.ppo.load_state_dict(state["ppo"])
        self.rollouts.load_state_dict(checkpoint.unpack(state["rollouts"]))
        if self.rollouts.resumes_exactly:
            self.episodes_file.unfinished = checkpoint.unpack(state["unfinished_episodes"])
        self.rollouts.sync()
        self.steps, self.updates, self.best = (state["counters"][name] for name in ("steps", "updates", "best"))

    def update(self) -> Metrics:
        """Collect one rollout, learn from it, and now and then see how good the policy has become."""
        begun = time.perf_counter()
        rollout = self.rollouts.collect()
        collected = time.perf_counter()
        learned = self.ppo.update(rollout)
        self.rollouts.sync()
        spent = self.rollouts.seconds | {"learning": time.perf_counter() - collected}
        self.steps += rollout.numel()
        self.updates += 1
        self.episodes_file.write(rollout, self.updates)
        counters = {"steps": float(self.steps), "updates": float(self.updates)}
        evaluation = self.evaluate() if self.updates % self.config.evaluation_interval == 0 else {}
        total = time.perf_counter() - begun
        speed = {"speed/steps_per_second": rollout.numel() / total}
        speed |= {f"speed/{name}": seconds / total for name, seconds in spent.items()}
        return counters | rollout_metrics(rollout) | learned | evaluation | speed

    def evaluate(self) -> Metrics:
        """How good the policy is on the seeds that choose the best checkpoint."""
        from esper_agent.evaluate import evaluate

        seeds = [SELECTION_SEED + i for i in range(self.config.evaluation_episodes)]
        if not seeds:
            return {}
        rows = evaluate(self.policy, self.config.env_options, seeds, agent="", threads=self.config.threads)
        return {
            "evaluation/objective_return": sum(row.objective_return for row in rows) / len(rows),
            "evaluation/committed_test_accuracy": sum(row.committed_test_accuracy for row in rows) / len(rows),
        }

    def keep(self, metrics: Metrics, *, anyway: bool = False) -> None:
        """Write a checkpoint when it is time, or when the policy is the best so far."""
        result = metrics.get("evaluation/objective_return", float("-inf"))
        is_best = result > self.best
        self.best = max(self.best, result)
        if anyway or is_best or self.updates % self.config.checkpoint_interval == 0:
            self.checkpoints.save(self.state_dict(), self.steps, best=is_best)

    def report(self) -> None:
        """Draw what the run's files tell, once an episode has ended; without an evaluation, for that takes minutes."""
        from esper_agent.report import write_page

        if self.episodes_file.path.stat().st_size:
            write_page(self.folder, self.config)

    def close(self) -> None:
        """Stop the threads or processes of the environments."""
        self.rollouts.close()


def check_folder(run: Path, *, resume: bool) -> None:
    """Refuse a folder that does not fit what is asked for, or that nothing can be written in."""
    last = run / CHECKPOINTS / checkpoint.LAST
    if last.exists() and not resume:
        raise ConfigError(f"{run} holds a run already: continue it with --resume, or choose another --run.")
    if resume and not last.exists():
        raise ConfigError(f"{run} holds no checkpoint to resume from: start it without --resume.")
    require_writable(run, "--run")


def print_update(metrics: Metrics, config: TrainConfig) -> None:
    """Show an update as a line on stderr, and its warnings below it."""
    print(progress_line(metrics, config.steps), file=sys.stderr, flush=True)
    for warning in warnings(metrics):
        print(f"  warning: {warning}", file=sys.stderr, flush=True)


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    show: Callable[[Metrics, TrainConfig], None] = print_update,
    budget: float = float("inf"),
) -> bool:
    """Train until `config.steps`, until time is up, or until interrupted.

    Args:
        config: the run. An existing run is only continued, never overwritten.
        resume: continue from the last checkpoint in `config.run`.
        show: called with the metrics of every update.
        budget: seconds after which the update in progress is the last.

    Returns:
        False when a signal ended the run early; its checkpoint is written then as well.
    """
    deadline = time.monotonic() + budget
    require_services(config.loggers)
    check_folder(Path(config.run), resume=resume)  # before any process is started
    with one_thread(), closing(Training(config)) as training, locked(training.folder):
        training.open(resume=resume)
        with (
            interruptible() as interrupted,
            closing(Services(config.loggers, training.folder, training.steps)) as services,
        ):
            stop = training.finished
            begun = training.updates
            while not stop:
                metrics = training.update()
                stop = training.finished or interrupted.is_set() or time.monotonic() > deadline
                training.metrics_file.write(metrics)
                services.send(metrics, training.steps)
                training.keep(metrics, anyway=stop)
                show(metrics, config)
            if training.updates > begun:
                training.report()
            return training.finished or not interrupted.is_set()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a flag while the block runs; a second one interrupts at once."""
    interrupted = threading.Event()

    def note(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        print("Finishing this update, then saving; interrupt again to stop at once.", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_line(metrics: Metrics, steps: int) -> str:
    """One update in one line."""
    parts = [f"{metrics['steps']:>9,.0f}/{steps:,} steps", f"{metrics['speed/steps_per_second']:.0f}/s"]
    for title, name, form in (
        ("return", "episode/objective_return", ".2f"),
        ("committed", "episode/committed_accuracy", ".1f"),
        ("fossilized", "episode/seeds_fossilized", ".2f"),
        ("op entropy", "entropy/op", ".2f"),
        ("KL", "update/last_kl", ".4f"),
        ("evaluated", "evaluation/objective_return", ".2f"),
    ):
        if name in metrics:
            parts.append(f"{title} {metrics[name]:{form}}")
    return "  ".join(parts)
