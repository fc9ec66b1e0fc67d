"""Every number that a simulation holds, by name, to compare two of them bit for bit."""

import hashlib
from dataclasses import fields, is_dataclass

import numpy as np
import torch

from esper_env.network.stacks import Stack


def numbers(thing, name=""):
    """Yield `(name, array)` for all numbers in nested containers, dataclasses, stacks and generators."""
    if isinstance(thing, np.random.Generator):
        thing = thing.bit_generator.state
    if isinstance(thing, torch.Tensor):
        yield name, thing.detach().cpu().numpy()
    elif isinstance(thing, Stack):
        for part in ("value", "momentum", "snapshot"):
            yield from numbers(getattr(thing, part), f"{name}.{part}")
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from numbers(value, f"{name}.{key}")
    elif isinstance(thing, list | tuple):
        for i, value in enumerate(thing):
            yield from numbers(value, f"{name}.{i}")
    elif is_dataclass(thing):
        for f in fields(thing):
            yield from numbers(getattr(thing, f.name), f"{name}.{f.name}")
    elif isinstance(thing, str | int | float | np.ndarray | np.generic | None):
        yield name, np.asarray(str(thing) if isinstance(thing, str | int | None) else thing)
    elif hasattr(thing, "__dict__"):
        members = {key: value for key, value in vars(thing).items() if not key.startswith("_") and key != "host"}
        yield from numbers({key: sorted(v) if isinstance(v, set) else v for key, v in members.items()}, name)


def digest(*things):
    """A hash of every bit of all numbers in `things`."""
    found = hashlib.sha256()
    for name, array in numbers(things):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def differences(one, other, ignore=()):
    """Names of the numbers that differ between two things; empty when they agree bit for bit."""
    left, right = dict(numbers(one)), dict(numbers(other))
    names = (left.keys() | right.keys()) - set(ignore)
    return sorted(n for n in names if n not in left or n not in right or not _same(left[n], right[n]))


def _same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
