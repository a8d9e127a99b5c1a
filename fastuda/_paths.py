"""Paths that a user gives: only regular files are opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def check_regular(path: str | Path) -> None:
    """Raises OSError where ``path`` does not exist or is no regular file: opening a FIFO would wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
