"""Evaluation: whole episodes of any policy on held-out seeds, one row each."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from esper_agent.files import replacing
from esper_agent.policies.actor_critic import ActorCritic
from esper_agent.policies.registry import create_policy
from esper_agent.runs import load_policy
from esper_agent.spec import EnvSpec
from esper_env.arrays import Bools
from esper_env.config import ConfigError, check_number
from esper_env.tasks import read_files
from esper_env.threads import one_thread
from esper_env.vector_env import SeedVectorEnv

HELD_OUT_SEED = 1_000_000
"""Evaluation uses seeds from here on; those that training begins with lie below."""


@dataclass(frozen=True)
class Episode:
    """The outcome of one held-out episode."""

    agent: str
    task: str
    training_seed: int
    evaluation_seed: int
    objective_return: float
    shaped_return: float
    committed_test_accuracy: float
    final_params: int
    flops: float
    env_steps: int


NOT_HERE = frozenset({"num_envs", "threads", "autoreset_mode", "render_mode"})
"""Arguments of the environment that are the evaluation's own: one episode each, all at once."""
Observed = tuple[Mapping[str, npt.NDArray[Any]], Mapping[str, Any]]
"""Observation and info."""

COLUMNS = tuple(field.name for field in fields(Episode))


class Observer(Protocol):
    """Watches the episodes of an evaluation; arrays are `[episodes, ...]`."""

    def begin(self, agent: str, policy: TensorDictModuleBase, seeds: Sequence[int], after: Observed) -> None:
        """Episodes of an agent have begun, and this is what they look like untrained."""

    def follow(self, decided: TensorDictBase, after: Observed, over: Bools) -> None:
        """Every episode has gone on by a step: the policy's tensors, action included, what came of it, which ended."""


@dataclass(frozen=True)
class Announcer:
    """An `Observer` that tells whose episodes begin, and lets another one watch as well."""

    show: Callable[[str], None]
    other: Observer | None = None

    def begin(self, agent: str, policy: TensorDictModuleBase, seeds: Sequence[int], after: Observed) -> None:
        """Tell."""
        self.show(f"{agent}: {len(seeds)} episode{'s' * (len(seeds) != 1)}")
        if self.other is not None:
            self.other.begin(agent, policy, seeds, after)

    def follow(self, decided: TensorDictBase, after: Observed, over: Bools) -> None:
        """Nothing to tell."""
        if self.other is not None:
            self.other.follow(decided, after, over)


def held_out_seeds(episodes: int) -> list[int]:
    """The first so many held-out seeds."""
    return [HELD_OUT_SEED + i for i in range(episodes)]


def evaluate(
    policy: TensorDictModuleBase,
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    agent: str,
    training_seed: int = -1,
    temperature: float = 1.0,
    seed: int = 0,
    threads: int = 1,
    observer: Observer | None = None,
) -> list[Episode]:
    """Play one episode per seed, all at once as one population.

    What training improves is the policy that draws, and that is what is played unless asked otherwise: its mode may
    be far worse, where the likeliest action changes nothing and is therefore the likeliest again.

    Args:
        policy: what `create_policy` makes.
        env_options: arguments of the environment.
        seeds: of the episodes, one each.
        agent: name to put into the rows.
        training_seed: seed that the policy was trained with, -1 for one that was not trained.
        temperature: 1 draws as in training, less draws what is likely more often, 0 takes the mode (policies that do
            not learn ignore it).
        seed: of the policy's draws; its own stream is left as it was.
        threads: stacks of hosts run at the same time.
        observer: who watches.
    """
    for name in NOT_HERE & set(env_options):
        raise ConfigError(f"An evaluation sets {name} itself: leave it out of the environment's arguments.")
    check_number("temperature", temperature, 0, 100)
    count = len(seeds)
    mode = ExplorationType.RANDOM if temperature else ExplorationType.DETERMINISTIC
    device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    memory = policy.state_keys if isinstance(policy, ActorCritic) else []
    state = policy.initial_state(count) if isinstance(policy, ActorCritic) else TensorDict(batch_size=[count])
    playing, steps = np.ones(count, bool), np.zeros(count, int)
    objective, shaped = np.zeros(count), np.zeros(count)
    final = dict.fromkeys(("test_accuracy", "host_params", "seed_params", "flops"), np.zeros(count))
    with (
        one_thread(),
        drawing(policy, torch.Generator(device).manual_seed(seed), temperature),
        set_exploration_type(mode),
        closing(SeedVectorEnv(count, threads=min(threads, count), **env_options)) as env,
    ):
        observation, info = env.reset(seed=list(seeds))
        if observer is not None:
            observer.begin(agent, policy, seeds, (observation, info))
        state["is_init"] = torch.ones(count, 1, dtype=torch.bool, device=device)
        while playing.any():
            state.update({name: torch.from_numpy(array).to(device) for name, array in observation.items()})
            acted = policy(state)
            observation, reward, terminated, truncated, info = env.step(acted["action"].numpy(force=True))
            objective += playing * info["objective_reward"]
            shaped += playing * env.config.reward.gamma**steps * reward
            steps += playing
            # Episodes may differ in length; those that are over keep what they ended with.
            final = {name: np.where(playing, info[name], value) for name, value in final.items()}
            if observer is not None:
                observer.follow(acted, (observation, info), terminated | truncated)
            playing &= ~(terminated | truncated)
            state = acted["next"].select(*memory) if memory else TensorDict(batch_size=[count])
            state["is_init"] = torch.zeros(count, 1, dtype=torch.bool, device=device)
        task = env.config.task
    # An episode that was cut short has no final report.
    test_accuracy = np.where(final["test_accuracy"] < 0, np.nan, final["test_accuracy"])
    return [
        Episode(
            agent=agent,
            task=task,
            training_seed=training_seed,
            evaluation_seed=evaluation_seed,
            objective_return=float(objective[i]),
            shaped_return=float(shaped[i]),
            committed_test_accuracy=float(test_accuracy[i]),
            final_params=int(final["host_params"][i] + final["seed_params"][i]),
            flops=float(final["flops"][i]),
            env_steps=int(steps[i]),
        )
        for i, evaluation_seed in enumerate(seeds)
    ]


