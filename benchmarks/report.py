"""Write the generated parts of README.md from benchmarks/results/: ``python benchmarks/report.py [--check]``.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated: NAME -->``; nobody types figures there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ROWS = {
    "source": "source-only",
    "target_statistics": "target statistics",
    "aligned": "aligned",
    "adapted": "adapted",
    "oracle": "oracle",
}
TASKS = {"streets": "`streets`", "carla_camvid": "T1 `carla_camvid`", "day_dusk": "T3 `day_dusk`"}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def train() -> str:
    """The table of training results, a line a task and seed, and the machine that made them."""
    path = RESULTS / "train_cpu.json"
    if not path.exists():
        return "Not measured yet."
    records = json.loads(path.read_text())
    rows = []
    for record in records:
        scores = {row["name"]: 100 * row["miou"] for row in record["rows"]}
        gap = scores["oracle"] - scores["source"]
        closed = (scores["adapted"] - scores["source"]) / gap
        minutes = record["seconds"]["sdca"] / 60
        rows.append(
            [TASKS[record["task"]], str(record["seed"])]
            + [f"{scores[name]:.1f}" for name in ROWS]
            + [f"{closed:.0%}", f"{minutes:.0f} min"]
        )
    machines = ", ".join(sorted({record["machine"] for record in records}))
    header = ["task", "seed", *ROWS.values(), "gap closed", "time"]
    return (
        f"{table(header, rows)}\n\nMeasured on {machines}; commands and classes in `benchmarks/results/train_cpu.json`."
    )


PARTS = {"train": train}


def render(text: str) -> str:
    """README's text with every generated part written anew; ValueError for a part that nobody generates."""
    for name in re.findall(r"<!-- generated: (\w+) -->", text):
        if name not in PARTS:
            raise ValueError(f"README.md has a generated part '{name}' that benchmarks/report.py does not know")
        begin, end = f"<!-- generated: {name} -->", f"<!-- /generated: {name} -->"
        head, rest = text.split(begin, 1)
        if end not in rest:
            raise ValueError(f"README.md: the generated part '{name}' does not end")
        text = f"{head}{begin}\n{PARTS[name]()}\n{end}{rest.split(end, 1)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where README is out of date")
    options = parser.parse_args()
    path = ROOT / "README.md"
    old = path.read_text()
    new = render(old)
    if options.check:
        if old != new:
            print("README.md is out of date: run python benchmarks/report.py", file=sys.stderr)
        return int(old != new)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
