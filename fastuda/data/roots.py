"""Where the files of a data set lie on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from fastuda.data.errors import DataError


def check_moves(moves: Sequence[str]) -> None:
    """Raises ValueError for an entry that is not ``OLD=NEW``."""
    for move in moves:
        old, equals, new = move.partition("=")
        if not (old and equals and new):
            raise ValueError(f"root must be written OLD=NEW, two directories, not '{move}'")


def moved(directory: str, moves: Sequence[str]) -> str:
    """The directory with its beginning replaced by the last of the moves ``OLD=NEW`` that fits; itself if none does.

    OLD fits whole path components as they are written: ``/data`` fits ``/data/gta5`` and not ``/data2``.
    """
    for move in reversed(moves):
        old, _, new = move.partition("=")
        beginning = old.rstrip("/") or "/"
        if directory.rstrip("/") == beginning:
            return new
        if directory.startswith(beginning.rstrip("/") + "/"):
            return os.path.join(new, directory[len(beginning) :].lstrip("/"))
    return directory


def expanded(directory: str) -> Path:
    """The directory as it is written where it exists, else with ``~`` and ``$VARIABLES`` expanded.

    Raises DataError for a variable that is not set.
    """
    if os.path.isdir(directory):
        return Path(directory)

    def value(found: re.Match) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise DataError(f"the environment variable {name} is not set, which the data directory '{directory}' needs")
        return os.environ[name]

    return Path(os.path.expanduser(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, directory)))


def beside(directory: str, folder: Path) -> str:
    """A directory that a file in ``folder`` names: a relative one lies below that folder.

    One that begins with ``~`` or a ``$VARIABLE``, and an empty one, stays as it is.
    """
    if not directory or os.path.isabs(directory) or directory.startswith(("~", "$")):
        return directory
    return os.path.normpath(os.path.join(os.path.abspath(folder), directory))
