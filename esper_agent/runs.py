"""A training run from outside: its settings, the files they are kept in, and the policy that came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_agent import checkpoint
from esper_agent.config import PolicyConfig, PPOConfig
from esper_agent.loggers import SERVICES
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
    num_envs: int = 16
    """Environments. More of them run faster; fewer bring more updates in as many steps."""
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
    checkpoint_interval: int = 10
    """Updates between checkpoints."""
    keep: int = 3
    """Newest checkpoints that are kept beside the last and the best."""
    evaluation_episodes: int = 16
    """Episodes on seeds of their own by which the best checkpoint is chosen; 0 for none."""
    evaluation_interval: int = 20
    """Updates between these evaluations."""
    loggers: tuple[str, ...] = ()
    """Beside the CSV: tensorboard, wandb, mlflow."""
    device: str = "cpu"
    """Device of the policy; that of the environment is one of its own arguments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not str(self.run).strip():
            raise ConfigError("run is empty: give the folder that the run's files go to, such as runs/mine.")
        for name in ("steps", "num_envs", "threads", "workers", "checkpoint_interval", "keep", "evaluation_interval"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("evaluation_episodes", self.evaluation_episodes, 0, whole=True)
        check_number("seed", self.seed, 0, whole=True)
        if self.seed > (last := SELECTION_SEED // HOST_SEEDS - 1):
            raise ConfigError(
                f"seed must be between 0 and {last}, got {self.seed}: later seeds would begin with hosts that are kept "
                "for choosing checkpoints and for evaluation."
            )
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


def options_of_its_time(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved policy options of a run; those that it does not know, being older, are what they were then."""
    options: Mapping[str, Any] = resolved["policy_options"]
    of_a_network = "blueprint_layers" in options
    return {"blueprint_by_slot": False, "first_bias": {}, **options} if of_a_network else dict(options)


def load_config(run: Path) -> TrainConfig:
    """The configuration of an existing run."""
    path = run / "config.json"
    if not path.exists():
        why = f"it holds no {path.name}" if run.is_dir() else "that is a file" if run.exists() else "no such folder"
        raise ConfigError(f"There is no run in {run}: {why}.")
    try:
        values = json.loads(path.read_text())
        values["ppo"] = PPOConfig.from_mapping("ppo", values["ppo"])
        values["loggers"] = tuple(values["loggers"])
        resolved = values.pop("resolved", None)  # it follows from the rest
        if resolved is not None:
            then = options_of_its_time(resolved)
            values["policy_options"] |= {name: then[name] for name in then if name not in resolved["policy_options"]}
        return TrainConfig.from_mapping("training", values | {"run": str(run)})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the configuration of a run ({type(error).__name__}: {error}).") from error


def load_policy(run: Path, which: str = "best") -> tuple[ActorCritic, TrainConfig]:
    """The trained policy of a run, `best` or `last`, on the CPU; the last where no evaluation has chosen a best."""
    if which not in ("best", "last"):
        raise ConfigError(unknown_name("checkpoint", which, ("best", "last")))
    config = replace(load_config(run), device="cpu")
    policy, _ = make_policy(config)
    checkpoint.put_weights(policy, _saved(run, which)["policy"])
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
