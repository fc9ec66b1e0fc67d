"""Files that appear whole or not at all, so that a process may be killed at any moment, and folders of one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from esper_env.config import ConfigError

try:
    import fcntl
except ImportError:  # not a POSIX system: folders are not locked there
    fcntl = None  # type: ignore[assignment]

UNFINISHED, LOCK = ".unfinished", ".lock"


def beside(path: Path) -> Path:
    """Where a file is while it is being written."""
    return path.with_name(f".{path.name}{UNFINISHED}")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` once all is written and on the disk."""
    with replacing_bytes(path) as raw:
        file = TextIOWrapper(raw, encoding="utf-8", newline="")
        try:
            yield file
        finally:
            file.detach()  # flushes; `raw` is closed by whoever opened it


@contextmanager
def replacing_bytes(path: Path) -> Iterator[BinaryIO]:
    """The same for a file of bytes."""
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file  # a pipe or a device is never whole
        return
    temporary = beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # a full disk should not also hold what is of no use


def write_json(path: Path, content: Any) -> None:
    """Write plain data."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, as long as they ask; a process that dies lets go of it.

    Raises:
        ConfigError: when another process is in it, unless this one is to wait until it has gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise ConfigError(
                    f"Another process is working in {folder}: wait until it has ended, or choose another folder."
                ) from error
        yield
