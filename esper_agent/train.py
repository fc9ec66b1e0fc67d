"""Training: collect, learn, log, keep."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_agent import checkpoint
from esper_agent.config import PolicyConfig, PPOConfig
from esper_agent.failures import require_writable
from esper_agent.loggers import SERVICES, EpisodesFile, MetricsFile, Services, require_services
from esper_agent.metrics import Metrics, rollout_metrics, warnings
from esper_env.config import ConfigError, Options, check_number, unknown_name

# The configuration is read by `esper --help`, so whatever brings in torch is imported where it is used.
if TYPE_CHECKING:
    from esper_agent.policies.actor_critic import ActorCritic
    from esper_env.config import EnvConfig

SELECTION_SEED = 900_000
"""Seeds from here on choose the best checkpoint: neither trained on nor held out for the final evaluation."""

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints."""

HOST_SEEDS = 1_000
"""A run with seed s begins its hosts with the seeds from s times this on; later ones are drawn from 2⁶³."""


@dataclass(frozen=True)
class TrainConfig(Options):
    """A training run."""

    run: str = "runs/default"
    """Folder of the run."""
    task: str = "digits"
    """Task to train on."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the environment: those of `SeedEnv`, and `chunk` and `max_episode_steps`."""
    policy: str = "lstm"
    """Name of the policy: lstm, lstm-v1, mlp, or one of yours as module:name."""
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the policy."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """How the policy learns."""
    steps: int = 150_000
    """Environment steps to train for, all environments together."""
    num_envs: int = 32
    """Environments."""
    rollout_steps: int | None = None
    """Steps per rollout and environment; whole episodes when None."""
    seed: int = 0
    """Seed of everything: hosts, weights, actions and minibatches."""
    backend: str = "batched"
    """Where the environments run: batched, parallel or ray."""
    threads: int = 2
    """Threads of the batched environment."""
    workers: int = 2
    """Processes of the other backends."""
    step_timeout: float = 600.0
    """Seconds that a worker may take for one step before it counts as hanging; updates are not counted."""
    ray_address: str | None = None
    """Address of a running Ray cluster (auto finds the one of this machine); Ray starts here when None."""
    checkpoint_interval: int = 5
    """Updates between checkpoints."""
    keep: int = 3
    """Newest checkpoints that are kept beside the last and the best."""
    evaluation_episodes: int = 16
    """Episodes on seeds of their own by which the best checkpoint is chosen; 0 for none."""
    evaluation_interval: int = 10
    """Updates between these evaluations."""
    loggers: tuple[str, ...] = ()
    """Beside the CSV: tensorboard, wandb, mlflow."""
    device: str = "cpu"
    """Device of the policy; that of the environment is one of its own arguments."""

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "threads", "workers", "checkpoint_interval", "keep", "evaluation_interval"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("evaluation_episodes", self.evaluation_episodes, 0, whole=True)
        check_number("seed", self.seed, 0, SELECTION_SEED // HOST_SEEDS - 1, whole=True)
        if self.seed * HOST_SEEDS + self.num_envs > SELECTION_SEED:
            raise ConfigError(f"num_envs must be at most {SELECTION_SEED - self.seed * HOST_SEEDS} with this seed.")
        for name in self.loggers:
            if name not in SERVICES:
                raise ConfigError(unknown_name("logger", name, SERVICES))
        if self.rollout_steps is not None:
            check_number("rollout_steps", self.rollout_steps, 1, whole=True)
        for name in ("task", "num_envs", "threads"):
            if name in self.env:
                raise ConfigError(f"Give {name} as an argument of its own, not inside env.")
        for name in ("autoreset_mode", "render_mode"):
            if name in self.env:
                raise ConfigError(f"A training restarts its hosts itself and draws none: leave {name} out of env.")

    @property
    def env_options(self) -> dict[str, Any]:
        """Arguments of the environment."""
        return {"task": self.task, **self.env}


FIXED = ("task", "env", "policy", "policy_options", "ppo", "num_envs", "rollout_steps", "seed", "backend", "threads")
"""What a resumed run cannot change: the rest of it would no longer follow from its beginning."""

RESOLVED = ("task", "env", "policy_options", "rollout_steps")
"""Those of them that are compared by what they amount to, as `resolve` tells it, rather than by their spelling."""


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
        (self.folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
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
        for name, was, now in differences(theirs, ours):
            raise ConfigError(f"The run began with {name}={was!r} and cannot go on with {now!r}: choose another --run.")
        self.policy.load_state_dict(state["policy"])
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
    with single_thread(), closing(Training(config)) as training:
        training.open(resume=resume)
        with interruptible() as interrupted, closing(Services(config.loggers, training.folder, training.steps)) as services:
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


def make_policy(config: TrainConfig) -> tuple[ActorCritic, EnvConfig]:
    """The untrained policy of a run, and the resolved configuration of its environment."""
    from esper_agent.policies.actor_critic import ActorCritic
    from esper_agent.policies.baselines import BASELINES
    from esper_agent.policies.registry import PRESETS, create_policy
    from esper_env.options import check_device
    from esper_env.vector_env import SeedVectorEnv

    env = SeedVectorEnv(**config.env_options)
    check_device(config.device)
    policy: object = None
    if config.policy not in BASELINES:
        options = dict(config.policy_options)
        if config.policy in PRESETS and config.ppo.critic is not None:
            options = {"critic": config.ppo.critic, **options}
        policy = create_policy(config.policy, env, device=config.device, seed=config.seed, **options)
    if not isinstance(policy, ActorCritic):
        raise ConfigError(f"Policy {config.policy!r} does not learn; choose one that does, such as 'lstm'.")
    return policy, env.config


def resolve(config: TrainConfig, policy: ActorCritic, env: EnvConfig) -> dict[str, Any]:
    """What the options given amount to, every default filled in, as plain data: what really runs.

    The options of a policy of one's own are those given, unless its network keeps a `PolicyConfig` in `config`.
    """
    options = getattr(policy.network, "config", None)
    limits = {name: config.env.get(name) for name in ("chunk", "max_episode_steps")}
    return {
        "env": env.to_dict() | limits,
        "policy_options": asdict(options) if isinstance(options, PolicyConfig) else dict(config.policy_options),
        "rollout_steps": config.rollout_steps or min(env.max_epochs, limits["max_episode_steps"] or env.max_epochs),
    }


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], within: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of what two configurations hold differently, with both values."""
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name), after.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from differences(was, now, f"{within}{name}.")
        elif was != now:
            yield f"{within}{name}", was, now


