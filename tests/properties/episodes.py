"""Complete episodes of many hosts, recorded: arrays `[steps, envs, ...]`."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from esper_env.reward import STAGE_WEIGHT
from esper_env.vector_env import SeedVectorEnv
from tests.properties.players import grow, wait

PLAYERS = {"wait": wait, "grow": grow}
GAMMA = 0.995
OBJECTIVE = ("progress", "forfeit", "rent", "shock", "op_cost", "governor")
BLENDED = (4, 5, 6)


@dataclass
class Episodes:
    """What was paid and seen in every step; where an episode was over already, nothing is paid any more."""

    start: dict
    """The info of the reset."""
    info: dict
    reward: np.ndarray
    terms: dict
    alive: np.ndarray
    """Was the episode still going on when the step began?"""

    def discounted(self, *names):
        """The discounted sum of these terms, `[envs]`; of the whole reward when none is named."""
        paid = sum(self.terms[name] for name in names) if names else self.reward
        return (GAMMA ** np.arange(len(paid))[:, None] * paid).sum(0)

    def total(self, *names):
        """The undiscounted sum of these terms, `[envs]`."""
        return sum(self.terms[name] for name in names).sum(0)

    def last(self, name):
        """A value at the last step of each episode."""
        steps = self.alive.sum(0) - 1
        return self.info[name][steps, np.arange(len(steps))]

    def objective_return(self):
        """What the project reports as return."""
        return (self.info["objective_reward"] * self.alive).sum(0)


def record(envs, actions, seeds, meddle=None):
    """Play to the end, with `actions(observation, step)`; `meddle(simulation, step)` may interfere before a step."""
    observation, start = envs.reset(seed=list(seeds))
    alive = np.ones(envs.num_envs, bool)
    rows = []
    while alive.any():
        if meddle is not None:
            meddle(envs.unwrapped._simulation, len(rows))
        observation, reward, terminated, truncated, info = envs.step(actions(observation, len(rows)))
        terms = {name: np.where(alive, term, 0) for name, term in info["reward_terms"].items() if name[0] != "_"}
        rows.append((alive, np.where(alive, reward, 0), terms, info))
        over = terminated | truncated
        alive = alive & ~over
        if over.any() and alive.any():
            # Finished hosts play on unrecorded, because every host has to be stepped.
            observation, _ = envs.reset(options={"reset_mask": over})
    names = [name for name, value in rows[0][3].items() if isinstance(value, np.ndarray) and name[0] != "_"]
    return Episodes(
        start=start,
        info={name: np.stack([info[name] for *_, info in rows]) for name in names},
        reward=np.stack([reward for _, reward, *_ in rows]),
        terms={name: np.stack([terms[name] for _, _, terms, _ in rows]) for name in rows[0][2]},
        alive=np.stack([was for was, *_ in rows]),
    )


def potential(info, steps=...):
    """Φ of the states that info describes, by the formulas of the domain page."""
    stage, shapley = info["stage"][steps], info["shapley"][steps]
    return 0.03 * np.where(np.isin(stage, BLENDED), shapley, 0).sum(-1) + 0.1 * STAGE_WEIGHT[stage].sum(-1)


@cache
def full_episodes(task, player, hosts):
    """Episodes at full length and on all of the data, of seeds 0, 1, …"""
    envs = SeedVectorEnv(hosts, task=task, autoreset_mode="disabled")
    return record(envs, lambda observation, step: PLAYERS[player](observation), range(hosts))
