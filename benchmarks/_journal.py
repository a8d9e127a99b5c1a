"""The record of a session as it runs: one JSON object a line, appended and flushed to the disk at once.

A results file is rewritten as a whole, which takes longer with every row, and a case's older rows must stay until the
new ones are complete and judged. So rows go to a journal first, and ``rows.py`` moves them later. A process that is
killed at any moment leaves at most one incomplete line, the last, which readers skip: every finished row is there.

Each line has a "kind":

- session: a process began; its arguments, the commit and the device
- probe: the ceilings, in the order in which they were measured; rows between two probes are judged by both
- begin, row, failed, skipped: a row's name when it begins, and how it ended. A row with "begin" alone was under way
  when its process ended
- end: the session came to its end
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

KEY = ("operator", "case", "direction", "provider")
ENDED = "its process ended meanwhile"
TRIES = 2


def key(record: dict) -> tuple[str, ...]:
    return tuple(record[name] for name in KEY)


def title(record: dict) -> str:
    """A row's name, for messages."""
    return " ".join(key(record))


def read(path: Path) -> list[dict]:
    """A journal's records in order; none where there is no file. An incomplete last line is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]


def outcomes(records: list[dict]) -> dict[tuple[str, ...], dict]:
    """Each row's last outcome by its key; one that began and did not end has failed, after so many "tries"."""
    found: dict[tuple[str, ...], dict] = {}
    for record in records:
        if record["kind"] == "begin":
            tries = found.get(key(record), {}).get("tries", 0) + 1
            found[key(record)] = record | {"kind": "failed", "why": ENDED, "tries": tries}
        elif record["kind"] in ("row", "failed", "skipped"):
            found[key(record)] = record
    return found


def finished(records: list[dict]) -> bool:
    """Whether the last session in the journal came to its end."""
    states = [record["kind"] for record in records if record["kind"] in ("session", "end")]
    return bool(states) and states[-1] == "end"


class Journal:
    """Appends records to a file. ``done`` holds the outcomes of the sessions before, which are not measured again.

    A row that was under way when its process ended is tried once more, because the row need not be the cause.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        records = read(path)
        self.done = {key: outcome for key, outcome in outcomes(records).items() if outcome.get("tries", TRIES) >= TRIES}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):  # the incomplete line of a killed process
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def append(self, kind: str, **values: object) -> None:
        """Write one record; it is on the disk when this returns."""
        self._file.write(json.dumps({"kind": kind, **values}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def failures(records: list[dict]) -> Iterator[str]:
    """A line for each row that failed, with the reason."""
    for outcome in outcomes(records).values():
        if outcome["kind"] == "failed":
            yield f"{title(outcome)}: {outcome['why']}"
