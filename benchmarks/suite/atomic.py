"""Files that appear whole or not at all, so that a process may be killed at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Write a text file beside its place and move it there when all is written and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.unfinished")
    with temporary.open("w", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write plain data."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
