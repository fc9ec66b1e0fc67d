"""Checkpoints: one file with everything a run needs to go on, written so that a crash never costs the last one."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_agent.files import UNFINISHED, beside, replacing_bytes

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMAT = "esper-checkpoint"
VERSION = 2
LAST, BEST = "last.pt", "best.pt"


class CheckpointError(ValueError):
    """A file that is no checkpoint of this package, or not a whole one; the message says which."""


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    import torch

    with replacing_bytes(path) as file:
        torch.save({"format": FORMAT, "version": VERSION, **content}, file)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; what is packed in it stays so. No code of the file is run.

    Raises:
        CheckpointError: when the file is missing, damaged, foreign or of another version.
    """
    import torch

    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # against the checksums in the file, which torch.load does not look at
        content = None if broken else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes zipfile, pickle and torch raise is not written down anywhere
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint ({type(error).__name__}: {reason}).") from error
    if broken:
        raise CheckpointError(f"{path} is damaged: the checksum of its part {broken} is wrong.")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by this package.")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {content.get('version')}; this package reads version {VERSION} only."
        )
    return content


def put_weights(policy: Module, weights: Mapping[str, Any]) -> None:
    """Load weights that a checkpoint holds into a policy.

    Raises:
        CheckpointError: when they are those of a policy with other parameters.
    """
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).partition("\n")[2].partition("\n")[0].split()).rstrip(".") or str(error)
        raise CheckpointError(
            f"The weights in the checkpoint are those of another policy ({reason}): give the policy options that "
            "it was trained with, policy_options in the run's config.json."
        ) from error


def is_whole(path: Path) -> bool:
    """Can the checkpoint be read?"""
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def pack(state: Any) -> Tensor:
    """Any object as bytes, for what only a resumed run needs: to load a policy, nothing of an environment is built."""
    import torch

    return torch.frombuffer(bytearray(pickle.dumps(state)), dtype=torch.uint8)


def unpack(packed: Tensor) -> Any:
    """What was packed. It is a pickle, which can run code: resume only runs that you trust.

    Raises:
        CheckpointError: when it was packed by a version of this package whose objects were others.
    """
    try:
        return pickle.loads(packed.numpy().tobytes())
    except (AttributeError, ImportError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"The environments in this checkpoint are of another version ({error}): its policy can be used, but the "
            "run cannot be resumed."
        ) from error


class CheckpointFolder:
    """A run's checkpoints: `last.pt`, `best.pt`, and the newest `keep` by number of environment steps."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, content: Mapping[str, Any], steps: int, *, best: bool = False) -> None:
        """Write the state after `steps` as the last, as the best if it is, and as one of the newest."""
        numbered = self.folder / f"steps-{steps:012d}.pt"
        write(numbered, content)
        # The best first: killed in between, a resumed run lives this update again and finds the same best.
        for name in (BEST, LAST) if best else (LAST,):
            self._alias(numbered, self.folder / name)
        for old in self.folder.glob(f".*{UNFINISHED}"):  # of a process killed while it wrote
            old.unlink()
        for old in sorted(self.folder.glob("steps-*.pt"))[: -self.keep]:
            old.unlink()

    def read_last(self) -> dict[str, Any]:
        """The last state; where it is damaged, the error names the newest checkpoint that can take its place.

        Raises:
            CheckpointError: when it cannot be read.
        """
        last = self.folder / LAST
        try:
            return read(last)
        except CheckpointError as error:
            whole = next(filter(is_whole, sorted(self.folder.glob("steps-*.pt"), reverse=True)), None)
            if whole is None:
                raise
            # Moved, not copied: other names of the damaged file would get the content as well.
            command = shlex.join(["mv", str(whole), str(last)])
            raise CheckpointError(f"{error} Go on from an earlier one: {command}") from error

    def _alias(self, numbered: Path, path: Path) -> None:
        """Let `path` name the same file, at every moment either the old one or the new."""
        temporary = beside(path)
        temporary.unlink(missing_ok=True)
        try:
            os.link(numbered, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(numbered, temporary)
        os.replace(temporary, path)
