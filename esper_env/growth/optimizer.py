"""Stacked SGD: every host and every live seed is clipped and updated on its own, in a few operations for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper_env.arrays import Bools, Floats
from esper_env.config import TrainingConfig
from esper_env.network.blending import BankPlan
from esper_env.network.network import BankKey, SlotPlan, StackedNetwork
from esper_env.network.stacks import Bank, Stack
from esper_env.network.transfer import upload


@dataclass(frozen=True)
class Rates:
    """Hyperparameters of the optimizer."""

    host_lr: float
    seed_lr: float
    momentum: float
    weight_decay: float
    clip_norm: float

    @classmethod
    def of(cls, training: TrainingConfig) -> Rates:
        """The rates of a resolved training configuration."""
        host_lr = training.host_lr or 0.0
        seed_lr = host_lr if training.seed_lr is None else training.seed_lr
        return cls(host_lr, seed_lr, training.momentum, training.weight_decay, training.clip_norm)


class BankUpdate:
    """One bank in one epoch: the rates of its rows, and their gradient statistics as they build up."""

    def __init__(
        self,
        key: BankKey,
        bank: Bank,
        plan: BankPlan,
        updated: Bools,
        fossil: Bools,
        rates: Rates,
        total_sum: Tensor,
    ) -> None:
        self.key, self.bank = key, bank
        device = bank.seeds.value.device
        held = len(bank.envs)
        rows = bank.seeds.rows
        index = bank.index()
        real = np.arange(rows) < held
        learning_rate = np.where(fossil[index], rates.host_lr, rates.seed_lr) * (real & updated[index])

        def column(values: Floats) -> Tensor:
            return upload(values.astype(np.float32), device).unsqueeze(1)

        self.step_size = column(-learning_rate)
        is_fossil = real & fossil[index]
        self.fossil = upload(is_fossil, device) if is_fossil.any() else None
        self.decay = column(is_fossil * rates.weight_decay) if is_fossil.any() and rates.weight_decay else None
        self.index = plan.index
        self.stacks: list[Stack] = [bank.seeds]
        self.step_sizes = [self.step_size]
        self.retained = [torch.full((1, 1), rates.momentum, device=device)]
        """Share of its momentum that each stack keeps per batch; a gate that is not used keeps all of it."""
        self.gated: Bools | None = None
        if plan.gated is not None and bank.gates is not None:
            self.gated = plan.gated
            used = upload(plan.gated, device).unsqueeze(1)
            self.stacks.append(bank.gates)
            self.step_sizes.append(self.step_size * used)
            self.retained.append(torch.where(used, rates.momentum, 1.0))
        self.tensors = sum(len(stack.shapes) for stack in self.stacks)
        self.norm_sum = torch.zeros((rows, self.tensors), device=device)
        self.total_sum = total_sum

    def measure(self, grads: Sequence[Tensor]) -> Tensor:
        """Add this batch's gradient norms to the statistics; returns squared norms of the rows."""
        if len(self.norm_sum) == 1:
            tensors = zip(self.stacks, grads, strict=True)
            parts = [part for stack, grad in tensors for part in torch.split(grad, stack.sizes, 1)]
            norms = torch.stack(torch._foreach_norm(parts))
            self.norm_sum += norms
            return norms.square().sum().view(1)
        squares = [
            part.sum(1)
            for stack, grad in zip(self.stacks, grads, strict=True)
            for part in torch.split(grad.square(), stack.sizes, 1)
        ]
        self.norm_sum += torch.stack(squares, 1).sqrt_()
        # One after the other: a gate that only neighbours have adds zeros, but would change the order of a sum.
        return sum(squares[1:], squares[0])


class StackedSgd:
    """SGD with momentum for one epoch of a stack.

    Fossils follow the host's rules and are clipped together with it; live seeds are clipped each on its own and
    have no decay; a seed that is ramping down to be pruned is frozen.
    """

    def __init__(
        self, network: StackedNetwork, plans: list[SlotPlan], updated: Bools, fossil: Bools, rates: Rates
    ) -> None:
        self.network, self.rates = network, rates
        running = [(key, slot, plan) for slot, s in enumerate(plans) for key, plan in zip(s.keys, s.banks, strict=True)]
        self.rows = [network.banks[key].seeds.rows for key, _, _ in running]
        # Of all banks together, so that a batch adds to it once.
        self.total_sum = torch.zeros(sum(self.rows), device=network.device)
        self.banks = [
            BankUpdate(key, network.banks[key], plan, updated[:, slot], fossil[:, slot], rates, total)
            for (key, slot, plan), total in zip(running, torch.split(self.total_sum, self.rows), strict=True)
        ]
        self.seeds: list[Stack] = [stack for bank in self.banks for stack in bank.stacks]
        self.stacks: list[Stack] = [network.trunk, *self.seeds]
        self.leaves = [leaf for stack in self.stacks for leaf in stack.parameters.values()]
        self.values = [stack.value for stack in self.seeds]
        self.momenta = [stack.momentum for stack in self.seeds]
        self.step_sizes = [size for bank in self.banks for size in bank.step_sizes]
        self.retained = [share for bank in self.banks for share in bank.retained]
        self.decays = [bank.decay for bank in self.banks for _ in bank.stacks]

    def step(self, loss: Tensor) -> None:
        """Differentiate the summed loss, measure, clip and update."""
        flat = iter(torch.autograd.grad(loss, self.leaves, materialize_grads=True))
        grads = [torch.cat([next(flat).flatten(1) for _ in stack.shapes], 1) for stack in self.stacks]
        with torch.no_grad():
            self._update(grads)

    def _update(self, grads: list[Tensor]) -> None:
        trunk, seeds = grads[0], grads[1:]
        host_square = trunk.square().sum(1)
        if not seeds:
            self._update_trunk(trunk, self._clip(host_square))
            return
        rest = iter(seeds)
        squares = [bank.measure([next(rest) for _ in bank.stacks]) for bank in self.banks]
        for bank, square in zip(self.banks, squares, strict=True):
            if bank.fossil is not None:
                host_square = host_square.index_add(0, bank.index, torch.where(bank.fossil, square, 0.0))
        joined = torch.cat(squares)
        self.total_sum += joined.sqrt()
        host_scale = self._clip(host_square)
        scales: list[Tensor] = []
        for bank, scale in zip(self.banks, torch.split(self._clip(joined), self.rows), strict=True):
            if bank.fossil is not None:
                scale = torch.where(bank.fossil, host_scale[bank.index], scale)
            scales += [scale.unsqueeze(1)] * len(bank.stacks)
        torch._foreach_mul_(seeds, scales)
        for stack, grad, decay in zip(self.seeds, seeds, self.decays, strict=True):
            if decay is not None:
                grad += stack.value * decay
        torch._foreach_mul_(self.momenta, self.retained)
        torch._foreach_add_(self.momenta, seeds)
        torch._foreach_addcmul_(self.values, self.momenta, self.step_sizes)
        self._update_trunk(trunk, host_scale)

    def _update_trunk(self, grad: Tensor, scale: Tensor) -> None:
        trunk, rates = self.network.trunk, self.rates
        grad = (grad * scale.unsqueeze(1)).add_(trunk.value, alpha=rates.weight_decay)
        trunk.momentum.mul_(rates.momentum).add_(grad)
        trunk.value.add_(trunk.momentum, alpha=-rates.host_lr)

    def _clip(self, square: Tensor) -> Tensor:
        return (self.rates.clip_norm / (square.sqrt() + 1e-6)).clamp_(max=1.0)
