"""Held-out episodes as files: one row each in a fixed schema, and the actions that they were played with.

Actions are words of eight base-36 digits, one for each head, so that a sequence can be read, and compresses well.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esper_agent.evaluate import Episode, write_csv
from esper_agent.files import replacing_bytes
from esper_env.actions import ACTION_HEADS
from esper_env.arrays import Ints
from esper_env.config import ConfigError

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
ACTION_COLUMNS = ("training_seed", "evaluation_seed", "actions")

Key = tuple[int, int]
"""Training seed and evaluation seed."""


def key(episode: Episode) -> Key:
    """What an episode of one agent on one task is known by."""
    return episode.training_seed, episode.evaluation_seed


def encode(actions: Ints) -> str:
    """Actions `[steps, 8]` as words."""
    if actions.min(initial=0) < 0 or actions.max(initial=0) >= len(DIGITS):
        raise ValueError(f"Choices must lie between 0 and {len(DIGITS) - 1}, got {actions.min()} to {actions.max()}.")
    return " ".join("".join(DIGITS[choice] for choice in action) for action in actions.tolist())


def decode(words: str) -> Ints:
    """Words as actions `[steps, 8]`."""
    actions = []
    for word in words.split():
        if len(word) != len(ACTION_HEADS) or not set(word) <= set(DIGITS):
            raise ConfigError(f"{word!r} is no action: expected {len(ACTION_HEADS)} digits of {DIGITS}.")
        actions.append([DIGITS.index(digit) for digit in word])
    return np.array(actions, np.int64).reshape(-1, len(ACTION_HEADS))


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Write rows in the order of their seeds."""
    write_csv(path, sorted(episodes, key=key))


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a compressed table with these columns."""
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no compressed table ({error}).") from error
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise ConfigError(f"{path} has the columns {reader.fieldnames}; expected {', '.join(columns)}.")
    return list(reader)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a compressed table; the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing_bytes(path) as file:
        file.write(gzip.compress(text.getvalue().encode(), mtime=0))


def read_actions(path: Path) -> dict[Key, Ints]:
    """Recorded actions `[steps, 8]` by training and evaluation seed."""
    rows = read_table(path, ACTION_COLUMNS)
    return {(int(row["training_seed"]), int(row["evaluation_seed"])): decode(row["actions"]) for row in rows}


def write_actions(path: Path, actions: Mapping[Key, Ints]) -> None:
    """Write recorded actions in the order of their seeds."""
    rows = [
        {"training_seed": training, "evaluation_seed": evaluation, "actions": encode(taken)}
        for (training, evaluation), taken in sorted(actions.items())
    ]
    write_table(path, ACTION_COLUMNS, rows)
