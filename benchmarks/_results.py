"""The rows of benchmarks/results/<device>.json: their columns, checks, merging and files."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DIRECTIONS = ("forward", "backward", "both")
OURS = ("cpu", "cuda", "triton")
_NUMBER = (int, float)
COLUMNS: dict[str, type | tuple[type, ...]] = {
    "operator": str,
    "case": str,
    "direction": str,
    "provider": str,
    "ms": _NUMBER,
    "ms_20": _NUMBER,
    "ms_80": _NUMBER,
    "bytes": int,
    "flops": _NUMBER,
    "ceiling_share": _NUMBER,
    "extra_mib": (*_NUMBER, type(None)),
    "error_fp64": _NUMBER,
    "deterministic": bool,
    "device": str,
    "threads": int,
    "versions": dict,
    "commit": str,
}
# Beside design.md's columns: how the row came about, and whether the gate let it pass.
EXTRA: dict[str, type | tuple[type, ...]] = {
    "device_type": str,
    "scale": str,
    "floor_ms": _NUMBER,
    "launches": (int, type(None)),
    "rounds": int,
    "sets": int,
    "gated": bool,
    "run": str,
}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def check(row: dict) -> None:
    """ValueError naming the first column that is missing, unknown or out of range."""
    for name, kind in (COLUMNS | EXTRA).items():
        if name not in row:
            raise ValueError(f"a results row lacks the column {name!r}")
        if not isinstance(row[name], kind) or (isinstance(row[name], bool) and kind is not bool):
            raise ValueError(f"column {name!r} of a results row holds {row[name]!r}")
        if isinstance(row[name], float) and not math.isfinite(row[name]):
            raise ValueError(f"column {name!r} of a results row is not finite")
    if unknown := set(row) - set(COLUMNS) - set(EXTRA):
        raise ValueError(f"a results row has unknown columns: {', '.join(sorted(unknown))}")
    if row["direction"] not in DIRECTIONS:
        raise ValueError(f"direction of a results row must be one of {', '.join(DIRECTIONS)}, got {row['direction']!r}")
    if not 0 < row["ms_20"] <= row["ms"] <= row["ms_80"]:
        raise ValueError(f"times of a results row must be positive and ordered, got {row['ms_20']}, {row['ms']}, ...")


def read(path: Path) -> list[dict]:
    """The rows or records of a file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def merge(old: Iterable[dict], new: list[dict]) -> list[dict]:
    """Old rows stay unless the new run measured their operator and case: ratios never mix two runs."""

    def key(row: dict) -> tuple:
        return row["operator"], row["case"], row["device"], row["threads"]

    replaced = {key(row) for row in new}
    kept = [row for row in old if key(row) not in replaced]
    return sorted(kept + new, key=lambda r: (*key(r), DIRECTIONS.index(r["direction"]), r["provider"]))


def write(path: Path, rows: list[dict]) -> None:
    """Check the rows and merge them into a file, one row a line, so that differences are readable."""
    for row in rows:
        check(row)
    lines = ",\n".join(json.dumps(row) for row in merge(read(path), rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f"[\n{lines}\n]\n")
    os.replace(partial, path)


def load(folder: Path = RESULTS) -> list[dict]:
    """All operator rows of a folder that the gate let pass; other JSON files there are somebody else's."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, list) and content and "operator" in content[0]:
            for row in content:
                check(row)
            rows += [row for row in content if row["gated"]]
    return rows


def commit() -> str:
    """Short hash of the tree, with ``-dirty`` where it differs; FASTUDA_COMMIT where there is no repository."""
    if "FASTUDA_COMMIT" in os.environ:
        return os.environ["FASTUDA_COMMIT"]
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
