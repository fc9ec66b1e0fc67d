"""sb3-contrib's MaskablePPO through `SeedVecEnv`: trained in rollouts, each of which a killed run goes on from.

Stable-baselines3 draws actions and minibatches from the global generators, so their states are part of a
checkpoint, and are put back as they were when training ends.
"""

from __future__ import annotations

import csv
import io
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.distributions import MaskableMultiCategoricalDistribution
from stable_baselines3.common.callbacks import BaseCallback
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from esper_agent import checkpoint
from esper_agent.files import replacing
from esper_agent.runs import HOST_SEEDS
from esper_agent.spec import OBSERVATION_KEYS
from esper_env.config import ConfigError
from esper_env.sb3 import SeedVecEnv

CHECKPOINT = "checkpoint.pt"
ROLLOUT = 1_600
"""Steps of a rollout, all environments together: next to the 2,048 that a single environment has by default, of which
no whole number makes up the steps of the protocol."""
COLUMNS = ("steps", "episodes", "episode/objective_return")


class Returns(BaseCallback):
    """Objective returns of the episodes that end; `running` is part of a checkpoint."""

    def __init__(self, envs: int) -> None:
        super().__init__()
        self.running = np.zeros(envs)
        self.ended: list[float] = []

    def _on_step(self) -> bool:
        for env, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            self.running[env] += info["objective_reward"]
            if done:
                self.ended.append(float(self.running[env]))
                self.running[env] = 0.0
        return True


def train_maskable(
    folder: Path,
    settings: Mapping[str, Any],
    env_options: Mapping[str, Any],
    *,
    steps: int,
    seed: int,
    num_envs: int,
    threads: int = 1,
    deadline: float = float("inf"),
    show: Callable[[str], None] = print,
) -> bool:
    """Train until `steps`, or until the monotonic clock passes `deadline`; False when steps are left.

    Args:
        folder: where the checkpoint and the curve are; an earlier training in it is continued.
        settings: of MaskablePPO; `net_arch` goes to its policy, and `rollout` is in steps of all environments.
        env_options: arguments of the environment.
        steps: environment steps, all environments together.
        seed: of everything; hosts begin as those of our own agent do.
        num_envs: hosts.
        threads: stacks of hosts run at the same time.
        deadline: when to stop early.
        show: told the progress after every rollout.
    """
    path = folder / CHECKPOINT
    saved = checkpoint.read(path) if path.exists() else None
    if saved is not None and saved["steps"] >= steps:
        return True
    with closing(SeedVecEnv(num_envs, threads=threads, **env_options)) as env, global_streams():
        agent, returns = _agent(settings, env, seed), Returns(num_envs)
        rows: list[dict[str, float]] = []
        if saved is None:
            env.seed(seed * HOST_SEEDS)
        else:
            rows = _restore(agent, returns, env, saved)
        while agent.num_timesteps < steps:
            agent.learn(agent.n_steps * num_envs, callback=returns, reset_num_timesteps=not rows)
            mean = float(np.mean(returns.ended)) if returns.ended else float("nan")
            rows.append(dict(zip(COLUMNS, (float(agent.num_timesteps), float(len(returns.ended)), mean), strict=True)))
            returns.ended = []
            write_curve(folder / "metrics.csv", rows)  # first: nobody would write it again after the last checkpoint
            checkpoint.write(path, _state(agent, returns, env, rows))
            show(f"{agent.num_timesteps:,}/{steps:,} steps  return {mean:.2f}")
            if time.monotonic() > deadline and agent.num_timesteps < steps:
                return False
    return True


def _agent(settings: Mapping[str, Any], env: SeedVecEnv, seed: int) -> MaskablePPO:
    options = dict(settings)
    rollout, width = options.pop("rollout", ROLLOUT), options.pop("net_arch", None)
    if rollout % env.num_envs:
        raise ConfigError(f"A rollout of {rollout} steps is no multiple of {env.num_envs} environments.")
    architecture = {} if width is None else {"net_arch": list(width)}
    return MaskablePPO(
        "MultiInputPolicy",
        env,
        n_steps=rollout // env.num_envs,
        policy_kwargs=architecture,
        device="cpu",
        seed=seed,
        **options,
    )


def _state(agent: MaskablePPO, returns: Returns, env: SeedVecEnv, rows: list[dict[str, float]]) -> dict[str, Any]:
    whole = io.BytesIO()
    agent.save(whole)
    rest = {
        "env": env.vector_env.get_state(),
        "last": (agent._last_obs, agent._last_episode_starts),
        "running": returns.running,
        "streams": _streams(),
    }
    return {
        "steps": agent.num_timesteps,
        "rows": rows,
        "agent": torch.frombuffer(bytearray(whole.getvalue()), dtype=torch.uint8),
        "rest": checkpoint.pack(rest),
    }


def _restore(agent: MaskablePPO, returns: Returns, env: SeedVecEnv, saved: Mapping[str, Any]) -> list[dict[str, float]]:
    agent.set_parameters(_loaded(saved).get_parameters())  # type: ignore[arg-type]
    agent.num_timesteps = saved["steps"]
    agent._n_updates = agent.n_epochs * len(saved["rows"])
    rest = checkpoint.unpack(saved["rest"])
    env.reset()
    env.vector_env.set_state(rest["env"])
    agent._last_obs, agent._last_episode_starts = rest["last"]
    returns.running = rest["running"]
    _set_streams(rest["streams"])
    rows: list[dict[str, float]] = saved["rows"]
    return rows


def _loaded(saved: Mapping[str, Any]) -> MaskablePPO:
    return MaskablePPO.load(io.BytesIO(saved["agent"].numpy().tobytes()), device="cpu")


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The curve so far."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_maskable(folder: Path) -> Masked:
    """The trained agent as a policy of ours."""
    with global_streams():  # loading seeds them
        return Masked(_loaded(checkpoint.read(folder / CHECKPOINT)))


class Masked(TensorDictModuleBase):  # type: ignore[misc]
    """A MaskablePPO agent that reads and writes TensorDicts, drawing its actions."""

    def __init__(self, agent: MaskablePPO) -> None:
        super().__init__()
        self.agent = agent
        self.generator: torch.Generator | None = None
        self.temperature = 1.0
        self.in_keys, self.out_keys = [*OBSERVATION_KEYS, "is_init"], ["action"]

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """A valid action for every episode."""
        observation = {name: td[name].numpy() for name in OBSERVATION_KEYS}
        observed, _ = self.agent.policy.obs_to_tensor(observation)
        with torch.no_grad():
            distribution = self.agent.policy.get_distribution(observed, observation["action_mask"].astype(bool))
        assert isinstance(distribution, MaskableMultiCategoricalDistribution)  # what a MultiDiscrete space gets
        # Drawn here, because stable-baselines3 draws from the global generator and knows no temperature.
        drawn = [
            torch.multinomial((head.logits / self.temperature).softmax(-1), 1, generator=self.generator)
            if self.temperature
            else head.logits.argmax(-1, keepdim=True)
            for head in distribution.distributions
        ]
        td.set("action", torch.cat(drawn, -1))
        return td


@contextmanager
def global_streams() -> Iterator[None]:
    """Leave the global generators as they were found."""
    before = _streams()
    try:
        yield
    finally:
        _set_streams(before)


def _streams() -> dict[str, Any]:
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}


def _set_streams(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
