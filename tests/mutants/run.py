"""Plants the faults of tests/mutants/ROOM/OPERATOR.py and notes what catches them in tests/mutants/ROOM.json.

    python tests/mutants/run.py ROOM [OPERATOR ...]     all faults of a room (cpu, cuda, kernels), or of some operators
    ... --stale      only those whose record is missing or was made from other sources
    ... --quick      only the quick ones, without writing records; prints those that nothing caught
    python tests/mutants/run.py --list-stale            prints what is stale or missing in all rooms; always succeeds

An operator joins a room by a file named after its source there, with FAULTS: about ten a kernel that differ in kind,
at most one of them ``quick``. A fault that changes nothing observable is not in the table.
Exit status 1: less than 95 % of the room's faults, or less than 90 % of an operator's, are caught.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [p for p in (str(HERE.parent), str(HERE.parents[1])) if p not in sys.path]

from mutants import records  # noqa: E402
from mutants.planted import Fault  # noqa: E402

ROOMS = ("cpu", "cuda", "kernels")
ENOUGH, ENOUGH_OF_ONE = 0.95, 0.9  # of all faults of a room, and of an operator's, must be caught


def room_of(name: str) -> ModuleType:
    return importlib.import_module(f"mutants.{name}_room")


def faults_of(room: str) -> dict[str, list[Fault]]:
    """Operator -> its faults."""
    names = sorted(path.stem for path in (HERE / room).glob("*.py"))
    return {name: importlib.import_module(f"mutants.{room}.{name}").FAULTS for name in names}


def record_path(room: str) -> Path:
    return HERE / f"{room}.json"


def outdated(room: str) -> list[tuple[str, str]]:
    """(operator, title of the fault) of the room whose record is missing or stale."""
    faults, kept = faults_of(room), records.read(record_path(room))
    missing = [(op, f.title) for op, table in faults.items() for f in table if f.title not in kept.get(op, {})]
    return missing + records.stale(faults, room_of(room).SOURCES, kept)


def too_few_caught(kept: records.Records) -> str:
    """Says where too few of a room's faults were caught, or is an empty text."""
    caught = {operator: [bool(row["caught by"]) for row in rows.values()] for operator, rows in kept.items()}
    few = [operator for operator, found in caught.items() if sum(found) < ENOUGH_OF_ONE * len(found)]
    everything = [found for row in caught.values() for found in row]
    if sum(everything) < ENOUGH * len(everything):
        few.append("the room")
    return ", ".join(few)


def run(room_name: str, operators: list[str], stale_only: bool) -> int:
    """Plants one fault after the other and writes the records after each."""
    room, faults, path = room_of(room_name), faults_of(room_name), record_path(room_name)
    wanted = set(outdated(room_name)) if stale_only else None
    kept = records.read(path)
    for operator in operators:
        before, rows = kept.get(operator, {}), {}
        for fault in faults[operator]:
            if wanted is None or (operator, fault.title) in wanted:
                start = time.perf_counter()
                by = room.catch(operator, fault)
                rows[fault.title] = {"source": records.source_of(fault, room.SOURCES), "caught by": by}
                seconds = time.perf_counter() - start
                print(f"{seconds:6.1f} s  {operator}: {fault.title}: {by or 'NOT CAUGHT'}", flush=True)
            # In the table's order; faults not tried yet keep their records, those that left the table lose them.
            known = {f.title: rows.get(f.title) or before.get(f.title) for f in faults[operator]}
            kept[operator] = {title: row for title, row in known.items() if row}
            records.write(path, kept)
    if few := too_few_caught(kept):
        print(f"too few faults are caught: {few}")
    return 1 if few else 0


def run_quick(room_name: str, operators: list[str]) -> int:
    room, faults = room_of(room_name), faults_of(room_name)
    quick = [(operator, fault) for operator in operators for fault in faults[operator] if fault.quick]
    missed = [f"{operator}: {fault.title}" for operator, fault in quick if not room.catch(operator, fault)]
    print("\n".join(["not caught:", *missed]) if missed else f"{len(quick)} faults planted, all caught")
    return 1 if missed or not quick else 0


def list_stale() -> int:
    for room in ROOMS:
        rows, total = outdated(room), sum(map(len, faults_of(room).values()))
        print(f"{room}: the records of {len(rows)} of {total} faults are missing or of other sources")
        for operator in dict.fromkeys(operator for operator, _ in rows):
            print(f"  {operator}: {sum(name == operator for name, _ in rows)}")
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("room", nargs="?", choices=ROOMS)
    parser.add_argument("operator", nargs="*")
    for name in ("stale", "quick", "list-stale"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args(arguments)
    if options.list_stale:
        return list_stale()
    if options.room is None:
        parser.error("which room: cpu, cuda or kernels?")
    if unknown := set(options.operator) - set(faults_of(options.room)):
        parser.error(f"no faults of {', '.join(sorted(unknown))} in tests/mutants/{options.room}")
    operators = options.operator or list(faults_of(options.room))
    room = room_of(options.room)
    if missing := room.missing_tool():
        sys.exit(missing)
    if options.room == "kernels":
        if os.environ.get("TRITON_INTERPRET") != "1":  # Triton chooses the interpreter when it is imported
            environment = room.triton_room.interpreter_environment()
            os.execve(sys.executable, [sys.executable, __file__, *arguments], environment)
        room.prepare()
    return run_quick(options.room, operators) if options.quick else run(options.room, operators, options.stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
