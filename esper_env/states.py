"""Saved states: a versioned envelope around everything that evolves, refused with a reason where it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from esper_env.arrays import Arrays
from esper_env.simulation import Simulation

FORMAT = "esper-seed-state"
VERSION = 3
ENVELOPE = {"envs": int, "stacks": list, "config": dict, "blueprints": list, "simulation": dict, "shell": dict}
"""What a state holds beside its format and version, with the types."""

WHEREABOUTS = frozenset(("data_dir", "download"))
"""Options that a state may differ in: where data comes from changes nothing about it."""


class StateError(ValueError):
    """A state that cannot be continued from here; the message says why."""


def pack(simulation: Simulation, shell: dict[str, Any]) -> dict[str, Any]:
    """A copy of the simulation's state and the shell's own, ready to be pickled."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "envs": simulation.envs,
        "stacks": _stacks(simulation),
        "config": simulation.config.to_dict(),
        "blueprints": list(simulation.blueprints),
        "simulation": simulation.get_state(),
        "shell": copy.deepcopy(shell),
    }


def unpack(simulation: Simulation, shell: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Continue `simulation` from a packed state; returns the shell's part, which must be like the present `shell`.

    Raises:
        StateError: naming what does not fit. Nothing has been changed then.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StateError(f"This is no state of an Esper environment but a {type(state).__name__}: use get_state().")
    if state.get("version") != VERSION:
        raise StateError(f"The state has version {state.get('version')}, this package reads version {VERSION} only.")
    _check_names("it", ENVELOPE, state)
    for name, kind in ENVELOPE.items():
        if not isinstance(state[name], kind):
            raise _damage(name, state[name])
    if state["envs"] != simulation.envs:
        raise StateError(f"The state is of {state['envs']} environment(s), this one has {simulation.envs}.")
    if not state["shell"].keys() <= shell.keys():
        raise StateError("The state is of a vector environment and this is a single one, or the other way round.")
    _check_names("its shell", shell, state["shell"])
    if state["blueprints"] != list(simulation.blueprints):
        raise StateError(
            f"The state was taken with the blueprints {state['blueprints']}, here they are "
            f"{list(simulation.blueprints)}: register the same ones in the same order."
        )
    mine, theirs = simulation.config.to_dict(), state["config"]
    different = [name for name in mine if name not in WHEREABOUTS and mine[name] != theirs.get(name)]
    if different:
        detail = "; ".join(f"{name}: {theirs.get(name)!r} there, {mine[name]!r} here" for name in different)
        raise StateError(f"The state belongs to another configuration ({detail}). Make the environment with the same.")
    if state["stacks"] != _stacks(simulation):
        raise StateError(
            f"The state has its hosts in stacks of {state['stacks']}, here they are {_stacks(simulation)}: make the "
            "environment with the same chunk and threads."
        )
    _check_names("its simulation", simulation.parts(), state["simulation"])
    for name, part in simulation.parts().items():
        if not _alike(part, state["simulation"][name]):
            raise _damage(name, state["simulation"][name])
    for name, part in shell.items():
        given = state["shell"][name]
        if part is not None and given is not None and not _alike(part, given):  # a generator comes with the first reset
            raise _damage(name, given)
    simulation.set_state(state["simulation"])
    return dict(copy.deepcopy(state["shell"]))


def _check_names(what: str, expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    lacking = expected.keys() - given.keys()
    if lacking:
        raise StateError(f"The state is not whole: {what} lacks {', '.join(sorted(lacking))}.")


def _damage(name: str, part: object) -> StateError:
    size = f" of {len(part)}" if isinstance(part, (list, np.ndarray)) else ""
    kind = f"{type(part).__name__}{size}"
    return StateError(f"The state is damaged: its {name} does not fit here, it is a {kind}. Use what get_state() gave.")


def _alike(mine: Any, theirs: Any) -> bool:
    """Is a part of a state of the same type and shape as the present one?"""
    if type(theirs) is not type(mine):
        return False
    if isinstance(mine, Arrays):
        return all(_alike(getattr(mine, f.name), getattr(theirs, f.name, None)) for f in fields(mine))  # type: ignore[arg-type]
    if isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(_alike, mine, theirs))
    return not isinstance(mine, np.ndarray) or mine.shape == theirs.shape


def _stacks(simulation: Simulation) -> list[int]:
    return [end - start for start, end in simulation.population.bounds]
