"""CIFAR-10 from files on disk: 32×32 colour photographs of ten kinds of things.

Both archives of https://www.cs.toronto.edu/~kriz/cifar.html are read, as they are unpacked: six batches, either
Python pickles or records of 3,073 bytes. Pickles can run code when they are read, so these may hold nothing but
arrays of bytes.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esper_env.config import ConfigError, MissingDataError
from esper_env.tasks.data import FETCH, HAVE, Dataset, Images, Labels, Split, data_root, stratified

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIZE, CHANNELS, CLASSES = 32, 3, 10
PIXELS = CHANNELS * SIZE * SIZE
VAL_SHARE = 10
"""One training image in so many is held out for validation."""

Pixels = npt.NDArray[np.uint8]
Batch = tuple[Pixels, Labels]
Rows = tuple[Pixels, list[int]]
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: 45,000 / 5,000 / 10,000 images, where validation is a tenth of the training batches.

    Pixels are normalised channel by channel with the mean and the deviation of the training part. The split is the
    same for everybody, and environments of one process share one copy in memory.
    """

    data_dir: Path | None = None
    """Holds the batches, or the folder that an archive unpacks to; ESPER_DATA_DIR says where when None."""
    download: bool = False
    """Fetch what is missing, through torchvision."""

    generated = False

    def at(self, data_dir: str | None, download: bool) -> Cifar10:
        """The same data from the place that an environment was given, if it was given one."""
        place = self.data_dir if data_dir is None else Path(data_dir)
        return replace(self, data_dir=place, download=download or self.download)

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """The same split for everybody."""
        archive = self._archive(data_root(self.data_dir, "CIFAR-10", _expected(), download=self.download))
        return _load(archive, tuple(_stamp(path) for path in archive.paths))

    def _archive(self, root: Path) -> Archive:
        found = _find(root)
        if found is None and self.download:
            _download(root)
            found = _find(root)
        if found is None:
            raise MissingDataError(_missing(root), HAVE, FETCH)
        return found


# Finding the files


@dataclass(frozen=True)
class Layout:
    """How an archive stores its batches."""

    archive: str
    folder: str
    """What the archive unpacks to."""
    train: tuple[str, ...]
    test: str
    read: Callable[[Path], Rows]

    @property
    def names(self) -> tuple[str, ...]:
        """All files, the test batch last."""
        return (*self.train, self.test)


