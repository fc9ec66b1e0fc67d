"""Data of a task in memory: three splits of inputs and labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from esper_env.actions import TRANSFORMER
from esper_env.config import ConfigError, MissingDataError
from esper_env.network.host import Host

DATA_DIR_VARIABLE = "ESPER_DATA_DIR"
HAVE, FETCH = ("data_dir",), ("data_dir", "download")
"""Options of an environment by which it finds files, or fetches them."""
Images = npt.NDArray[np.float32]
Texts = npt.NDArray[np.integer]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images `[n, height, width, channels]` and labels `[n]`, or texts `[n, length]` and the token after each."""

    inputs: Images | Texts
    labels: Labels | Texts

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Training data, validation data (all that the agent sees) and test data (the final report only)."""

    train: Split
    val: Split
    test: Split


def check_fit(task: str, data: Dataset, host: Host) -> None:
    """Refuse data that the host of the task of this name cannot be trained with.

    Raises:
        ConfigError: when a split is empty, its arrays have another shape or type, or a label is none of the host's.
    """
    for name in ("train", "val", "test"):
        misfit = _misfit(getattr(data, name), host)
        if misfit:
            raise ConfigError(
                f"The {name} data of task {task!r} does not fit its host: {misfit}. Change the source or the host."
            )


def _misfit(split: Split, host: Host) -> str | None:
    inputs, labels, texts = split.inputs, split.labels, host.topology == TRANSFORMER
    for name, array in (("inputs", inputs), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            return f"{name} must be a NumPy array, got {type(array).__name__}"
    if inputs.shape[1:] != host.sample:
        return f"inputs must be [samples, {', '.join(map(str, host.sample))}], got shape {inputs.shape}"
    expected = inputs.shape if texts else inputs.shape[:1]
    if labels.shape != expected:
        return f"labels must have shape {expected}, got {labels.shape}"
    if not len(inputs):
        return "it is empty"
    if not texts and inputs.dtype != np.float32:
        return f"images must be float32, got {inputs.dtype}"
    for name, array in (("inputs", inputs), ("labels", labels)) if texts else (("labels", labels),):
        if array.dtype.kind not in "ib" and array.dtype != np.uint8:
            return f"{name} must be uint8 or a signed whole number, got {array.dtype}"
        low, high = array.min(), array.max()
        if low < 0 or high >= host.classes:
            return f"{name} must be from 0 to {host.classes - 1}, its classes; they go from {low} to {high}"
    return None


def windows(stream: Texts, length: int) -> Split:
    """A stream of tokens cut into texts of so many, without a copy; what follows each token is its label."""
    texts = (len(stream) - 1) // length
    inputs, labels = (stream[shift : shift + texts * length].reshape(texts, length) for shift in (0, 1))
    return Split(inputs, labels)


def data_root(data_dir: Path | None, what: str, expected: str, *, download: bool = False) -> Path:
    """The directory of a source's files: the one it was given, or that of ESPER_DATA_DIR."""
    place = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not place:
        where = f"give data_dir=, or set the environment variable {DATA_DIR_VARIABLE}"
        if download:
            raise MissingDataError(f"{what} needs a directory to be downloaded to: {where}.", FETCH)
        raise MissingDataError(f"{what} needs a directory: {where}. {expected}", HAVE, FETCH)
    return Path(place).expanduser().resolve()


class DataSource(Protocol):
    """Where a task's data comes from."""

    @property
    def generated(self) -> bool:
        """Does every environment get an instance of its own?"""
        ...

    def load(self, rng: np.random.Generator | None) -> Dataset:
        """The data; `rng` is the environment's data stream, given when `generated`."""
        ...


@runtime_checkable
class FileSource(DataSource, Protocol):
    """Data in files, which `data_dir` and `download` of an environment are about; other sources ignore them."""

    def at(self, data_dir: str | None, download: bool) -> DataSource:
        """The same data from this directory, or from where the source finds it by itself when None."""
        ...


