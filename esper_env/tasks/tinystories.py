"""TinyStories from files on disk: short stories in simple English (Eldan and Li 2023), for language hosts."""

from __future__ import annotations

import codecs
import importlib
import urllib.request
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esper_env.config import ConfigError, MissingDataError
from esper_env.tasks.data import FETCH, HAVE, Dataset, data_root, windows

PAGE = "https://huggingface.co/datasets/roneneldan/TinyStories"
TOKENIZER_PAGE = "https://huggingface.co/openai-community/gpt2"
TRAIN, TEST, TOKENIZER = "TinyStories-train.txt", "TinyStories-valid.txt", "tokenizer.json"
ADDRESSES = {name: f"{PAGE}/resolve/main/{name}" for name in (TRAIN, TEST)} | {
    TOKENIZER: f"{TOKENIZER_PAGE}/resolve/main/{TOKENIZER}"
}
SEPARATOR = "<|endoftext|>"
BYTES, GPT2 = "bytes", "gpt2"
VOCABULARY = {BYTES: 256, GPT2: 50257}
BYTES_PER_TOKEN = {BYTES: 2, GPT2: 6}
"""More than a token takes on average: what is read of a file is enough for the texts wanted of it."""
VAL_SHARE = 20
"""One training text in so many is held out for validation, if there are few."""

Tokens = npt.NDArray[np.integer]


@dataclass(frozen=True)
class TinyStories:
    """The beginnings of both files; validation is the end of what is read of the training file.

    Every byte is a token, and a zero separates stories; or tokens are those of GPT-2, by the `tokenizers` package and
    the file `tokenizer.json` beside the stories.
    """

    length: int = 256
    vocabulary: str = BYTES
    train: int = 200_000
    val: int = 512
    test: int = 1024
    """Texts of `length` tokens in each split, at most."""
    data_dir: Path | None = None
    """Holds the files; ESPER_DATA_DIR says where when None."""
    download: bool = False
    """Fetch what is missing."""

    generated = False

    def at(self, data_dir: str | None, download: bool) -> TinyStories:
        """The same data from the place that an environment was given, if it was given one."""
        place = self.data_dir if data_dir is None else Path(data_dir)
        return replace(self, data_dir=place, download=download or self.download)

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """The same split for everybody."""
        root = data_root(self.data_dir, "TinyStories", self._expected(), download=self.download)
        missing = [name for name in self._names if not (root / name).is_file()]
        if missing and self.download:
            for name in missing:
                _download(root / name)
        elif missing:
            there = f"There is no {' and no '.join(missing)} in {root}."
            raise MissingDataError(f"{there} {self._expected()}", HAVE, FETCH)
        stamps = tuple((root / name).stat() for name in self._names)
        return _load(self, root, tuple((stamp.st_mtime_ns, stamp.st_size) for stamp in stamps))

    @property
    def _names(self) -> tuple[str, ...]:
        return (TRAIN, TEST) if self.vocabulary == BYTES else (TRAIN, TEST, TOKENIZER)

    def _expected(self) -> str:
        names = " and ".join(f"{name} ({ADDRESSES[name]})" for name in self._names)
        return f"Expected there: {names}. Get them yourself, or give download=True to have what is missing fetched."


@lru_cache(maxsize=1)
def _load(source: TinyStories, root: Path, stamps: tuple[tuple[int, int], ...]) -> Dataset:
    """The data set of the files in `root` as they were at these times."""
    encode = _encoder(root / TOKENIZER) if source.vocabulary == GPT2 else _as_bytes
    how = source.length, encode, BYTES_PER_TOKEN[source.vocabulary]
    known = _tokens(root / TRAIN, source.train + source.val, *how)
    texts = (len(known) - 1) // source.length
    val = source.val if texts == source.train + source.val else min(source.val, max(texts // VAL_SHARE, 1))
    cut = (texts - val) * source.length
    if cut <= 0:
        raise _damage(root / TRAIN, f"it holds {len(known):,} tokens, and two texts of {source.length} are the least")
    parts = (known[: cut + 1], known[cut:], _tokens(root / TEST, source.test, *how))
    return Dataset(*(windows(part, source.length) for part in parts))


def _tokens(path: Path, texts: int, length: int, encode: Any, bytes_per_token: int) -> Tokens:
    """The tokens of so many texts from the beginning of a file, or of all of it."""
    try:
        with path.open("rb") as file:
            content = file.read((texts * length + 1) * bytes_per_token)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        story = codecs.getincrementaldecoder("utf-8")().decode(content)  # what is read may end within a letter
    except UnicodeDecodeError as error:
        raise _damage(path, f"byte {error.start:,} is no UTF-8") from error
    tokens: Tokens = encode(story)[: texts * length + 1]
    if len(tokens) <= length:
        raise _damage(path, f"it holds {len(tokens):,} tokens, and a text of {length} is the least: is it truncated?")
    return tokens


def _as_bytes(story: str) -> Tokens:
    return np.array(bytearray(story.replace(f"\n{SEPARATOR}\n", "\0").encode()), np.uint8)


def _encoder(path: Path) -> Any:
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(
            "Tokens of GPT-2 need the package tokenizers: pip install 'esper-env[data]', or use task='tinystories', "
            "where every byte is a token."
        ) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # whatever is wrong with the file, the package raises a plain Exception
        raise _damage(path, f"it is no tokenizer ({error})") from error
    if tokenizer.get_vocab_size() > VOCABULARY[GPT2]:
        raise _damage(path, f"it knows {tokenizer.get_vocab_size():,} tokens, and GPT-2 {VOCABULARY[GPT2]:,}")

    def encode(story: str) -> Tokens:
        return np.array(tokenizer.encode(story).ids, np.int32)

    return encode


def _download(path: Path) -> None:
    """Fetch a file whole or not at all."""
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        urllib.request.urlretrieve(ADDRESSES[path.name], partial)
    except OSError as error:  # urllib's own errors are of this kind
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"{ADDRESSES[path.name]} could not be fetched into {path.parent}: {error}. Try again, or put it there "
            "yourself."
        ) from error
    partial.replace(path)


def _damage(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} is damaged: {what}. Delete it and get it once more from {ADDRESSES[path.name]}.")