def load_config(run: Path) -> TrainConfig:
    """The configuration of an existing run."""
    path = run / "config.json"
    if not path.exists():
        raise ConfigError(f"There is no run in {run}: {path.name} is missing.")
    try:
        values = json.loads(path.read_text())
        values["ppo"] = PPOConfig.from_mapping("ppo", values["ppo"])
        values["loggers"] = tuple(values["loggers"])
        values.pop("resolved", None)  # it follows from the rest
        return TrainConfig.from_mapping("training", values | {"run": str(run)})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the configuration of a run ({type(error).__name__}: {error}).") from error


def load_policy(run: Path, which: str = "best") -> tuple[ActorCritic, TrainConfig]:
    """The trained policy of a run, `best` or `last`, on the CPU; the last where no evaluation has chosen a best."""
    if which not in ("best", "last"):
        raise ConfigError(unknown_name("checkpoint", which, ("best", "last")))
    config = replace(load_config(run), device="cpu")
    policy, _ = make_policy(config)
    policy.load_state_dict(_saved(run, which)["policy"])
    return policy, config


def value_unit(run: Path, which: str = "best") -> float:
    """Reward that the values of a run's policy count as one: training divides rewards by their running deviation."""
    if not load_config(run).ppo.normalize_rewards:
        return 1.0
    return math.sqrt(_saved(run, which)["ppo"]["reward_normalizer"]["moments.variance"])


def checkpoint_of(run: Path, which: str = "best") -> tuple[str, int]:
    """What `which` comes to in a run, `best` or `last`, and the environment steps before it."""
    steps = int(_saved(run, which)["counters"]["steps"])
    return _chosen(run, which).stem, steps


def _saved(run: Path, which: str) -> dict[str, Any]:
    return checkpoint.read(_chosen(run, which))


def _chosen(run: Path, which: str) -> Path:
    folder = run / CHECKPOINTS
    return folder / (checkpoint.BEST if which == "best" and (folder / checkpoint.BEST).exists() else checkpoint.LAST)


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch on one thread: hosts and policy are small, and bits depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