class Digits:
    """scikit-learn's 8×8 handwritten digits: 1,797 images in the package, split 1,077 / 360 / 360 by class."""

    generated = False

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """The same split for everybody."""
        return _digits()


@cache
def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    train, val, test = stratified(labels, (360, 360), np.random.default_rng(20))
    pixels = bunch.images[..., None]
    inputs = ((pixels - pixels[train].mean()) / pixels[train].std()).astype(np.float32)
    return Dataset(*(Split(inputs[i], labels[i]) for i in (train, val, test)))


def stratified(labels: Labels, held_out: tuple[int, int], rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Indices of train, validation and test, the held-out ones of exact sizes with classes in proportion."""
    classes, counts = np.unique(labels, return_counts=True)
    pools = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    parts = []
    for size in held_out:
        exact = counts * size / len(labels)
        take = np.floor(exact).astype(int)
        take[np.argsort(take - exact, kind="stable")[: size - take.sum()]] += 1
        parts.append(np.sort(np.concatenate([pool[:t] for pool, t in zip(pools, take, strict=True)])))
        pools = [pool[t:] for pool, t in zip(pools, take, strict=True)]
    return [np.sort(np.concatenate(pools)), *parts]


@dataclass(frozen=True)
class Shapes:
    """Procedural images of ten shapes, at random places and sizes, in noise.

    Every shape is drawn with about the same amount of ink and the contrast is drawn per image, so that pixel
    statistics alone say little: the class is in the spatial pattern.
    """

    size: int = 16
    train: int = 1024
    val: int = 256
    test: int = 512
    noise: float = 0.3
    generated: bool = True

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """A fresh instance drawn from `rng`."""
        rng = np.random.default_rng(0) if rng is None else rng
        return Dataset(*(self._draw(n, rng) for n in (self.train, self.val, self.test)))

    def _draw(self, n: int, rng: np.random.Generator) -> Split:
        labels = rng.permutation(np.arange(n) % 10)
        reach = rng.uniform(0.26, 0.4, n) * self.size
        center = (rng.uniform(-1, 1, (2, n)) * (self.size / 2 - reach - 0.5) + (self.size - 1) / 2)[:, :, None, None]
        grid = np.arange(self.size)
        dy = (grid[None, :, None] - center[0]) / reach[:, None, None]
        dx = (grid[None, None, :] - center[1]) / reach[:, None, None]
        images = _pattern(dx, dy, labels)
        contrast = rng.uniform(0.8, 1.2, n)[:, None, None]
        ink = images.mean((1, 2), keepdims=True)
        images = (images - ink) / (images.std((1, 2), keepdims=True) + 1e-6) * contrast
        images += rng.normal(0, self.noise, images.shape)
        return Split(images[..., None].astype(np.float32), labels.astype(np.int64))


def _pattern(dx: npt.NDArray[np.float64], dy: npt.NDArray[np.float64], labels: Labels) -> npt.NDArray[np.float64]:
    """Soft masks of the ten shapes in coordinates where the shape reaches from -1 to 1."""
    inside = np.maximum(abs(dx), abs(dy)) <= 1
    radius = np.hypot(dx, dy)
    width = 0.34
    strokes = [
        abs(dy) < width,
        abs(dx) < width,
        abs(dx - dy) < 1.4 * width,
        abs(dx + dy) < 1.4 * width,
        (abs(dx) < width / 2) | (abs(dy) < width / 2),
        (abs(dx - dy) < 0.7 * width) | (abs(dx + dy) < 0.7 * width),
        abs(radius - 0.75) < width / 2,
        np.maximum(abs(dx), abs(dy)) > 1 - width / 2,
        (abs(dy - 0.85) < width / 2) | (abs(dx + 0.85) < width / 2),
        (abs(abs(dx) - 0.75) < width / 2),
    ]
    return np.choose(labels[:, None, None], [(inside & stroke).astype(float) for stroke in strokes])
