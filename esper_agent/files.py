"""Files that appear whole or not at all, so that a process may be killed at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

UNFINISHED = ".unfinished"


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
    path.parent.mkdir(parents=True, exist_ok=True)
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
