"""How a command that cannot go on ends: one sentence that says what to do, and an exit code."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from esper_agent.doctor import missing_extra
from esper_agent.exits import FAILURE, USAGE
from esper_env.config import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TRACEBACK = 3
"""More lines than these hold the traceback of another process: its first line and its last say what happened."""
MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")
"""How torch words, in errors of no type of their own, that an allocation has failed."""


def require_writable(folder: Path, flag: str) -> None:
    """Refuse a folder that files cannot be written to: before the work rather than after it.

    Nothing is made: where the folder does not exist yet, the nearest one above it that does is tried.

    Raises:
        ConfigError: with the flag that chooses another place.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"?")
    except OSError as error:
        raise ConfigError(f"Nothing can be written in {folder}: {_reason(error)}. Choose another {flag}.") from error


def require_writable_file(path: Path, flag: str) -> None:
    """The same for a file that is to be written, or written on."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Choose a file for {flag}.")
    require_writable(path.parent, flag)


def cause(error: Exception) -> str:
    """One line. The messages of our own errors say what to do; what is not known here goes by its type."""
    advice = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
    if advice is not None:
        return advice
    message = " ".join(str(error).split())
    ours = type(error).__module__.startswith(("esper_env", "esper_agent"))
    lines = str(error).strip().splitlines()
    if ours and len(lines) > TRACEBACK:
        return f"{lines[0].strip()} {lines[-1].strip()} (--debug shows where)"
    if ours or (isinstance(error, ImportError) and "pip install" in message):
        return message
    if _disk_is_full(error):
        return "The disk is full. Make room and do it again; what was saved before is whole, and --resume continues it."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {_reason(error)}. (--debug shows where)"
    if isinstance(error, MemoryError) or any(words in message.lower() for words in MEMORY):
        return "There is not enough memory for that: fewer hosts (--num-envs), episodes or --threads need less."
    return f"{type(error).__name__}: {message} (--debug shows where)"


def exit_code(error: Exception) -> int:
    """Two for what another command line would mend, one for all else."""
    return USAGE if isinstance(error, ConfigError) else FAILURE


def _disk_is_full(error: BaseException | None) -> bool:
    """Is that what it began with? torch.save covers it by an error of its own about a position in the file."""
    while error is not None and not (isinstance(error, OSError) and error.errno in FULL):
        error = error.__cause__ or error.__context__
    return error is not None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
