"""The viewer of an environment: it follows the episode and shows it as the render mode asks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from esper_env.config import ConfigError, unknown_name
from esper_env.render.frame import Frame, look
from esper_env.render.text import text
from esper_env.simulation import Simulation

RENDER_MODES = ("human", "rgb_array", "ansi")
FRAMES_PER_SECOND = 4


class Viewer:
    """Keeps the frame of the present epoch, and draws it when asked.

    Args:
        mode: one of `RENDER_MODES`.

    Raises:
        ConfigError: for an unknown mode.
        ModuleNotFoundError: when the mode needs Pillow and it is not installed.
    """

    def __init__(self, mode: str) -> None:
        if mode not in RENDER_MODES:
            raise ConfigError(unknown_name("render_mode", mode, RENDER_MODES))
        self.mode = mode
        self.frame: Frame | None = None
        self._picture: Any = None
        if mode != "ansi":
            self._picture = import_module("esper_env.render.picture").picture
        self._screen: Any = None
        self._shown: Frame | None = None

    def begin(self, simulation: Simulation) -> None:
        """An episode has begun."""
        self._keep(look(simulation))

    def follow(self, simulation: Simulation, vector: Sequence[int]) -> None:
        """An epoch has been trained under an action."""
        self._keep(look(simulation, self.frame, vector))

    def take_over(self, simulation: Simulation, frame: Frame | None) -> None:
        """Go on from a frame that another viewer kept; without one the episode is watched from here on."""
        self.frame = look(simulation) if frame is None else frame

    def _keep(self, frame: Frame) -> None:
        self.frame = frame
        if self.mode == "human":
            self.render()

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """The present frame; None when it has been shown on the screen."""
        if self.frame is None:
            raise RuntimeError("There is nothing to see yet: begin an episode first.")
        if self.mode == "ansi":
            return text(self.frame)
        if self.mode == "rgb_array":
            return np.asarray(self._picture(self.frame))
        self._show(self.frame)
        return None

    def _show(self, frame: Frame) -> None:
        if self._screen is None:
            self._screen = import_module("esper_env.render.screen").open_screen(1 / FRAMES_PER_SECOND)
        if frame is not self._shown:
            self._shown = frame
            self._screen.show(frame)

    def close(self) -> None:
        """Close the window, if there is one; rendering again opens another."""
        if self._screen is not None:
            self._screen.close()
        self._screen = self._shown = None
