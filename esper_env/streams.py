"""Named random streams of one episode, all derived from its seed.

Planting a seed never shifts the data order of the host, so that the waiting twin on the same seed is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_HOST, _ORDER, _DATA, _SAMPLING, _SEED, _GATE = range(6)


@dataclass
class Streams:
    """The randomness of one environment's episode; only `order` and `sampling` move on as it runs."""

    seed: int
    order: np.random.Generator
    """Data order and augmentation."""
    sampling: np.random.Generator
    """Permutations for Shapley values where coalitions are too many."""

    @classmethod
    def of(cls, seed: int) -> Streams:
        """The streams of the episode with this seed."""
        return cls(seed, _stream(seed, _ORDER), _stream(seed, _SAMPLING))

    def host(self) -> np.random.Generator:
        """Initialisation of the host."""
        return _stream(self.seed, _HOST)

    def data(self) -> np.random.Generator:
        """The instance of a generated data set."""
        return _stream(self.seed, _DATA)

    def planting(self, slot: int, count: int) -> np.random.Generator:
        """Weights of the seed planted as the `count`-th in a slot."""
        return _stream(self.seed, _SEED, slot, count)

    def gate(self, slot: int, count: int) -> np.random.Generator:
        """Weights of that seed's gate."""
        return _stream(self.seed, _GATE, slot, count)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
