"""The frames of the scripted episode, and pictures as sketches; no test opens a window."""

import sys

import pytest

from esper_env.render.picture import picture
from tests.env.render.episodes import watched
from tests.env.render.sketch import Sketch


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)


@pytest.fixture(scope="session")
def frames():
    return watched()


@pytest.fixture
def sketch(monkeypatch):
    """Draws a frame as a `Sketch`."""
    monkeypatch.setattr("esper_env.render.picture.Canvas", Sketch)
    return picture
