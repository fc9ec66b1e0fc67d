"""All coalitions of seeds in one branching validation pass.

The host is walked once. At each slot every network in flight splits into as many copies as the wanted coalitions
need, with the seed off and on: what lies before a slot is shared, and what follows works on smaller maps. The
networks in flight are rows of a stack like any other, each naming the host whose parameters it uses, so that
environments with different seeds mix freely and none pays for its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper_env.actions import Algorithm
from esper_env.arrays import Bools, Floats, Ints
from esper_env.network.blending import add_rows, correct, select_rows
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.network.gates import GATES
from esper_env.network.layers import class_losses
from esper_env.network.network import BankKey, StackedNetwork
from esper_env.network.transfer import upload, upload_together


@dataclass
class _SeedRows:
    """One bank's part in a branching: which rows feed it, with which seed, and where its correction goes."""

    key: BankKey
    source: Tensor
    seeds: dict[str, Tensor]
    gates: dict[str, Tensor] | None
    multiply: Tensor | None
    gate: Tensor | None
    alpha: Tensor
    target: Tensor
    rows: Ints
    """The same as `target`, for the bookkeeping."""
    padded: bool


@dataclass
class _Level:
    """The branching at one slot."""

    parent: Tensor | None
    """Row of the level before that each row continues; None when nothing branches."""
    rows: int
    seeds: list[_SeedRows]


