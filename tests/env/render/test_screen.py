import sys

import numpy as np

from esper_env.env import SeedEnv
from esper_env.render import screen
from esper_env.render.picture import HEIGHT, WIDTH, picture
from esper_env.render.text import text
from tests.conftest import action
from tests.env.render.episodes import OPTIONS, SCRIPT, make, watched


def test_without_a_display_a_human_reads_every_epoch_once(capsys):
    env, expected = make("human"), watched(SCRIPT[:2])
    env.reset(seed=1)
    for vector in SCRIPT[:2]:
        env.step(np.array(vector))
        assert env.render() is None
    env.close()
    assert capsys.readouterr().out == "".join(text(frame) + "\n" for frame in expected)


def test_a_fork_of_a_watched_environment_shows_nothing(capsys):
    env = make("human").unwrapped
    env.reset(seed=1)
    capsys.readouterr()
    fork = env.fork()
    fork.step(np.array(SCRIPT[0]))
    assert capsys.readouterr().out == ""
    assert fork.render_mode is None


def test_a_screen_is_opened_once_and_closed(monkeypatch, frames):
    happened = []

    class Recorder:
        def show(self, frame):
            happened.append(frame.now.number)

        def close(self):
            happened.append("closed")

    monkeypatch.setattr(screen, "open_screen", lambda seconds: happened.append(seconds) or Recorder())
    env = SeedEnv(render_mode="human", **OPTIONS)
    for _ in range(2):
        env.reset(seed=1)
        env.step(action())
        env.close()
        env.close()
    assert happened == [0.25, 0, 1, "closed"] * 2


class FakeTk:
    """As much of tkinter as a window uses, and a record of what it did."""

    TclError = type("TclError", (Exception,), {})

    def __init__(self, display=True):
        self.images, self.open, self.display, self.handlers = [], False, display, {}

    def Tk(self):  # noqa: N802
        if not self.display:
            raise self.TclError("no display name and no $DISPLAY environment variable")
        self.open = True
        return self

    def PhotoImage(self, master, data, format):  # noqa: N802
        self.images.append((master.open, data, format))
        return data

    def Label(self, master, **options):  # noqa: N802
        return self

    def protocol(self, name, handler):
        self.handlers[name] = handler

    def destroy(self):
        self.open = False

    def _nothing(self, *args, **options):
        pass

    title = resizable = pack = configure = update = _nothing


def test_a_window_shows_pictures_until_it_is_closed(monkeypatch, frames):
    tk = FakeTk()
    monkeypatch.setitem(sys.modules, "tkinter", tk)
    window = screen.open_screen(0)
    for frame in frames[:2]:
        window.show(frame)
    header = b"P6 %d %d 255\n" % (WIDTH, HEIGHT)
    assert tk.images == [(True, header + picture(frame).tobytes(), "PPM") for frame in frames[:2]]
    tk.handlers["WM_DELETE_WINDOW"]()
    window.show(frames[2])
    window.close()
    assert len(tk.images) == 2
    assert not tk.open


def test_where_there_is_no_display_the_screen_is_the_terminal(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", FakeTk(display=False))
    assert isinstance(screen.open_screen(0), screen.Terminal)
