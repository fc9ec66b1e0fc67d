"""The reference: which names of which module are public, for mkdocstrings to describe."""

from __future__ import annotations

import inspect
from importlib import import_module


def public(module: str) -> list[str]:
    """The public names of a module, as its `__all__` has them; without one, its own classes and functions."""
    home = import_module(module)
    if hasattr(home, "__all__"):
        return list(home.__all__)
    members = inspect.getmembers(home, lambda thing: inspect.isclass(thing) or inspect.isfunction(thing))
    return [name for name, thing in members if thing.__module__ == module and not name.startswith("_")]


def reference(module: str) -> str:
    """Every public name of a module."""
    return "\n\n".join(f"::: {module}.{name}" for name in public(module))
