"""All hosts of a simulation, run as stacks of a size that suits the cache, one thread per stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from esper_env.arrays import Bools, Floats, Ints
from esper_env.growth.coalitions import CoalitionPass
from esper_env.growth.optimizer import Rates
from esper_env.growth.training import GradientStats, SlotState, train_epoch
from esper_env.lifecycle.stages import BLENDED
from esper_env.network.host import Host
from esper_env.network.network import StackedNetwork
from esper_env.network.transfer import upload
from esper_env.tasks.data import Dataset, Split
from esper_env.threads import one_thread

CHUNK_BYTES, CHUNK_CHANNELS = 2 * 1024 * 1024, 16
"""A stack has as many hosts as keep the first activation of a batch within so many bytes, for the cache's sake, but as
many as give the first maps so many channels: with fewer of them kernels have no full vectors."""
EVALUATION_BATCH, ALONE = 96, 512
LOGITS = 1 << 26
"""Most logits of one network in a pass of an evaluation: a large vocabulary would not fit into memory otherwise."""
T = TypeVar("T")


def chunk_bounds(envs: int, chunk: int, threads: int) -> list[tuple[int, int]]:
    """Split `envs` hosts into balanced stacks of at most `chunk`, enough of them for the threads.

    No stack has one host unless there is only one: a single host runs on other kernels, so that its bits would
    depend on how many neighbours it has.
    """
    stacks = max(-(-envs // max(chunk, 2)), min(threads, envs // 2), 1)
    stacks = min(stacks, max(envs // 2, 1))
    edges = np.linspace(0, envs, stacks + 1).round().astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def evaluation_batch(hosts: int, logits: int) -> int:
    """Samples per pass of an evaluation, at so many logits each: the same for every stack, more for one host.

    Bits may depend on it, so it must not depend on what the networks are or how many fly.
    """
    return max(1, min(EVALUATION_BATCH if hosts > 1 else ALONE, LOGITS // logits))


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what a batch frees for the next batch.

    By default glibc returns it to the system and every batch faults it in again, which took a quarter of the time
    of large stacks. Freeing one block of nearly 32 MB raises its thresholds to that (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(31 * 1024 * 1024, dtype=torch.uint8)


class Splits:
    """The splits of a stack's data as tensors `[instances, n, ...]`: one instance shared, or one per host."""

    def __init__(self, instances: int, device: torch.device) -> None:
        self.instances, self.device = instances, device
        self.tensors: dict[str, tuple[Tensor, Tensor]] = {}

    def put(self, instance: int, data: Dataset, val_samples: int | None) -> None:
        """Store a data set; all instances have the same sizes. The memory of a single one is shared, not copied."""
        for name in ("train", "val", "test"):
            split: Split = getattr(data, name)
            keep = val_samples if name == "val" and val_samples else len(split)
            arrays = (split.inputs[:keep], split.labels[:keep])
            if self.instances == 1:
                inputs, labels = (torch.from_numpy(array)[None].to(self.device) for array in arrays)
                self.tensors[name] = (inputs, labels)
                continue
            if name not in self.tensors:
                empty = [torch.from_numpy(np.zeros((self.instances, *a.shape), a.dtype)) for a in arrays]
                self.tensors[name] = (empty[0].to(self.device), empty[1].to(self.device))
            for tensor, array in zip(self.tensors[name], arrays, strict=True):
                tensor[instance] = upload(array, self.device)


@dataclass
class Growth:
    """What an epoch did: arrays over all environments, coalition values in the order of the masks asked for."""

    train_loss: Floats
    gradients: GradientStats
    loss: Floats
    accuracy: Floats
    finite: Bools
    flops: Floats


