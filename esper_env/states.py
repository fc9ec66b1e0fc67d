"""Saved states: a versioned envelope around everything that evolves, refused with a reason where it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from esper_env.simulation import Simulation

FORMAT = "esper-seed-state"
VERSION = 3
ENVELOPE = frozenset(("envs", "stacks", "config", "blueprints", "simulation", "shell"))
"""What a state holds beside its format and version."""


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


def unpack(simulation: Simulation, shell: Iterable[str], state: Any) -> dict[str, Any]:
    """Continue `simulation` from a packed state; returns the shell's part, which must hold the names in `shell`.

    Raises:
        StateError: naming what does not fit. Nothing has been changed then.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StateError(f"This is no state of an Esper environment but a {type(state).__name__}: use get_state().")
    if state.get("version") != VERSION:
        raise StateError(f"The state has version {state.get('version')}, this package reads version {VERSION} only.")
    missing = ENVELOPE - set(state)
    if missing:
        raise StateError(f"The state is not whole: it lacks {', '.join(sorted(missing))}.")
    if state["envs"] != simulation.envs:
        raise StateError(f"The state is of {state['envs']} environment(s), this one has {simulation.envs}.")
    if set(state["shell"]) != set(shell):
        raise StateError("The state is of a vector environment and this is a single one, or the other way round.")
    if state["blueprints"] != list(simulation.blueprints):
        raise StateError(
            f"The state was taken with the blueprints {state['blueprints']}, here they are "
            f"{list(simulation.blueprints)}: register the same ones in the same order."
        )
    mine, theirs = simulation.config.to_dict(), state["config"]
    different = [name for name in mine if mine[name] != theirs.get(name)]
    if different:
        detail = "; ".join(f"{name}: {theirs.get(name)!r} there, {mine[name]!r} here" for name in different)
        raise StateError(f"The state belongs to another configuration ({detail}). Make the environment with the same.")
    if state["stacks"] != _stacks(simulation):
        raise StateError(
            f"The state has its hosts in stacks of {state['stacks']}, here they are {_stacks(simulation)}: make the "
            "environment with the same chunk and threads."
        )
    lacking = set(simulation.get_state()) - set(state["simulation"])
    if lacking:
        raise StateError(f"The state is not whole: its simulation lacks {', '.join(sorted(lacking))}.")
    simulation.set_state(state["simulation"])
    return dict(copy.deepcopy(state["shell"]))


def _stacks(simulation: Simulation) -> list[int]:
    return [end - start for start, end in simulation.population.bounds]
