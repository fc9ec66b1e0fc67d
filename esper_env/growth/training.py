"""One epoch of training for a whole stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper_env.arrays import Bools, Floats, Ints
from esper_env.growth.optimizer import BankUpdate, Rates, StackedSgd
from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.network.layers import class_losses
from esper_env.network.network import StackedNetwork
from esper_env.network.transfer import upload

VANISHING, EXPLODING = 1e-7, 10.0


@dataclass
class GradientStats:
    """Gradient statistics `[envs, slots]` of the seeds that trained, averaged over the batches of the epoch."""

    measured: Bools
    norm: Floats
    health: Floats
    vanishing: Bools
    exploding: Bools

    @classmethod
    def unmeasured(cls, shape: tuple[int, int]) -> GradientStats:
        """No seed trained."""
        flags = [np.zeros(shape, bool) for _ in range(3)]
        return cls(flags[0], np.zeros(shape), np.full(shape, np.nan), flags[1], flags[2])


@dataclass
class SlotState:
    """What training needs to know of the slots of a stack, `[envs, slots]`."""

    stage: Ints
    alpha: Floats
    algorithm: Ints
    updated: Bools
    """Seeds whose parameters move: running ones that are not on their way to be pruned."""
    fossil: Bools


def train_epoch(
    network: StackedNetwork,
    slots: SlotState,
    inputs: Tensor,
    targets: Tensor,
    order: Ints,
    batch_size: int,
    rates: Rates,
    proximal: float,
    views: Ints | None = None,
) -> tuple[Floats, GradientStats]:
    """Train every host of the stack on its own data order.

    Args:
        network: the stack.
        slots: stages and alphas in force.
        inputs: samples `[instances, n, ...]`, one instance shared by all hosts or one each.
        targets: labels `[instances, n]`, or `[instances, n, positions]` where a sample has several.
        order: sample indices `[envs, samples]`, each host's own.
        batch_size: samples per batch; the last batch may be smaller.
        rates: learning rates and the like.
        proximal: λ of the proximal term.
        views: how each sample of `order` is augmented; not at all when None.

    Returns:
        Mean training loss of each host, and the seeds' gradient statistics.
    """
    plans = network.plan(slots.stage, slots.alpha, slots.algorithm)
    sgd = StackedSgd(network, plans, slots.updated, slots.fossil, rates)
    batches = _batches(order, batch_size, inputs.device)
    looks = [None] * len(batches) if views is None else _batches(views, batch_size, inputs.device)
    instance = torch.arange(network.hosts, device=inputs.device) if len(inputs) > 1 else None
    loss_sum = torch.zeros(network.hosts, device=inputs.device)
    for batch, look in zip(batches, looks, strict=True):
        x, y = network.host.gather(inputs, batch, instance, look), gather_targets(targets, batch, instance)
        logits = network.train_logits(x, plans, proximal)
        mean = class_losses(logits, y).mean(1)
        sgd.step(mean.sum())
        loss_sum += mean.detach() * len(batch)
    loss = (loss_sum / order.shape[1]).double().cpu().numpy()
    running = (slots.stage == Stage.TRAINING) | BLENDED[slots.stage]
    return loss, gradient_stats(sgd.banks, running, -(-order.shape[1] // batch_size))


def _batches(order: Ints, size: int, device: torch.device) -> Sequence[Tensor]:
    """From `[envs, samples]` to batches `[size, envs]`, the last of which may be smaller."""
    return torch.split(upload(order.T, device), size)


def gather_targets(targets: Tensor, batch: Tensor, instance: Tensor | None) -> Tensor:
    """Labels `[envs, labels]` of sample indices `[batch, envs]`."""
    rows = targets[0][batch] if instance is None else targets[instance, batch]
    return rows.transpose(0, 1).flatten(1).long()


def gradient_stats(banks: list[BankUpdate], running: Bools, batches: int) -> GradientStats:
    """Turn the sums over an epoch into health and flags: per tensor, by the norm averaged over its batches.

    Only seeds that are `running [envs, slots]` are measured; others may share their bank.
    """
    stats = GradientStats.unmeasured((running.shape[0], running.shape[1]))
    for bank, all_norms, all_totals in zip(banks, *_fetched(banks, batches), strict=True):
        envs, slot = np.array(bank.bank.envs), bank.key[0]
        rows = np.flatnonzero(running[envs, slot])
        envs, norms, total = envs[rows], all_norms[rows], all_totals[rows]
        counted = np.ones(norms.shape, bool)
        if bank.gated is not None:
            gate_tensors = len(bank.stacks[1].shapes)
            counted[:, -gate_tensors:] = bank.gated[rows, None]
        tensors = counted.sum(1)
        vanishing = counted & (norms < VANISHING)
        exploding = counted & ~(norms <= EXPLODING)
        health = 1 - 0.5 * vanishing.sum(1) / tensors - 0.8 * exploding.sum(1) / tensors
        stats.measured[envs, slot] = True
        stats.norm[envs, slot] = np.where(np.isfinite(total), total, np.inf)
        stats.health[envs, slot] = health.clip(0, 1)
        stats.vanishing[envs, slot] = vanishing.any(1)
        stats.exploding[envs, slot] = exploding.any(1)
    return stats


def _fetched(banks: list[BankUpdate], batches: int) -> tuple[list[Floats], list[Floats]]:
    """Norms `[rows, tensors]` and totals `[rows]` of every bank, averaged: all of them in one transfer."""
    if not banks:
        return [], []
    parts = [bank.norm_sum for bank in banks] + [bank.total_sum for bank in banks]
    together = (torch.cat([part.flatten() for part in parts]) / batches).double().cpu().numpy()
    split = np.split(together, np.cumsum([part.numel() for part in parts])[:-1])
    arrays = [array.reshape(part.shape) for array, part in zip(split, parts, strict=True)]
    return arrays[: len(banks)], arrays[len(banks) :]
