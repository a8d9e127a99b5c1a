"""Judge the journals of benchmark sessions and move their rows into a results file.

    python benchmarks/rows.py JOURNAL... --results benchmarks/results/     rows that the gate lets pass
    python benchmarks/rows.py JOURNAL... --results FOLDER --ungated        all rows, marked with the gate's verdict
    python benchmarks/rows.py JOURNAL...                                   only lists what is in them
    python benchmarks/rows.py JOURNAL... --finished                        exit status 0 if each came to its end
    python benchmarks/rows.py JOURNAL... --failures                        a line for each row that failed

A session does the same when it ends; this command is for sessions that were killed, and for sessions of several
backends whose rows belong to one run (the rows of all given journals replace older rows of their cases together).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import _journal
import _results


def save(rows: Sequence[dict], path: Path, ungated: bool) -> tuple[str, int]:
    """Write rows into a results file, or <device>.json of a folder; (a sentence about it, number of rows left out)."""
    import _gate
    import roofline

    kept = list(rows) if ungated else _gate.publishable(rows)
    left_out = len(rows) - len(kept)
    because = f"; {left_out} rows of cases that the gate refused were left out (--ungated writes them, marked)"
    if not kept:
        return f"wrote no rows to {path}{because if left_out else ''}", left_out
    by_file: dict[Path, list[dict]] = {}
    for row in kept:
        file = path / f"{roofline.slug(row['device'])}.json" if path.is_dir() else path
        by_file.setdefault(file, []).append(row)
    for file, file_rows in by_file.items():
        _results.write(file, file_rows)
    written = " and ".join(f"{len(file_rows)} rows to {file}" for file, file_rows in by_file.items())
    return f"wrote {written}{because if left_out else ''}", left_out


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journals", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, help="JSON file of the rows, or a folder for <device>.json")
    parser.add_argument("--ungated", action="store_true", help="write what the gate refused too, marked")
    parser.add_argument("--finished", action="store_true", help="say only whether every session came to its end")
    parser.add_argument("--failures", action="store_true", help="say only what failed")
    options = parser.parse_args(given)
    records = {path: _journal.read(path) for path in options.journals}
    failed = [line for journal in records.values() for line in _journal.failures(journal)]
    if options.failures:
        print("\n".join(failed), end="\n" if failed else "")
        return 0
    if options.finished:
        return int(not all(map(_journal.finished, records.values())))
    import _gate  # here, because importing torch takes seconds and is not needed above

    rows = [row for journal in records.values() for row in _gate.judge(journal)]
    gates = [row["gate"].split(":")[0] for row in rows]
    print(f"{len(rows)} rows:", ", ".join(f"{gates.count(gate)} {gate}" for gate in dict.fromkeys(gates)) or "none")
    for why in _gate.objections(rows):
        print(f"  {why}")
    for line in failed:
        print(f"failed: {line}")
    left_out = 0
    if options.results is not None:
        dry = any(record.get("dry") for journal in records.values() for record in journal)
        if dry:
            print("rows of a dry run are never written to a results file", file=sys.stderr)
            return 2
        sentence, left_out = save(rows, options.results, options.ungated)
        print(sentence)
    return int(bool(failed or left_out))


if __name__ == "__main__":
    sys.exit(main())