class CoalitionPass:
    """The plan of one evaluation: which (host, coalition) pairs are in flight at each slot.

    Args:
        network: the stack.
        envs: environments to evaluate `[m]`.
        masks: wanted coalitions `[m, k]` as bitmasks over slots.
        alpha: alpha `[envs, slots]` of every environment of the stack.
        algorithm: blend algorithm `[envs, slots]`.
    """

    def __init__(self, network: StackedNetwork, envs: Ints, masks: Ints, alpha: Floats, algorithm: Ints) -> None:
        self.network = network
        slots = len(network.host.slots)
        wanted = (envs[:, None].astype(np.int64) << slots) | masks
        flying = wanted.ravel()
        if len(envs) == 1 < network.hosts:
            # One host alone would run on other kernels, and with other bits, than when neighbours are evaluated too.
            companion = (envs + 1) % network.hosts
            flying = np.concatenate((flying, companion.astype(np.int64) << slots))
        self._final = np.unique(flying)
        self._inverse = np.searchsorted(self._final, wanted)
        self.levels: list[_Level] = []
        self.rows: list[int] = []
        self.trunks: list[dict[str, Tensor]] = []
        rows = np.unique(self._final >> slots) << slots
        self.first = self._hosts(rows, slots)
        self.trunks.append(network.trunk.select(self.first))
        block_macs = network.host.macs_by_level()
        self.macs = block_macs[0] * np.bincount(rows >> slots, minlength=network.hosts).astype(float)
        """Multiply-accumulates per sample that each environment of the stack costs."""
        for slot in range(slots):
            below = ~np.int64((1 << slots) - (1 << (slot + 1)))
            branched = np.unique(self._final & below)
            parent = np.searchsorted(rows, branched & ~np.int64(1 << slot))
            on = np.flatnonzero(branched >> slot & 1)
            moved = len(branched) != len(rows)
            seeds = self._seed_rows(slot, branched >> slots, parent, on, alpha[:, slot], algorithm[:, slot])
            self.levels.append(_Level(self._tensor(parent) if moved else None, len(branched), seeds))
            hosts = self._hosts(branched, slots)
            self.trunks.append(self.trunks[-1] if not moved else network.trunk.select(hosts))
            self.macs += block_macs[slot + 1] * np.bincount(branched >> slots, minlength=network.hosts)
            for seed in seeds:
                fed = np.bincount(branched[seed.rows] >> slots, minlength=network.hosts)
                self.macs += fed * network.seed_macs(seed.key)
            self.rows.append(len(rows))
            rows = branched

    def _tensor(self, array: Ints | Bools | Floats) -> Tensor:
        return upload(array, self.network.device)

    def _hosts(self, rows: Ints, slots: int) -> Tensor | None:
        hosts = rows >> slots
        return None if np.array_equal(hosts, np.arange(self.network.hosts)) else self._tensor(hosts)

    def _seed_rows(
        self, slot: int, env_of_row: Ints, parent: Ints, on: Ints, alpha: Floats, algorithm: Ints
    ) -> list[_SeedRows]:
        network, found = self.network, []
        channels = network.host.slots[slot].channels
        position = np.zeros(network.hosts, np.int64)
        for key, bank in network.banks.items():
            if key[0] != slot:
                continue
            holds = np.zeros(network.hosts, bool)
            holds[bank.envs] = True
            position[bank.envs] = np.arange(len(bank.envs))
            target = on[holds[env_of_row[on]]]
            if not len(target):
                continue
            padded = len(target) == 1 and network.least_rows > 1
            fed = np.repeat(target, 2) if padded else target
            env = env_of_row[fed]
            seat = position[env]
            index = None if np.array_equal(seat, np.arange(bank.seeds.rows)) else self._tensor(seat)
            multiply, gate = algorithm[env] == Algorithm.MULTIPLY, algorithm[env] == Algorithm.GATE
            source, onto = upload_together((parent[fed], target), network.device)
            found.append(
                _SeedRows(
                    key=key,
                    source=source,
                    seeds=bank.seeds.select(index),
                    gates=bank.gates.select(index) if bank.gates is not None and gate.any() else None,
                    multiply=self._tensor(multiply.repeat(channels)) if multiply.any() else None,
                    gate=self._tensor(gate.repeat(channels)) if gate.any() else None,
                    alpha=self._tensor(alpha[env_of_row[target]].astype(np.float32).repeat(channels)),
                    target=onto,
                    rows=target,
                    padded=padded,
                )
            )
        return found

    @torch.no_grad()
    def run(self, inputs: Tensor, targets: Tensor, batch_size: int) -> tuple[Floats, Floats]:
        """Mean loss and accuracy in percent `[m, k]` of every wanted coalition over samples `[instances, n, ...]`."""
        device = inputs.device
        instances = len(inputs) > 1
        start_hosts = self.first if self.first is not None else torch.arange(self.network.hosts, device=device)
        final_hosts = self._tensor(self._final >> len(self.network.host.slots))
        samples, each = targets.shape[1], targets.shape[2:].numel()
        labels = targets.flatten(1)
        losses = torch.empty((len(self._final), samples * each), device=device)
        hits = torch.empty((len(self._final), samples * each), dtype=torch.bool, device=device)
        for begin in range(0, samples, batch_size):
            x = self.network.host.spread(inputs, slice(begin, begin + batch_size), start_hosts)
            part = slice(begin * each, (begin + batch_size) * each)
            y = labels[final_hosts, part] if instances else labels[:, part].expand(len(self._final), -1)
            logits = self._walk(x)
            losses[:, part] = class_losses(logits, y.long())
            hits[:, part] = logits.argmax(2) == y
        loss = losses.double().mean(1).cpu().numpy()
        accuracy = 100.0 * hits.sum(1).cpu().numpy() / hits.shape[1]
        return loss[self._inverse], accuracy[self._inverse]

    def _walk(self, x: Tensor) -> Tensor:
        host, level = self.network.host, 0
        x = host.embed(self.trunks[0], x)
        for block, slot in enumerate(host.slot_of_block):
            x = host.block(self.trunks[level], block, x)
            if slot is not None:
                x = self._branch(x, self.rows[level], self.levels[slot])
                level += 1
            x = host.leave(block, x)
        return host.classify(self.trunks[-1], x)

    def _branch(self, h: Tensor, rows: int, level: _Level) -> Tensor:
        if level.parent is None:
            if not level.seeds:
                return h
            out = h.clone(memory_format=torch.channels_last)
        else:
            out = select_rows(h, rows, level.parent)
        for seed in level.seeds:
            x = select_rows(h, rows, seed.source)
            delta = IMPLEMENTATIONS[seed.key[1], self.network.host.topology].delta(seed.seeds, x)
            openness = None if seed.gates is None else GATES[self.network.host.topology].openness(seed.gates, x)
            u = correct(delta, x, seed.multiply, seed.gate, openness)
            add_rows(out, level.rows, seed.target, seed.alpha, u[:, : u.shape[1] // 2] if seed.padded else u)
        return out
