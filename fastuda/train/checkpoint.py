"""Files of a run that are either complete or absent: checkpoints and results."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

FORMAT = 1
_UNFINISHED = ".tmp"
_RUN_FILES = (
    "checkpoint.pt",
    "config.yaml",
    "result.json",
    "nonfinite.pt",
    "report.html",
    "pseudo_labels/*",
    "predictions/*",
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is of another run."""


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write to a temporary file in the same directory, fsync, rename: ``path`` holds the old or the new content.

    Raises OSError naming ``path``; its old content is then intact and the temporary file is removed.  Only a killed
    process leaves one behind, which ``remove_unfinished`` deletes.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    # torch.save turns a failed write of the underlying file into a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise _cannot_write(path, error) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _cannot_write(path: Path, error: OSError | RuntimeError) -> OSError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    previous = "; the previous one is intact" if path.exists() else ""
    return OSError(f"cannot write {path}: {reason}{previous}")


def remove_unfinished(directory: Path) -> None:
    """Delete the temporary files that a killed run left in ``directory``, and nothing else."""
    for name in _RUN_FILES:
        folder, _, file = name.rpartition("/")
        for path in (directory / folder).glob(f".{file}.*{_UNFINISHED}"):
            path.unlink()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save a nested dict of tensors and plain values, atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load what ``save_checkpoint`` wrote, on the CPU, executing nothing from the file.

    Raises CheckpointError naming the file when it is missing, truncated, changed in a single bit or something else.
    """
    try:
        # torch.load ignores the archive's checksums: weights that the disk corrupted would go unnoticed.
        with zipfile.ZipFile(path) as archive:
            if member := archive.testzip():
                raise zipfile.BadZipFile(f"checksum of {member}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except Exception as error:
        # torch.load raises one of at least five unrelated exceptions for a damaged file.
        raise CheckpointError(f"{path} is damaged or no checkpoint of fastuda ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version of fastuda")
    return state


def load_run(path: Path) -> dict[str, Any]:
    """``load_checkpoint`` of a training run; CheckpointError also where a part of it is missing."""
    state = load_checkpoint(path)
    if missing := sorted({"config", "method", "position", "optimisers"} - state.keys()):
        raise CheckpointError(f"{path} is no checkpoint of a training run: it lacks {', '.join(missing)}")
    return state


def fill_method(method: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load ``state``, read from ``path``, into a method; CheckpointError if it is of another method or version."""
    try:
        method.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit the method that it names: {reason[:300]}") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))