@contextmanager
def drawing(policy: TensorDictModuleBase, generator: torch.Generator, temperature: float) -> Iterator[None]:
    """Let a policy draw from this generator at this temperature, and give it its own back."""
    own, usual = getattr(policy, "generator", None), getattr(policy, "temperature", 1.0)
    policy.generator, policy.temperature = generator, temperature
    try:
        yield
    finally:
        policy.generator, policy.temperature = own, usual


def evaluate_named(
    names: Iterable[str],
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    seed: int = 0,
    threads: int = 1,
    observer: Observer | None = None,
) -> list[Episode]:
    """Evaluate policies as `create_policy` makes them: those that do not learn."""
    env = SeedVectorEnv(**env_options)
    read_files(env.config)
    spec = EnvSpec.of(env)
    policies = {name: create_policy(name, spec, seed=seed) for name in names}
    for name, policy in policies.items():
        if isinstance(policy, ActorCritic):
            raise ConfigError(f"Policy {name!r} has learned nothing yet: evaluate the run that trained it with --run.")
    return [
        episode
        for name, policy in policies.items()
        for episode in evaluate(policy, env_options, seeds, agent=name, seed=seed, threads=threads, observer=observer)
    ]


def evaluate_run(
    run: Path,
    env_options: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    which: str = "best",
    temperature: float = 1.0,
    seed: int = 0,
    threads: int = 1,
    observer: Observer | None = None,
) -> list[Episode]:
    """Evaluate the policy that a run has trained, in its own environment or in another one of the same sizes."""
    policy, config = load_policy(run, which)
    env = SeedVectorEnv(**env_options)
    EnvSpec.of(env).require(EnvSpec.of(SeedVectorEnv(**config.env_options)), run)
    read_files(env.config)
    return evaluate(
        policy,
        env_options,
        seeds,
        agent=config.policy,
        training_seed=config.seed,
        temperature=temperature,
        seed=seed,
        threads=threads,
        observer=observer,
    )


KINDS = {"str": str, "int": int, "float": float}
"""How a column is read, by the type of its field."""


def write_csv(path: Path, episodes: Iterable[Episode]) -> None:
    """Write rows under `COLUMNS`, replacing what was there. Floats are read back as the same bits."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(episode) for episode in episodes)


def read_episodes(path: Path) -> list[Episode]:
    """The rows of a results file, checked against the schema."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ConfigError(f"{path} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)}.")
        return [_episode(path, reader.line_num, row) for row in reader]


def _episode(path: Path, line: int, row: Mapping[str, Any]) -> Episode:
    values: dict[str, Any] = {}
    for field in fields(Episode):
        try:
            values[field.name] = KINDS[str(field.type)](row[field.name])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}, line {line}: {field.name} is {row[field.name]!r}, not {field.type}.") from error
    return Episode(**values)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float], resamples: int = 2000) -> Estimate:
    """Mean of `values` with the percentile bootstrap interval of the mean (Efron 1979), from a fixed stream."""
    sample = np.asarray(values, float)
    picks = np.random.default_rng(0).integers(len(sample), size=(resamples, len(sample)))
    low, high = np.percentile(sample[picks].mean(1), [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high))


SUMMARY = {
    "objective return": "objective_return",
    "committed test accuracy": "committed_test_accuracy",
    "parameters": "final_params",
    "GFLOP": "flops",
}
"""Columns of a summary, and the field of `Episode` each is the mean of."""


def summarise(episodes: Iterable[Episode]) -> dict[str, dict[str, Estimate]]:
    """For each agent, in order of appearance, the mean of every summary column."""
    by_agent: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_agent.setdefault(episode.agent, []).append(episode)
    scale = {"GFLOP": 1e-9}
    return {
        agent: {
            title: estimate([getattr(row, name) * scale.get(title, 1.0) for row in rows])
            for title, name in SUMMARY.items()
        }
        for agent, rows in by_agent.items()
    }


def table(summary: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A summary as aligned text: mean and interval of every column, an agent a line."""
    rows = [["agent", *SUMMARY]]
    for agent, columns in summary.items():
        rows.append([agent, *(_interval(value) for value in columns.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _interval(value: Estimate) -> str:
    """A mean and its interval; a dash where an episode that was cut short has no value."""
    return "-" if math.isnan(value.mean) else f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
