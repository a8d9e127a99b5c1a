"""Records of long runs: a JSON list in which a new record replaces an earlier one of the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastuda.train.checkpoint import write_atomically


def merged(records: Iterable[dict], new: dict, names: Sequence[str]) -> list[dict]:
    """The records and ``new``, without earlier ones that equal ``new`` in all fields ``names``."""

    def settings(record: dict) -> list:
        return [list(value) if isinstance(value, tuple) else value for value in map(record.get, names)]

    return [*(old for old in records if settings(old) != settings(new)), new]


def read(path: Path) -> list[dict]:
    """The records of a file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def keep(path: Path, new: dict, names: Sequence[str], order: Callable[[dict], Any] | None = None) -> None:
    """Put a record into a file, atomically; ``order``: the sort key of its records."""
    records = merged(read(path), new, names)
    write(path, sorted(records, key=order) if order else records)


def write(path: Path, records: list[dict]) -> None:
    """Write the records into a file, atomically."""
    text = json.dumps(records, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
