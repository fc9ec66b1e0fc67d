"""Playing in the terminal: a person takes the place of the agent for an episode."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict

from esper_agent.loggers import EpisodesFile
from esper_agent.play_advice import Adviser, find_adviser
from esper_agent.play_menu import Menu, RefusalError
from esper_env.actions import CANONICAL_ACTION
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.render.screen import CLEAR
from esper_env.threads import one_thread
from esper_env.waiting import waiting_twin

WELCOME = """\
You grow this network while it trains: plant seeds in its slots, let them learn,
blend them in, and make permanent what helps. What is not permanent at the end
is lost. A seed: germinate, advance, wait, advance, wait, advance, fossilize.
"""
PROMPT = "> "


@dataclass
class Account:
    """The episode so far, step by step, as `episodes.jsonl` tells it."""

    actions: list[list[int]] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    blueprints: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, action: list[int], observation: Mapping[str, npt.NDArray[Any]], info: dict[str, Any]) -> None:
        """Take in a step."""
        self.actions.append(action)
        self.infos.append(info)
        self.blueprints.append(observation["blueprint_index"])

    @property
    def objective_return(self) -> float:
        """What counts, so far."""
        return float(sum(info["objective_reward"] for info in self.infos))

    @property
    def reward(self) -> float:
        """What was paid, shaping included, so far."""
        return float(sum(sum(info["reward_terms"].values()) for info in self.infos))

    def save(self, path: Path) -> None:
        """Append the finished episode to a file, as training does.

        A person tells neither probabilities nor values: the logarithms of the first, and the second, are 0.
        """
        steps = len(self.infos)
        begins, ends = (torch.arange(steps)[:, None] == step for step in (0, steps - 1))
        told = {name: self._column(name) for name in ("test_accuracy", "action_executed", "val_accuracy")}
        told |= {name: torch.from_numpy(np.stack([info[name] for info in self.infos])) for name in ("stage", "alpha")}
        objective = torch.tensor([info["objective_reward"] for info in self.infos], dtype=torch.float64)
        terms = {
            name: torch.tensor([info["reward_terms"][name] for info in self.infos], dtype=torch.float64)[:, None]
            for name in self.infos[0]["reward_terms"]
        }
        info = TensorDict(told | {"objective_return": objective.cumsum(0)[:, None], "reward_terms": terms}, [steps])
        action = torch.tensor(self.actions)
        episode = TensorDict(
            {
                "is_init": begins,
                "action": action,
                "action_log_prob": torch.zeros(action.shape),
                "state_action_value": torch.zeros(steps, 1),
                "next": {"done": ends, "info": info, "blueprint_index": torch.from_numpy(np.stack(self.blueprints))},
            },
            [steps],
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        EpisodesFile(path).write(episode[None], update=0)

    def _column(self, name: str) -> torch.Tensor:
        return torch.tensor([info[name] for info in self.infos])[:, None]


class Game:
    """An episode that a person plays.

    Args:
        env_options: arguments of the environment.
        seed: of the episode.
        advice: folder of a run, or name of a policy, that says what it would do.
        which: the run's checkpoint, `best` or `last`.
    """

    def __init__(
        self, env_options: Mapping[str, Any], *, seed: int, advice: str | None = None, which: str = "best"
    ) -> None:
        if "render_mode" in env_options:
            raise ConfigError("An episode that a person plays is drawn as text in the terminal: leave render_mode out.")
        self.env_options, self.seed = dict(env_options), seed
        self.env = SeedEnv(render_mode="ansi", **self.env_options)
        self.adviser: Adviser | None = None if advice is None else find_adviser(advice, self.env, which)
        self.account = Account()
        self.over = False
        self.observation, self.info = self.env.reset(seed=seed)
        self.advice = self._advice()

    @property
    def menu(self) -> Menu:
        """What may be done now."""
        return Menu(self.observation, self.env.config.num_slots)

    def take(self, action: list[int]) -> None:
        """Carry out an action."""
        self.observation, _, self.over, _, self.info = self.env.step(np.array(action))
        self.account.add(action, self.observation, self.info)
        self.advice = self._advice()

    def _advice(self) -> list[str]:
        """Asked for in every step, even where nobody reads it: the adviser may remember."""
        return [] if self.adviser is None or self.over else self.adviser.advise(self.observation)

    def wait(self, epochs: int) -> None:
        """Wait for so many epochs, or until something else has become legal or has ceased to be."""
        legal = self.menu.legal
        for _ in range(epochs):
            self.take(CANONICAL_ACTION.tolist())
            if self.over or self.menu.legal != legal:
                return

    def obey(self, line: str) -> None:
        """Do what a line says.

        Raises:
            RefusalError: when it cannot be done; nothing has changed then.
        """
        if line.isdecimal():
            if int(line) == 0:
                raise RefusalError("Wait at least 1 epoch.")
            self.wait(int(line))
        else:
            self.take(self.menu.action(line))

    def lines(self) -> list[str]:
        """The frame, what has come of it so far, advice and menu."""
        account, lines = self.account, str(self.env.render()).splitlines()
        if not account.infos:
            lines += ["", *WELCOME.splitlines()]
        else:
            lines.append(f"so far    objective {account.objective_return:+.2f}, with shaping {account.reward:+.2f}")
        return lines if self.over else [*lines, *self.advice, "", *self.menu.lines()]

    def show(self) -> None:
        """Print it all; a terminal shows it in the place of the last, without empty lines where it has few rows."""
        lines = self.lines()
        if sys.stdout.isatty():
            print(CLEAR, end="")
            if len(lines) >= get_terminal_size().lines:  # the prompt needs one too
                lines = [line for line in lines if line]
        print("\n".join(lines))

    def conclude(self) -> None:
        """What the episode was worth, beside what waiting would have been."""
        twin = waiting_twin(seed=self.seed, **self.env_options)
        won, waited = self.account.objective_return, twin.objective_return
        print(
            f"\nThe end. Your objective return is {won:.2f}, and {self.info['test_accuracy']:.1f} % of the test data "
            f"are right.\nHad you only waited: {waited:.2f}, and {twin.test_accuracy:.1f} %."
        )


def play(game: Game, save: Path | None = None) -> bool:
    """Play an episode on standard input and output.

    Args:
        game: the episode.
        save: file to append it to once it has ended.

    Returns:
        Has it been played to its end?
    """
    with suppress(ImportError):  # not on every system
        import readline  # noqa: F401 - lines can be edited and called back
    with one_thread():
        game.show()
        while not game.over:
            line = _ask()
            if line in ("?", "h", "help"):
                print("\n".join(["", *game.menu.explain(), ""]))
                continue
            if line is None or line in ("q", "quit", "exit"):
                print(f"Left at epoch {game.info['epoch']} of {game.env.config.max_epochs}.")
                return False
            try:
                game.obey(line)
            except RefusalError as refusal:
                print(refusal)
                continue
            game.show()
        game.conclude()
    if save is not None:
        game.account.save(save)
        print(f"Saved in {save}.")
    return True


def _ask() -> str | None:
    """The next line; None at the end of the input."""
    try:
        return input(PROMPT).strip().lower()
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        raise
