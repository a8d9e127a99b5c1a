"""Planted faults: replacements in a copy of the sources, which a room's checks must catch.

A room (tests/cuda, tests/cpu, tests/kernels) has a table of ``Mutant`` and a function ``catch(mutant) -> str`` that
builds the mutated copy, runs the checks in a process of their own and returns what caught it, or an empty text. One
that does not compile proves nothing: let the error out. What changes nothing observable is not in the table.
Modules of rooms are imported by name into one pytest process: no two rooms may have a module of the same plain name.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """One replacement in one file (relative to the root given to ``mutate``). ``quick`` ones also run in CI."""

    operator: str
    name: str
    file: str
    search: str
    replace: str
    quick: bool = False


def mutate(mutant: Mutant, root: Path, folder: Path) -> Path:
    """A copy ``folder/<name of root>`` with the mutant in it; ValueError unless its text occurs exactly once."""
    sources = Path(folder) / Path(root).name
    shutil.copytree(root, sources, ignore=shutil.ignore_patterns("__pycache__"))
    path = sources / mutant.file
    text = path.read_text()
    if text.count(mutant.search) != 1:
        raise ValueError(f"{mutant.name}: its text occurs {text.count(mutant.search)} times in {mutant.file}")
    path.write_text(text.replace(mutant.search, mutant.replace))
    return sources


def isolated(work: Callable[..., str], *arguments, timeout: float, method: str = "fork") -> str:
    """``work(*arguments)`` in a child process: its text, or that it crashed, raised or ran longer than ``timeout``.

    ``method`` is "fork" (cheap; ``work`` must not need threads the parent started) or "spawn" (``work`` importable).
    """
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(send, work, arguments))
    child.start()
    send.close()
    try:
        # Waiting for the text, not for the end: a child that was hurt may hang on its way out.
        if not receive.poll(timeout):
            return "does not end"
        return receive.recv()
    except EOFError:
        child.join(timeout)
        return f"crash: exit status {child.exitcode}"
    finally:
        receive.close()
        if child.is_alive():
            child.kill()
        child.join()


def _answer(send, work, arguments) -> None:
    try:
        send.send(work(*arguments))
    except BaseException as error:
        send.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def run_all(table: Sequence[Mutant], catch: Callable[[Mutant], str], result_path: Path, only_new: bool) -> int:
    """Runs the table, writes the JSON after every mutant and returns 0 if at least 95 % are caught (an exit status)."""
    known = json.loads(result_path.read_text())["mutants"] if result_path.exists() else {}
    rows = {m.name: known[m.name] for m in table if m.name in known}
    for mutant in table:
        start = time.perf_counter()
        by = rows.get(mutant.name, {}).get("caught by") if only_new else ""
        by = by or catch(mutant)
        rows[mutant.name] = {"operator": mutant.operator, "file": mutant.file, "caught by": by}
        print(f"{time.perf_counter() - start:6.1f} s  {mutant.name}: {by or 'NOT CAUGHT'}", flush=True)
        ordered = {m.name: rows[m.name] for m in table if m.name in rows}
        share = sum(bool(row["caught by"]) for row in ordered.values()) / len(ordered)
        summary = {"planted": len(ordered), "caught": round(share, 4), "mutants": ordered}
        result_path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return 0 if share >= 0.95 else 1


def check_place(mutant: Mutant, root: Path) -> None:
    """The sources still contain the mutant's text, once, and the mutant changes it."""
    found = (Path(root) / mutant.file).read_text().count(mutant.search)
    assert found == 1, f"{mutant.name}: its text occurs {found} times in {mutant.file}"
    assert mutant.search != mutant.replace


def check_result(table: Sequence[Mutant], result_path: Path, least: dict[str, int]) -> None:
    """The committed JSON is of this table; of each operator at least ``least`` are planted and 95 % caught."""
    result = json.loads(result_path.read_text())["mutants"]
    names = [m.name for m in table]
    assert len(set(names)) == len(names), "two mutants have the same name"
    assert set(result) == set(names), f"{result_path.name} is of another table: run mutants.py --new beside it"
    assert {m.operator for m in table} == set(least)
    for operator, planted in least.items():
        rows = [row["caught by"] for row in result.values() if row["operator"] == operator]
        assert len(rows) >= planted, f"{operator}: {len(rows)} mutants, {planted} wanted"
        assert sum(map(bool, rows)) >= 0.95 * len(rows), f"{operator}: too few mutants are caught"
