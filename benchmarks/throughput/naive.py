"""The environment as everybody writes it: the reference that the stacked simulation is measured against.

One `nn.Module` per environment, seeds as modules in its slots, a DataLoader, stock optimizers, one validation pass
per coalition. It follows the same formulas on the same data and shares no code with `esper_env`, so it checks the
simulation as well. It is meant to be good code of its kind: nothing in it is slower than it naturally is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Sampler, TensorDataset

from benchmarks.throughput.naive_observation import HostRecord, SlotRecord, observe


def norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels, affine=affine)


def convolution(into: int, out: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, groups=groups, bias=False)


# Seeds: modules that map features to a correction.


class Scaled(nn.Module):
    """A body, scaled per channel."""

    def __init__(self, channels: int, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.gamma * self.body(x)
        return scaled


def conv_seed(*kernels: int) -> type[Scaled]:
    class ConvSeed(Scaled):
        def __init__(self, c: int) -> None:
            layers = ((convolution(c, c, kernel), norm(c), nn.ReLU()) for kernel in kernels)
            super().__init__(c, *(layer for block in layers for layer in block))

    return ConvSeed


class DepthwiseSeed(Scaled):
    def __init__(self, c: int) -> None:
        super().__init__(c, convolution(c, c, 3, groups=c), convolution(c, c, 1), norm(c), nn.ReLU())


class BottleneckSeed(Scaled):
    def __init__(self, c: int) -> None:
        w = max(8, c // 4)
        super().__init__(
            c, convolution(c, w, 1), nn.ReLU(), convolution(w, w, 3), nn.ReLU(), convolution(w, c, 1), norm(c)
        )


class AttentionSeed(nn.Module):
    """Squeeze and excite."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(c, max(4, c // 4), bias=False)
        self.excite = nn.Linear(max(4, c // 4), c, bias=False)
        self.excite.weight.data *= 0.1

    def forward(self, x: Tensor) -> Tensor:
        excitation = self.excite(F.silu(self.squeeze(x.mean((2, 3)))))
        return x * torch.tanh(excitation)[:, :, None, None]


class NormSeed(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = norm(c, affine=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = torch.tanh(self.gamma) * (self.norm(x) - x)
        return moved


SEEDS: dict[str, type[nn.Module]] = {
    "conv_light": conv_seed(3),
    "conv_small": conv_seed(1),
    "conv_heavy": conv_seed(3, 3),
    "depthwise": DepthwiseSeed,
    "bottleneck": BottleneckSeed,
    "attention": AttentionSeed,
    "norm": NormSeed,
}


class Gate(nn.Module):
    """How far a seed is let through, per sample; one half at first."""

    def __init__(self, c: int) -> None:
        super().__init__()
        hidden = max(8, c // 4)
        self.hidden, self.out = nn.Linear(c, hidden), nn.Linear(hidden, 1)
        for parameter in (self.hidden.bias, self.out.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        openness = torch.sigmoid(self.out(F.silu(self.hidden(x.mean((2, 3))))))
        return openness[:, :, None, None]


class Slot(nn.Module):
    """A place in the host where a seed may grow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.seed: nn.Module | None = None
        self.gate: nn.Module | None = None
        self.record = SlotRecord()
        self.enabled = True
        self.proximal = 0.0
        self.penalty: Tensor | float = 0.0

    def plant(self, blueprint: str, algorithm: str) -> None:
        self.seed = SEEDS[blueprint](self.channels)
        self.gate = Gate(self.channels) if algorithm == "GATE" else None
        self.record = SlotRecord(stage="GERMINATED", algorithm=algorithm)
        self.record.params = sum(p.numel() for p in self.seed_parameters())

    def seed_parameters(self) -> list[nn.Parameter]:
        return [p for module in (self.seed, self.gate) if module is not None for p in module.parameters()]

    @property
    def active(self) -> bool:
        return self.record.stage in ("BLENDING", "HOLDING", "FOSSILIZED")

    def correction(self, x: Tensor) -> Tensor:
        assert self.seed is not None
        delta: Tensor = self.seed(x)
        if self.record.algorithm == "MULTIPLY":
            return x * torch.tanh(delta)
        return delta if self.gate is None else self.gate(x) * delta

    def forward(self, h: Tensor) -> Tensor:
        self.penalty = 0.0
        if self.active and self.enabled:
            x = h if self.record.stage == "FOSSILIZED" else h.detach()
            return h + self.record.alpha * self.correction(x)
        if self.record.stage == "TRAINING" and self.training:
            u = self.correction(h.detach())
            self.penalty = self.proximal / 2 * u.square().sum() / (u.shape[0] * u.shape[2] * u.shape[3])
            return h + (u - u.detach())
        return h


class Host(nn.Module):
    """Blocks of convolution, GroupNorm, ReLU, slot and maybe average pooling, then a linear classifier."""

    def __init__(self, channels: Sequence[int], kernel: int, pools: int, classes: int, image_channels: int) -> None:
        super().__init__()
        inputs = [image_channels, *channels[:-1]]
        self.blocks = nn.ModuleList(
            nn.Sequential(convolution(i, c, kernel), norm(c), nn.ReLU()) for i, c in zip(inputs, channels, strict=True)
        )
        self.slots = nn.ModuleList(Slot(c) for c in channels)
        self.pool = nn.AvgPool2d(2)
        self.pools = pools
        self.classifier = nn.Linear(channels[-1], classes)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        for i, (block, slot) in enumerate(zip(self.blocks, self.slots, strict=True)):
            x = slot(block(x))
            if i < self.pools:
                x = self.pool(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def own_parameters(self) -> list[nn.Parameter]:
        return [*self.blocks.parameters(), *self.classifier.parameters()]


@dataclass(frozen=True)
class Settings:
    """What the environment is trained with."""

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 1.0
    proximal: float = 1.0
    batch_size: int = 64
    validation_batch: int = 128
    max_epochs: int = 50
    budget: float = 1.0


class NaiveEnv:
    """One environment: train an epoch, validate every coalition, observe."""

    def __init__(
        self,
        host: Host,
        train: TensorDataset,
        val: TensorDataset,
        settings: Settings,
        *,
        seed: int = 0,
        sampler: Sampler[int] | None = None,
    ) -> None:
        self.host, self.settings = host, settings
        self.slots: list[Slot] = [slot for slot in host.slots if isinstance(slot, Slot)]
        self.loader = DataLoader(
            train,
            batch_size=settings.batch_size,
            shuffle=sampler is None,
            sampler=sampler,
            generator=torch.Generator().manual_seed(seed),
        )
        self.val_loader = DataLoader(val, batch_size=settings.validation_batch)
        self.optimizer = torch.optim.SGD(
            host.own_parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.seed_optimizers: dict[int, torch.optim.SGD] = {}
        self.record = HostRecord(slots=[slot.record for slot in self.slots])

    def germinate(self, index: int, blueprint: str, algorithm: str = "ADD") -> None:
        slot = self.slots[index]
        slot.plant(blueprint, algorithm)
        slot.proximal = self.settings.proximal
        self.record.slots[index] = slot.record
        self.seed_optimizers[index] = torch.optim.SGD(
            slot.seed_parameters(), lr=self.settings.lr, momentum=self.settings.momentum
        )

    def advance(self, index: int, stage: str, alpha: float = 0.0) -> None:
        """Put a seed into a stage and at an alpha; a fossil moves to the host's optimizer with its momentum."""
        record = self.slots[index].record
        record.stage, record.epochs_in_stage, record.alpha = stage, 0, alpha
        if stage == "FOSSILIZED":
            own = self.seed_optimizers.pop(index)
            self.optimizer.add_param_group({"params": self.slots[index].seed_parameters()})
            self.optimizer.state.update(own.state)

    def step(self) -> list[float]:
        """One epoch, and the observation that follows."""
        self.record.epoch += 1
        for slot in self.slots:
            if slot.record.stage != "DORMANT":
                slot.record.age += 1
                slot.record.epochs_in_stage += 1
        self.train()
        self.validate()
        return observe(self.record, self.settings.max_epochs, self.settings.budget)

    # Training

    def train(self) -> float:
        """Train one epoch and record the statistics of every seed's gradients."""
        self.host.train()
        total_loss, samples = 0.0, 0
        norms: dict[int, list[float]] = {}
        totals: dict[int, float] = {}
        for x, y in self.loader:
            self.optimizer.zero_grad()
            for optimizer in self.seed_optimizers.values():
                optimizer.zero_grad()
            loss = F.cross_entropy(self.host(x), y)
            (loss + sum(slot.penalty for slot in self.slots)).backward()  # type: ignore[no-untyped-call]
            for index, slot in enumerate(self.slots):
                if slot.record.stage in ("DORMANT", "GERMINATED"):
                    continue
                found = [p.grad.norm().item() if p.grad is not None else 0.0 for p in slot.seed_parameters()]
                norms[index] = [a + b for a, b in zip(norms.get(index, [0.0] * len(found)), found, strict=True)]
                totals[index] = totals.get(index, 0.0) + math.sqrt(sum(n * n for n in found))
            self.clip_and_step()
            total_loss += loss.item() * len(y)
            samples += len(y)
        for index in norms:
            self.slots[index].record.measure_gradients(
                [n / len(self.loader) for n in norms[index]], totals[index] / len(self.loader)
            )
        self.record.train_loss = total_loss / samples
        return self.record.train_loss

    def clip_and_step(self) -> None:
        clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.settings.clip_norm)
        self.optimizer.step()
        for index, optimizer in self.seed_optimizers.items():
            clip_grad_norm_(self.slots[index].seed_parameters(), self.settings.clip_norm)
            optimizer.step()

    # Validation

    def validate(self) -> None:
        """The main network, then every other coalition in a pass of its own."""
        active = [i for i, slot in enumerate(self.slots) if slot.active]
        loss, accuracy = self.evaluate(active)
        values = {tuple(active): accuracy}
        for switches in product((False, True), repeat=len(active)):
            coalition = tuple(slot for slot, on in zip(active, switches, strict=True) if on)
            if coalition not in values:
                values[coalition] = self.evaluate(coalition)[1]
        self.record.validated(loss, accuracy)
        self.record.credit(active, values)

    @torch.no_grad()
    def evaluate(self, coalition: Iterable[int]) -> tuple[float, float]:
        """Loss and accuracy in percent with only these slots on."""
        self.host.eval()
        on = set(coalition)
        for index, slot in enumerate(self.slots):
            slot.enabled = index in on
        loss, correct, samples = 0.0, 0, 0
        for x, y in self.val_loader:
            logits = self.host(x)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            correct += int((logits.argmax(1) == y).sum().item())
            samples += len(y)
        for slot in self.slots:
            slot.enabled = True
        return loss / samples, 100.0 * correct / samples
