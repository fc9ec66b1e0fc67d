"""The table of blueprints, and what each of them measures on a host."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from esper_env.actions import BLUEPRINTS, TOPOLOGIES, BlueprintRow, blueprint_names
from esper_env.arrays import Ints
from esper_env.config import ConfigError, unknown_name
from esper_env.network.blueprint import Blueprint
from esper_env.network.cnn_blueprints import CNN_BLUEPRINTS
from esper_env.network.gates import GATES
from esper_env.network.host import Host
from esper_env.network.transformer_blueprints import TRANSFORMER_BLUEPRINTS

__all__ = ["IMPLEMENTATIONS", "Blueprint", "module_tables", "register_blueprint"]

IMPLEMENTATIONS: dict[tuple[str, str], Blueprint] = {
    (blueprint.name, topology): blueprint
    for blueprint in (*CNN_BLUEPRINTS, *TRANSFORMER_BLUEPRINTS)
    for topology in blueprint.topologies
}
"""The blueprint that a name stands for on a host topology."""


def register_blueprint(blueprint: type[Blueprint]) -> type[Blueprint]:
    """Add a blueprint to the table; environments made afterwards offer it as the last choice of the head.

    Usable as a class decorator. Registering the same class again changes nothing.
    """
    name = getattr(blueprint, "name", None)
    if not (isinstance(blueprint, type) and issubclass(blueprint, Blueprint) and isinstance(name, str)):
        raise ConfigError(f"register_blueprint takes a subclass of Blueprint with a name, got {blueprint!r}.")
    if not isinstance(blueprint.topologies, (tuple, list)) or not blueprint.topologies:
        allowed = " and ".join(map(repr, TOPOLOGIES))
        raise ConfigError(f"{name}: topologies must be a tuple of {allowed}, got {blueprint.topologies!r}.")
    for topology in blueprint.topologies:
        if topology not in TOPOLOGIES:
            raise ConfigError(unknown_name(f"topology of {name}", topology, TOPOLOGIES))
    if name in blueprint_names():
        known = [IMPLEMENTATIONS.get((name, topology)) for topology in blueprint.topologies]
        if any(type(k) is blueprint for k in known):
            return blueprint
        raise ConfigError(f"A blueprint named {name!r} exists already; choose another name.")
    made = {(name, topology): blueprint() for topology in blueprint.topologies}  # may raise: nothing is changed then
    IMPLEMENTATIONS.update(made)
    BLUEPRINTS.append(BlueprintRow(name, tuple(blueprint.topologies)))
    return blueprint


def module_tables(host: Host, names: Sequence[str], measured: Collection[str]) -> tuple[Ints, Ints, Ints]:
    """Parameters and MACs of blueprints, `[slots, blueprints]`, and parameters of gates, `[slots]`.

    Blueprints that are not `measured` have 0 of both: a faulty one disturbs only those who plant it.
    """
    shapes = host.slots
    sizes = np.zeros((len(shapes), len(names)), np.int64)
    macs = np.zeros_like(sizes)
    for column, name in enumerate(names):
        implementation = IMPLEMENTATIONS.get((name, host.topology))
        if implementation is not None and name in measured:
            sizes[:, column] = [implementation.size(shape.channels) for shape in shapes]
            macs[:, column] = [implementation.macs(shape.channels, shape.positions) for shape in shapes]
    return sizes, macs, np.array([GATES[host.topology].size(shape.channels) for shape in shapes])
