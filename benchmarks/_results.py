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
# Further columns: how the row was measured, and the gate's verdict.
#   ms          time on the device of one call, milliseconds: median of the rounds.  On a GPU between two events, after
#               a head start that hides up to about 0.25 ms of the host's work; on a CPU by the clock
#   wall_ms     milliseconds by the clock of one of several calls in a row, with one wait at the end: where it exceeds
#               ms, the host is slower than the device.  None in rows from before it was measured
#   floor_ms    milliseconds that the work takes at least; ceiling_share is floor_ms / ms, 1 at most
#   bound       the ceiling that floor_ms comes from: read, copy, write or operations
#   ceilings    that run's GB/s and GFLOP/s, as roofline.Probe names them
#   gate        "passed", "not judged: why", "refused: why", or "smoke: ..." for sizes that are never published
#   gated       whether gate is "passed": only such rows are published
EXTRA: dict[str, type | tuple[type, ...]] = {
    "device_type": str,
    "scale": str,
    "floor_ms": _NUMBER,
    "launches": (int, type(None)),
    "rounds": int,
    "sets": int,
    "gated": bool,
    "run": str,
    "wall_ms": (*_NUMBER, type(None)),
    "bound": (str, type(None)),
    "ceilings": (dict, type(None)),
    "gate": str,
}
BOUNDS = ("read", "copy", "write", "operations", None)
PASSED = "passed"


def completed(row: dict) -> dict:
    """A row of any age with all of today's columns: None for what was not measured at its time."""
    gate = PASSED if row.get("gated") else "not judged: an older row"
    return {"wall_ms": None, "bound": None, "ceilings": None, "gate": gate} | row


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


CHANGED = "+ changes"


def is_uncommitted(commit: str) -> bool:
    """Whether a row's ``commit`` says that the sources it was measured with are in no commit."""
    return commit.endswith("-dirty")


def tree(row: dict) -> str:
    """The commit that a row was measured at, for a table; marked where the tree held changes beside it."""
    return f"{row['commit'].removesuffix('-dirty')} {CHANGED}" if is_uncommitted(row["commit"]) else row["commit"]


def picture(title: str, path: Path) -> str:
    """A picture in Markdown, for a page in docs/."""
    return f"![{title}](../benchmarks/results/{path.name})"


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
    if row["bound"] not in BOUNDS:
        raise ValueError(f"bound of a results row must be read, copy, write, operations or null, got {row['bound']!r}")
    if row["gated"] != (row["gate"] == PASSED):
        raise ValueError(f"a results row is gated exactly where its gate is {PASSED!r}, got {row['gate']!r}")
    # Rows without a bound are from the time when a matrix library's rate was the ceiling, which a kernel can exceed.
    if row["gated"] and row["bound"] is not None and row["ceiling_share"] > 1:
        raise ValueError(f"a results row takes less time than its floor: {row['ceiling_share']:.1%} of {row['bound']}")


def read(path: Path) -> list[dict]:
    """The rows or records of a file, unchecked; none where there is no file."""
    return json.loads(path.read_text()) if path.exists() else []


def merge(old: Iterable[dict], new: list[dict]) -> list[dict]:
    """Old rows stay unless the new run measured their operator and case: ratios never mix two runs."""

    def key(row: dict) -> tuple:
        return row["operator"], row["case"], row["device"], row["threads"]

    replaced = {key(row) for row in new}
    kept = [row for row in old if key(row) not in replaced]
    return sorted(kept + new, key=lambda r: (*key(r), DIRECTIONS.index(r["direction"]), r["provider"]))


def write(path: Path, rows: list[dict]) -> None:
    """Check the rows and merge them into a file, one row a line, so that a diff shows which rows changed."""
    from fastuda.train.checkpoint import write_atomically  # here, so that report.py runs without torch and fastuda

    for row in rows:
        check(row)
    lines = ",\n".join(json.dumps(row) for row in merge(map(completed, read(path)), rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(f"[\n{lines}\n]\n".encode()))


def load(folder: Path = RESULTS) -> list[dict]:
    """All operator rows of a folder that passed the gate; JSON files of other content are skipped."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, list) and content and "operator" in content[0]:
            for row in map(completed, content):
                check(row)
                rows += [row] if row["gated"] else []
    return rows


# Files that benchmarks write: changes there do not change what is measured.
GENERATED = (":(exclude)benchmarks/results", ":(exclude)README.md", ":(exclude)docs")
SOURCES = ("csrc", "kernels", "fastuda", "benchmarks", "setup.py")


def commit() -> str:
    """Short hash of the commit, with ``-dirty`` where the sources differ from it; FASTUDA_COMMIT where that is set.

    Changes of results and of the pages made of them do not count; source files that git does not track do.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if "FASTUDA_COMMIT" in os.environ:
        return os.environ["FASTUDA_COMMIT"]
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *GENERATED)
        unknown = git("ls-files", "--others", "--exclude-standard", "--", *SOURCES, *GENERATED)
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed or unknown else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