@dataclass(frozen=True)
class Archive:
    """The files of a layout in a directory."""

    folder: Path
    layout: Layout

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, the test batch last."""
        return tuple(self.folder / name for name in self.layout.names)

    @property
    def missing(self) -> list[str]:
        """Names of the files that are not there."""
        return [path.name for path in self.paths if not path.is_file()]


def _candidates(root: Path) -> list[Archive]:
    return [Archive(folder, layout) for layout in LAYOUTS for folder in (root, root / layout.folder)]


def _find(root: Path) -> Archive | None:
    return next((archive for archive in _candidates(root) if not archive.missing), None)


def _expected() -> str:
    names = " or ".join(f"{layout.train[0]} to {layout.train[-1]} and {layout.test}" for layout in LAYOUTS)
    archives = " or ".join(layout.archive for layout in LAYOUTS)
    return (
        f"Expected there: {names}. Get {archives} from {PAGE} and unpack it there, or give download=True to have it "
        "fetched by torchvision."
    )


def _missing(root: Path) -> str:
    if not root.is_dir():
        return f"CIFAR-10 was to be in {root}, which is no directory. {_expected()}"
    partial = [archive for archive in _candidates(root) if len(archive.missing) < len(archive.paths)]
    if partial:
        nearest = min(partial, key=lambda archive: len(archive.missing))
        return f"CIFAR-10 in {nearest.folder} is not complete: {', '.join(nearest.missing)} missing. {_expected()}"
    return f"There is no CIFAR-10 in {root}. {_expected()}"


def _download(root: Path) -> None:
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise ConfigError(
            f"download=True fetches CIFAR-10 through torchvision, which is not installed: pip install "
            f"'esper-env[data]', or unpack {LAYOUTS[0].archive} from {PAGE} into {root} yourself."
        ) from error
    except RuntimeError as error:  # what a torchvision raises that was built for another torch
        raise ConfigError(
            f"download=True fetches CIFAR-10 through torchvision, and the one that is installed does not run with this "
            f"torch ({error}). Install the one that belongs to it, or unpack {LAYOUTS[0].archive} from {PAGE} into "
            f"{root} yourself."
        ) from error
    try:
        datasets.CIFAR10(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"torchvision could not fetch CIFAR-10 into {root}: {error}. Try again, or unpack {LAYOUTS[0].archive} "
            f"from {PAGE} there yourself."
        ) from error


# Reading the files


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1)
def _load(archive: Archive, stamps: tuple[Stamp, ...]) -> Dataset:
    """The data set of these files as they were at these times."""
    batches = [_read(path, archive.layout) for path in archive.paths]
    sizes = [len(labels) for _, labels in batches]
    for path, size in zip(archive.paths, sizes, strict=True):
        if size != max(sizes):
            raise _damage(path, f"it holds {size:,} images where other batches hold {max(sizes):,}: is it truncated?")
    pixels = np.concatenate([images for images, _ in batches[:-1]])
    labels = np.concatenate([targets for _, targets in batches[:-1]])
    held_out = max(len(labels) // VAL_SHARE, 1)
    train, val, _ = stratified(labels, (held_out, 0), np.random.default_rng(10))
    scale = _scale(pixels[train])
    parts = ((pixels[train], labels[train]), (pixels[val], labels[val]), batches[-1])
    return Dataset(*(Split(_normalised(images, scale), targets) for images, targets in parts))


def _scale(pixels: Pixels) -> Images:
    """What every value of a byte becomes in each channel, `[channels, 256]`."""
    values, rows = np.arange(256), []
    for channel in range(CHANNELS):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        mean = np.average(values, weights=counts)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
        rows.append((values - mean) / max(deviation, 1.0))
    return np.array(rows, np.float32)


def _normalised(pixels: Pixels, scale: Images) -> Images:
    images = np.empty(pixels.shape, np.float32)
    for channel in range(CHANNELS):
        images[..., channel] = scale[channel][pixels[..., channel]]
    return images


def _read(path: Path, layout: Layout) -> Batch:
    rows, labels = layout.read(path)
    if not labels:
        raise _damage(path, "it holds no images")
    for label in labels:
        if not 0 <= label < CLASSES:
            raise _damage(path, f"it has a label {label}, but labels are 0 to {CLASSES - 1}")
    return rows.reshape(-1, CHANNELS, SIZE, SIZE).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The CIFAR-10 batch {path} cannot be read: {error.strerror or error}.") from error


def _read_binary(path: Path) -> Rows:
    """Records of a label and its image."""
    content = _bytes(path)
    if len(content) % (1 + PIXELS):
        raise _damage(path, f"its {len(content):,} bytes are no whole number of records of {1 + PIXELS:,}: truncated?")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0].tolist()


def _read_python(path: Path) -> Rows:
    """A pickled dictionary with an array `data` of an image per row, and a list `labels`."""
    content = _bytes(path)
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise _damage(path, f"it cannot be read as a pickle of arrays ({error})") from error
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise _damage(path, "it holds no dictionary with 'data' and 'labels'")
    data, labels = batch["data"], batch["labels"]
    rows = data.pixels if isinstance(data, _PickledArray) else None
    if rows is None or rows.ndim != 2 or rows.shape[1] != PIXELS:
        found = f"of shape {rows.shape}" if rows is not None else f"a {type(data).__name__}"
        raise _damage(path, f"its data is {found}, not bytes of shape (images, {PIXELS})")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _damage(path, "its labels are no list of whole numbers")
    if len(labels) != len(rows):
        raise _damage(path, f"it has {len(rows):,} images and {len(labels):,} labels")
    return rows, labels


class _PickledType:
    """The element type of a pickled array, which must be bytes; its state says nothing more."""

    def __init__(self, code: object, *flags: object) -> None:
        if code != "u1":
            raise pickle.UnpicklingError(f"it holds an array of type {code!r}, not of bytes")

    def __setstate__(self, state: object) -> None: ...


class _PickledArray:
    """An array of bytes; what is not trusted is not given to NumPy's own way of unpickling."""

    def __init__(self, *pattern: object) -> None:
        self.pixels: Pixels | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _PickledType):
            raise pickle.UnpicklingError("it holds an array without a type")
        content = content.encode("latin1") if isinstance(content, str) else content
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in a pickle of protocol 2 are text in this encoding."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds text encoded as {encoding!r}")
    return text.encode("latin1")


_NEEDED = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays of bytes in plain containers and refuses everything else that a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle; nothing is ever imported."""
        if (module, name) not in _NEEDED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a batch of images has no need of")
        return _NEEDED[module, name]


def _damage(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"The CIFAR-10 batch {path} is damaged: {what}. Delete it and unpack the archive from {PAGE} once more."
    )


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = (
    Layout("cifar-10-python.tar.gz", "cifar-10-batches-py", _BATCHES, "test_batch", _read_python),
    Layout(
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"{name}.bin" for name in _BATCHES),
        "test_batch.bin",
        _read_binary,
    ),
)
