"""Stacks of parameters: one row per network, with momentum and a snapshot beside every value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper_env.arrays import Ints
from esper_env.network.layers import Float32
from esper_env.network.transfer import upload


class Stack:
    """Equal modules side by side: their parameters as one matrix `[rows, size]`, one module a row.

    One matrix makes the optimizer, snapshots and freeing a handful of operations however many tensors a module
    has. `parameters` are leaf views of it, `[rows, ...]` each, for the forward pass.
    """

    def __init__(self, template: Mapping[str, Float32], rows: int, device: torch.device) -> None:
        self.shapes = {name: p.shape for name, p in template.items()}
        self.sizes = [p.size for p in template.values()]
        self.value = torch.zeros((rows, sum(self.sizes)), device=device)
        self.momentum = torch.zeros_like(self.value)
        self.snapshot = torch.zeros_like(self.value)
        self.parameters = self._views()

    def _views(self) -> dict[str, Tensor]:
        return {name: view.requires_grad_() for name, view in self.split(self.value.detach()).items()}

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a matrix `[rows, size]` by parameter."""
        parts = torch.split(flat, self.sizes, 1)
        return {
            name: part.view(part.shape[0], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "parameters"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.parameters = self._views()

    @property
    def rows(self) -> int:
        """Rows of storage, padding included."""
        return self.value.shape[0]

    def write(self, row: int, parameters: Mapping[str, Float32]) -> None:
        """Put one module into a row, without momentum."""
        flat = np.concatenate([parameters[name].ravel() for name in self.shapes])
        self.value[row] = upload(flat, self.value.device)
        self.momentum[row] = 0
        self.snapshot[row] = self.value[row]

    def rearrange(self, keep: list[int], rows: int) -> None:
        """Keep these rows, in this order, in storage for `rows`; what is not filled is zero."""
        kept = upload(np.array(keep, np.int64), self.value.device)

        def moved(old: Tensor) -> Tensor:
            fresh = old.new_zeros((rows, old.shape[1]))
            fresh[: len(keep)] = old[kept]
            return fresh

        self.value, self.momentum, self.snapshot = moved(self.value), moved(self.momentum), moved(self.snapshot)
        self.parameters = self._views()

    def select(self, index: Tensor | None) -> dict[str, Tensor]:
        """The parameters of these rows, without gradient; all of them for None."""
        return self.split(self.value if index is None else self.value.index_select(0, index))

    def take_snapshot(self, index: Tensor) -> None:
        """Remember the present parameters of these rows."""
        self.snapshot[index] = self.value[index]

    def restore(self, index: Tensor) -> None:
        """Return these rows to their snapshot and forget their momentum."""
        self.value[index] = self.snapshot[index]
        self.momentum.index_fill_(0, index, 0.0)


class Bank:
    """The seeds of one blueprint in one slot: a stack with one row per environment that holds one.

    A bank of a single row would run on other kernels than a larger one, so that its bits would depend on the
    neighbours: in a stack of several hosts a zero row keeps it company.
    """

    def __init__(self, template: Mapping[str, Float32], least_rows: int, device: torch.device) -> None:
        self.envs: list[int] = []
        self.seeds = Stack(template, least_rows, device)
        self.gates: Stack | None = None
        self.gated: set[int] = set()
        self._least_rows = least_rows
        self._device = device

    def plant(self, env: int, parameters: Mapping[str, Float32]) -> None:
        """Give an environment a seed."""
        self.envs.append(env)
        self._resize(list(range(len(self.envs) - 1)))
        self.seeds.write(len(self.envs) - 1, parameters)

    def remove(self, env: int) -> None:
        """Free an environment's seed with its gate and all their state."""
        row = self.envs.index(env)
        keep = [i for i in range(len(self.envs)) if i != row]
        del self.envs[row]
        self.gated.discard(env)
        self._resize(keep)

    def build_gate(self, env: int, parameters: Mapping[str, Float32]) -> None:
        """Give an environment's seed a gate; rows without one stay zero and unused."""
        self.gated.add(env)
        if self.gates is None:
            self.gates = Stack(parameters, self.seeds.rows, self._device)
        self.gates.write(self.envs.index(env), parameters)

    def _resize(self, keep: list[int]) -> None:
        rows = max(len(self.envs), self._least_rows)
        for stack in self.stacks():
            if rows != stack.rows or keep != list(range(len(self.envs))):
                stack.rearrange(keep, rows)

    def stacks(self) -> tuple[Stack, ...]:
        """The stack of seeds and, where there is one, that of gates."""
        return (self.seeds,) if self.gates is None else (self.seeds, self.gates)

    def index(self) -> Ints:
        """Environment of every row of storage; padding repeats the first."""
        padding = [self.envs[0]] * (self.seeds.rows - len(self.envs))
        return np.array(self.envs + padding, np.int64)
