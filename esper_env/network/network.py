"""A stack of hosts with their banks of seeds, and its two ways of running: training and coalitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper_env.arrays import Bools, Floats, Ints
from esper_env.config import ConfigError
from esper_env.lifecycle.stages import BLENDED, FOSSIL
from esper_env.network.blending import BankPlan, Blend, Tap, correct, plan_bank
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.network.gates import GATES
from esper_env.network.host import Host
from esper_env.network.stacks import Bank, Stack
from esper_env.network.transfer import upload, upload_together

BankKey = tuple[int, str]


@dataclass
class SlotPlan:
    """The banks of one slot that have work in this epoch."""

    keys: list[BankKey]
    banks: list[BankPlan]

    @property
    def opened(self) -> bool:
        """Does any seed here send gradient to the host through its input?"""
        return any(bank.opened is not None for bank in self.banks)


class StackedNetwork:
    """n hosts of one shape as a single network.

    Environments are numbered within the stack. Banks are visited in the order of slot and name, so that what
    an environment computes never depends on when its neighbours planted.
    """

    def __init__(self, host: Host, hosts: int, device: torch.device) -> None:
        self.host = host
        self.hosts = hosts
        self.device = device
        self.least_rows = min(hosts, 2)
        self.trunk = Stack(host.init(np.random.default_rng(0)), hosts, device)
        self.banks: dict[BankKey, Bank] = {}
        self._macs: dict[BankKey, int] = {}

    # Building and freeing modules

    def build_host(self, env: int, rng: np.random.Generator) -> None:
        """Start an environment afresh: a new host, no seeds."""
        for key in [key for key, bank in self.banks.items() if env in bank.envs]:
            self.free(env, key[0])
        self.trunk.write(env, self.host.init(rng))

    def plant(self, env: int, slot: int, blueprint: str, rng: np.random.Generator) -> None:
        """Build a seed for an environment's slot, initialised from `rng`."""
        implementation = IMPLEMENTATIONS.get((blueprint, self.host.topology))
        if implementation is None:
            raise ConfigError(f"Blueprint {blueprint!r} does not suit a {self.host.topology} host.")
        parameters = implementation.init(self.host.slots[slot].channels, rng)
        key = (slot, blueprint)
        if key not in self.banks:
            self.banks[key] = Bank(parameters, self.least_rows, self.device)
            self.banks = dict(sorted(self.banks.items()))
        self.banks[key].plant(env, parameters)

    def build_gate(self, env: int, slot: int, rng: np.random.Generator) -> None:
        """Build the gate of an environment's seed, unless it has one from an earlier switch."""
        bank = self.banks[self._key(env, slot)]
        if env not in bank.gated:
            bank.build_gate(env, GATES[self.host.topology].init(self.host.slots[slot].channels, rng))

    def free(self, env: int, slot: int) -> None:
        """Free the seed in an environment's slot."""
        key = self._key(env, slot)
        self.banks[key].remove(env)
        if not self.banks[key].envs:
            del self.banks[key]

    def _key(self, env: int, slot: int) -> BankKey:
        return next(key for key, bank in self.banks.items() if key[0] == slot and env in bank.envs)

    # Training

    def plan(self, stage: Ints, alpha: Floats, algorithm: Ints) -> list[SlotPlan]:
        """What every bank does in an epoch, from arrays `[envs, slots]` of this stack."""
        plans: list[SlotPlan] = [SlotPlan([], []) for _ in self.host.slots]
        for key, bank in self.banks.items():
            slot, channels = key[0], self.host.slots[key[0]].channels
            index, open_stages = bank.index(), FOSSIL if self.host.isolated else BLENDED
            now = stage[:, slot], alpha[:, slot], algorithm[:, slot]
            plan = plan_bank(index, len(bank.envs), channels, *now, self.device, open_stages)
            if plan.running:
                plans[slot].keys.append(key)
                plans[slot].banks.append(plan)
        return plans

    def train_logits(self, x: Tensor, plans: list[SlotPlan], proximal: float) -> Tensor:
        """Logits `[n, labels, classes]` with the gradient rules of every stage."""
        x = self.host.embed(self.trunk.parameters, x)
        for block, slot in enumerate(self.host.slot_of_block):
            x = self.host.block(self.trunk.parameters, block, x)
            if slot is not None and plans[slot].banks:
                x = self._grow(x, plans[slot], proximal)
            x = self.host.leave(block, x)
        return self.host.classify(self.trunk.parameters, x)

    def _grow(self, h: Tensor, plan: SlotPlan, proximal: float) -> Tensor:
        inputs = self._inputs(h, plan)
        corrections = []
        for key, bank_plan, x in zip(plan.keys, plan.banks, inputs, strict=True):
            bank = self.banks[key]
            delta = IMPLEMENTATIONS[key[1], self.host.topology].delta(bank.seeds.parameters, x)
            openness = None
            if bank_plan.gate is not None and bank.gates is not None:
                openness = GATES[self.host.topology].openness(bank.gates.parameters, x)
            corrections.append(correct(delta, x, bank_plan.multiply, bank_plan.gate, openness))
        if self.hosts == 1 and plan.banks[0].proximal is None:
            return h + corrections[0] * plan.banks[0].alpha  # one blended seed: what Blend does, without its cost
        blended: Tensor = Blend.apply(h, self.hosts, plan.banks, proximal, *corrections)  # type: ignore[no-untyped-call]
        return blended

    def _inputs(self, h: Tensor, plan: SlotPlan) -> tuple[Tensor, ...]:
        if plan.opened:
            taps: tuple[Tensor, ...] = Tap.apply(h, self.hosts, plan.banks)  # type: ignore[no-untyped-call]
            return tuple(
                tap if bank.opened is not None else tap.detach() for tap, bank in zip(taps, plan.banks, strict=True)
            )
        detached = h.detach()
        return tuple(bank.pick(detached, self.hosts) for bank in plan.banks)

    def seed_macs(self, key: BankKey) -> int:
        """Multiply-accumulates per sample of a seed."""
        if key not in self._macs:
            shape = self.host.slots[key[0]]
            blueprint = IMPLEMENTATIONS[key[1], self.host.topology]
            self._macs[key] = blueprint.macs(shape.channels, shape.positions)
        return self._macs[key]

    # What belongs to a host

    def committed_rows(self, envs: Iterable[int], fossilized: Bools) -> Iterator[tuple[Stack, Tensor]]:
        """Stacks and rows of the committed networks of `envs`: their hosts and fossils."""
        for stacks, rows, _ in self._committed(envs, fossilized):
            index = upload(rows, self.device)
            for stack in stacks:
                yield stack, index

    def _committed(self, envs: Iterable[int], fossilized: Bools) -> Iterator[tuple[Sequence[Stack], Ints, Ints]]:
        """Stacks that share their rows, those of the committed networks of `envs`, and whose they are."""
        chosen = np.array(list(envs), np.int64)
        yield (self.trunk,), chosen, chosen
        wanted = set(chosen.tolist())
        for (slot, _), bank in self.banks.items():
            rows = [i for i, env in enumerate(bank.envs) if env in wanted and fossilized[env, slot]]
            if rows:
                yield bank.stacks(), np.array(rows), np.array(bank.envs)[rows]

    def finite(self, included: Bools) -> Bools:
        """Which hosts, the seeds under `included [envs, slots]` with them, hold only finite parameters."""
        sound = torch.ones(self.hosts, dtype=torch.bool, device=self.device)
        for stacks, rows, envs in self._committed(range(self.hosts), included):
            index, hosts = upload_together((rows, envs), self.device)
            for stack in stacks:
                sound[hosts] &= stack.value[index].isfinite().all(1)
        return np.asarray(sound.cpu().numpy())
