"""Where a human sees frames: a window, with nothing but the standard library, or else the terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from esper_env.render.frame import Frame
from esper_env.render.picture import picture
from esper_env.render.text import text

if TYPE_CHECKING:
    import tkinter

TITLE = "Esper"
POLL = 0.01
"""Seconds between looks at the keyboard and the mouse while a frame stands."""
CLEAR = "\x1b[H\x1b[2J"


def open_screen(seconds: float) -> Window | Terminal:
    """A window, or the terminal where there is no display or no tkinter.

    Args:
        seconds: how long each frame stands at least.
    """
    try:
        import tkinter
    except ImportError:
        return Terminal(seconds)
    try:
        return Window(tkinter.Tk(), seconds)
    except tkinter.TclError:
        return Terminal(seconds)


class Window:
    """Shows pictures. Once the user has closed it, nothing is shown and nobody waits."""

    def __init__(self, root: tkinter.Tk, seconds: float) -> None:
        import tkinter

        self._root: tkinter.Tk | None = root
        self._seconds, self._due = seconds, 0.0
        self._image: tkinter.PhotoImage | None = None
        root.title(TITLE)
        root.resizable(False, False)
        root.protocol("WM_DELETE_WINDOW", self.close)
        self._label = tkinter.Label(root, borderwidth=0)
        self._label.pack()

    def show(self, frame: Frame) -> None:
        """Show a frame once the one before has stood long enough."""
        import tkinter

        while self._root is not None and time.monotonic() < self._due:
            self._root.update()
            time.sleep(POLL)
        if self._root is None:
            return
        pixels = picture(frame)
        height, width, _ = pixels.shape
        data = b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()
        self._image = tkinter.PhotoImage(master=self._root, data=data, format="PPM")
        self._label.configure(image=self._image)
        self._root.update()
        self._due = time.monotonic() + self._seconds

    def close(self) -> None:
        """Close the window; again is fine."""
        if self._root is not None:
            self._root.destroy()
        self._root = self._image = None


class Terminal:
    """Prints frames as text, each in the place of the one before unless the output goes to a file."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._due = seconds, 0.0

    def show(self, frame: Frame) -> None:
        """Print a frame once the one before has stood long enough."""
        if sys.stdout.isatty():
            time.sleep(max(0.0, self._due - time.monotonic()))
            self._due = time.monotonic() + self._seconds
            print(CLEAR, end="")
        print(text(frame), flush=True)

    def close(self) -> None:
        """Nothing is to be closed."""
