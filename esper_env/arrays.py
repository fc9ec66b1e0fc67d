"""Struct-of-arrays: dataclasses whose fields are NumPy arrays with a leading environment axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]


def places(mask: Bools) -> Iterator[tuple[int, int]]:
    """The environment and the slot of everything under `mask [envs, slots]`."""
    envs, slots = mask.nonzero()
    return zip(envs.tolist(), slots.tolist(), strict=True)


class Arrays:
    """Mixin for a dataclass of arrays `[envs, ...]`: copying and moving whole environments."""

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(**{f.name: getattr(self, f.name).copy() for f in fields(self)})  # type: ignore[arg-type]

    def take(self, envs: Any) -> Self:
        """The environments selected by `envs` (an index array or mask), copied."""
        return type(self)(**{f.name: getattr(self, f.name)[envs].copy() for f in fields(self)})  # type: ignore[arg-type]

    def put(self, envs: Any, other: Self) -> None:
        """Overwrite the environments selected by `envs` with those of `other`."""
        for f in fields(self):  # type: ignore[arg-type]
            getattr(self, f.name)[envs] = getattr(other, f.name)

    def fill(self, mask: Bools, other: Self) -> None:
        """Overwrite the elements under `mask` (any leading shape) with those of a broadcastable `other`."""
        for f in fields(self):  # type: ignore[arg-type]
            array = getattr(self, f.name)
            array[mask] = np.broadcast_to(getattr(other, f.name), array.shape)[mask]
