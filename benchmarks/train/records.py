"""Records of long runs: a JSON list in which each takes the place of an earlier one of the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastuda.train.checkpoint import write_atomically


def merged(records: Iterable[dict], new: dict, names: Sequence[str]) -> list[dict]:
    """The records, without those that ``new`` equals in all of ``names``, and ``new``."""

    def settings(record: dict) -> list:
        return [list(value) if isinstance(value, tuple) else value for value in map(record.get, names)]

    return [*(old for old in records if settings(old) != settings(new)), new]


def read(path: Path) -> list[dict]:
    """The records of a file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def keep(path: Path, new: dict, names: Sequence[str], order: Callable[[dict], Any] | None = None) -> None:
    """Put a record into a file, whole or not at all; ``order``: the key that its records are sorted by."""
    records = merged(read(path), new, names)
    write(path, sorted(records, key=order) if order else records)


def write(path: Path, records: list[dict]) -> None:
    """Make these the file's records, all or, where that fails, none."""
    text = json.dumps(records, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
