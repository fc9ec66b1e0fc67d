"""Handing in results of an agent of one's own: its held-out episodes are played, recorded and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from benchmarks.suite import scaffold
from benchmarks.suite.playing import play, with_planning
from benchmarks.suite.protocol import PROTOCOL, Protocol
from benchmarks.suite.recordings import key
from benchmarks.suite.results import MANIFEST, RESULTS, put, read_agent
from benchmarks.suite.runs import session
from esper_agent.files import locked
from esper_agent.spec import OBSERVATION_KEYS
from esper_env.arrays import Bools, Ints
from esper_env.config import ConfigError
from esper_env.spaces import Observation

Act = Callable[[Observation, Bools], Ints]
"""From the observations of all episodes, and which of them begin now, to actions `[episodes, 8]`."""


class Acting(TensorDictModuleBase):  # type: ignore[misc]
    """A plain function as a policy."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act
        self.in_keys, self.out_keys = [*OBSERVATION_KEYS, "is_init"], ["action"]

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """Ask the function."""
        observation = {name: td[name].numpy(force=True) for name in OBSERVATION_KEYS}
        action = self.act(observation, td["is_init"].squeeze(-1).numpy(force=True))
        td.set("action", torch.from_numpy(np.asarray(action, np.int64)))
        return td


def hand_in(
    agent: str,
    policy: TensorDictModuleBase | Act,
    task: str,
    *,
    training_seed: int = -1,
    training_steps: int = 0,
    spent: Sequence[tuple[float, int]] = (),
    summary: str = "",
    temperature: float = 1.0,
    results: Path = RESULTS,
    protocol: Protocol = PROTOCOL,
    threads: int = 1,
) -> Path:
    """Play every held-out episode of a task once, and write what `esper bench validate` asks for.

    Args:
        agent: its name, and that of its folder; one that the protocol has is refused.
        policy: what `create_policy` makes, or a function of observations and of which episodes begin.
        task: of the protocol.
        training_seed: seed that the agent was trained with, -1 if it was not.
        training_steps: environment steps that it was trained for.
        spent: FLOPs and epochs that planning each held-out episode has cost, in the order of their seeds.
        summary: a line on what it is.
        temperature: at which a policy of ours draws; choose it, if at all, on seeds below the held-out ones.
        results: folder of results.
        protocol: whose environment and seeds are used.
        threads: stacks of hosts run at the same time.

    Returns:
        The agent's folder.
    """
    if agent.partition("@")[0] in {contestant.name for contestant in protocol.contestants}:
        raise ConfigError(
            f"{agent!r} is a contestant of the protocol: run it with esper bench run, or take another name."
        )
    if not agent or any(sign in agent for sign in "/\\@|`"):
        raise ConfigError(f"{agent!r} cannot be the name of an agent and its folder.")
    scaffold.register()
    chosen = policy if isinstance(policy, TensorDictModuleBase) else Acting(policy)
    seeds = protocol.held_out_seeds()
    played = play(
        chosen,
        protocol.env_options(task),
        seeds,
        agent=agent,
        training_seed=training_seed,
        temperature=temperature,
        threads=threads,
    )
    mine = {key(episode): taken for episode, taken in zip(played.episodes, played.actions, strict=True)}
    episodes = with_planning(played.episodes, spent) if spent else played.episodes
    origin = {"steps": training_steps, "temperature": temperature, "sessions": [session()]}
    with locked(results, wait=True):
        before = _handed_in(results / agent, protocol.version)
        about = {
            "agent": agent,
            "summary": summary or before.get("summary", ""),
            "protocol": protocol.version,
            "plans": bool(spent) or before.get("plans", False),
            "static": False,
        }
        return put(results, about, task, training_seed, origin, episodes, mine)


def _handed_in(folder: Path, version: int) -> Mapping[str, Any]:
    """The manifest of what was handed in before, under the same version of the protocol."""
    manifest = read_agent(folder).manifest if (folder / MANIFEST).exists() else {}
    return manifest if manifest.get("protocol") == version else {}
