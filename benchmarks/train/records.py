"""Records of long runs: a JSON list in which a new record replaces an earlier one of the same settings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _results  # noqa: E402

from fastuda.train.checkpoint import write_atomically  # noqa: E402


def output(text: str) -> Path:
    """The file that a command line names for its records, refused before the measurement where it must not be written.

    Records in benchmarks/results are published, and say at which commit they can be repeated.
    """
    path = Path(text)
    if path.resolve().is_relative_to(_results.RESULTS.resolve()) and _results.is_uncommitted(_results.commit()):
        raise argparse.ArgumentTypeError(
            f"{path} is published, and the tree holds changes that are not committed: commit them, or name another file"
        )
    return path


def stamped(record: dict) -> dict:
    """A record with the commit that it is measured at."""
    return record | {"commit": _results.commit()}


def merged(records: Iterable[dict], new: dict, names: Sequence[str]) -> list[dict]:
    """The records and ``new``, stamped, without earlier ones that equal ``new`` in all fields ``names``."""

    def settings(record: dict) -> list:
        return [list(value) if isinstance(value, tuple) else value for value in map(record.get, names)]

    return [*(old for old in records if settings(old) != settings(new)), stamped(new)]


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