class Population:
    """The hosts of all environments.

    Args:
        host: their common shape.
        envs: how many.
        chunk: hosts per stack; when None as many as `CHUNK_BYTES` and `CHUNK_CHANNELS` say, or all of them on a GPU.
        threads: stacks run at the same time.
        device: where parameters and data live.
        batch_size: training batch, by which the chunk is chosen.
        generated: does every environment have data of its own?
    """

    def __init__(
        self,
        host: Host,
        envs: int,
        *,
        chunk: int | None,
        threads: int,
        device: str,
        batch_size: int,
        generated: bool,
    ) -> None:
        keep_freed_memory()
        self.host = host
        self.batch_size = batch_size
        self.device = torch.device(device)
        if chunk is None:
            channels, positions = host.first_map.channels, host.first_map.positions
            chunk = max(CHUNK_BYTES // (4 * batch_size * channels * positions), -(-CHUNK_CHANNELS // channels))
            if self.device.type != "cpu":
                chunk = envs  # there is no cache to spare, and every stack waits for its own results
        self.bounds = chunk_bounds(envs, chunk, threads)
        self.stacks = [StackedNetwork(host, end - start, self.device) for start, end in self.bounds]
        self.generated = generated
        self.data = [Splits(end - start if generated else 1, self.device) for start, end in self.bounds]
        self._home = [(stack, env) for stack, (start, end) in enumerate(self.bounds) for env in range(end - start)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 and len(self.bounds) > 1 else None

    # Modules

    def home(self, env: int) -> tuple[StackedNetwork, int]:
        """The stack of an environment, and its number there."""
        stack, local = self._home[env]
        return self.stacks[stack], local

    def build_host(self, env: int, rng: np.random.Generator) -> None:
        """Give an environment a new host without seeds."""
        network, local = self.home(env)
        network.build_host(local, rng)

    def put_data(self, env: int, data: Dataset, val_samples: int | None) -> None:
        """Give an environment its data; shared data is stored once per stack."""
        stack, local = self._home[env]
        if self.generated:
            self.data[stack].put(local, data, val_samples)
        elif not self.data[stack].tensors:
            self.data[stack].put(0, data, val_samples)

    def plant(self, env: int, slot: int, blueprint: str, rng: np.random.Generator) -> None:
        """Build a seed."""
        network, local = self.home(env)
        network.plant(local, slot, blueprint, rng)

    def build_gate(self, env: int, slot: int, rng: np.random.Generator) -> None:
        """Build a seed's gate unless it has one."""
        network, local = self.home(env)
        network.build_gate(local, slot, rng)

    def free(self, env: int, slot: int) -> None:
        """Free a seed."""
        network, local = self.home(env)
        network.free(local, slot)

    def holds_data(self, env: int) -> bool:
        """Has the stack of an environment any data?"""
        stack, _ = self._home[env]
        return bool(self.data[stack].tensors)

    def snapshot(self, envs: Bools, fossilized: Bools, *, hosts: bool = True) -> None:
        """Remember hosts and fossils of these environments, or their fossils alone."""
        for network, rows, fossils in self._committed(envs, fossilized):
            for stack, index in network.committed_rows(rows, fossils):
                if hosts or stack is not network.trunk:
                    stack.take_snapshot(index)

    def restore(self, envs: Bools, fossilized: Bools) -> None:
        """Return hosts and fossils of these environments to their snapshot and forget their momentum."""
        for network, rows, fossils in self._committed(envs, fossilized):
            for stack, index in network.committed_rows(rows, fossils):
                stack.restore(index)

    def _committed(self, envs: Bools, fossilized: Bools) -> Iterator[tuple[StackedNetwork, list[int], Bools]]:
        for network, (start, end) in zip(self.stacks, self.bounds, strict=True):
            rows = np.flatnonzero(envs[start:end]).tolist()
            if rows:
                yield network, rows, fossilized[start:end]

    # Growing

    def grow(
        self,
        slots: SlotState,
        order: Sequence[Ints],
        masks: Ints,
        rates: Rates,
        proximal: float,
        views: Sequence[Ints] | None = None,
    ) -> Growth:
        """Train every host for one epoch and evaluate the coalitions `masks [envs, k]`.

        Each host has its own `order` of samples and, where they are augmented, a number in `views` for each of them.
        """

        def run(stack: int, start: int, end: int) -> Growth:
            network, data = self.stacks[stack], self.data[stack].tensors
            mine = SlotState(*(getattr(slots, name)[start:end] for name in SlotState.__dataclass_fields__))
            look = None if views is None else np.stack(views[start:end])
            train_loss, gradients = train_epoch(
                network, mine, *data["train"], np.stack(order[start:end]), self.batch_size, rates, proximal, look
            )
            finite = network.finite(BLENDED[mine.stage])
            envs = np.arange(end - start)
            coalitions = CoalitionPass(network, envs, masks[start:end], mine.alpha, mine.algorithm)
            loss, accuracy = coalitions.run(*data["val"], self._evaluation_batch(data["val"][1], network.hosts))
            flops = coalitions.macs * 2.0 * data["val"][1].shape[1]
            return Growth(train_loss, gradients, loss, accuracy, finite, flops)

        parts = self._map(run)
        gradients = GradientStats(
            *(
                np.concatenate([getattr(part.gradients, name) for part in parts])
                for name in GradientStats.__dataclass_fields__
            )
        )
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("train_loss", "loss", "accuracy", "finite", "flops")
        }
        return Growth(gradients=gradients, **joined)

    def evaluate(
        self, envs: Bools, masks: Ints, alpha: Floats, algorithm: Ints, split: str = "val"
    ) -> tuple[Floats, Floats, Floats]:
        """Loss, accuracy `[m, k]` and flops `[m]` of coalitions `masks [m, k]` of the m chosen environments."""
        chosen = np.flatnonzero(envs)

        def run(stack: int, start: int, end: int) -> tuple[Floats, Floats, Floats]:
            mine = (chosen >= start) & (chosen < end)
            if not mine.any():
                return np.empty((0, masks.shape[1])), np.empty((0, masks.shape[1])), np.empty(0)
            rows = chosen[mine] - start
            coalitions = CoalitionPass(self.stacks[stack], rows, masks[mine], alpha[start:end], algorithm[start:end])
            tensors = self.data[stack].tensors[split]
            loss, accuracy = coalitions.run(*tensors, self._evaluation_batch(tensors[1], end - start))
            return loss, accuracy, coalitions.macs[rows] * 2.0 * tensors[1].shape[1]

        parts = self._map(run)
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]

    def _evaluation_batch(self, targets: Tensor, hosts: int) -> int:
        return evaluation_batch(hosts, targets.shape[2:].numel() * self.host.classes)

    def _map(self, run: Callable[[int, int, int], T]) -> list[T]:
        def guarded(item: tuple[int, tuple[int, int]]) -> T:
            with one_thread(), torch.enable_grad():  # whoever steps the environment may have turned it off
                return run(item[0], *item[1])

        work = list(enumerate(self.bounds))
        return [guarded(item) for item in work] if self._pool is None else list(self._pool.map(guarded, work))

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
