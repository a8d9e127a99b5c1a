"""What caught each planted fault, as committed: tests/mutants/<room>.json, operator -> fault -> source, caught by.

``source`` is a hash of the fault's file with the fault in it, without comments, includes and white space. A record with
another hash was made from other sources: it is stale until ``run.py ROOM OPERATOR --stale`` makes it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from mutants.planted import Fault, planted

PYTHON_COMMENTS = re.compile(r'#.*|^\s*"""[\s\S]*?"""', re.MULTILINE)  # and docstrings
CPP_COMMENTS = re.compile(r"//.*|^\s*#include.*", re.MULTILINE)
Records = dict[str, dict[str, dict[str, str]]]


def source_hash(file: str, text: str) -> str:
    """A hash of what a compiler reads of a file's text."""
    code = (PYTHON_COMMENTS if file.endswith(".py") else CPP_COMMENTS).sub("", text)
    return hashlib.sha256("".join(code.split()).encode()).hexdigest()[:16]


def source_of(fault: Fault, root: Path) -> str:
    return source_hash(fault.file, planted(fault, (Path(root) / fault.file).read_text()))


def read(path: Path) -> Records:
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, records: Records) -> None:
    """One line a fault, operators by name."""
    operators = []
    for operator, rows in sorted(records.items()):
        lines = (f"  {_text(name)}: {_text(row)}" for name, row in rows.items())
        operators.append(f" {_text(operator)}: {{\n" + ",\n".join(lines) + "\n }")
    temporary = path.with_suffix(".json.partial")
    with temporary.open("w") as file:
        file.write("{\n" + ",\n".join(operators) + "\n}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def stale(faults: dict[str, list[Fault]], root: Path, records: Records) -> list[tuple[str, str]]:
    """(operator, title of the fault) of the records that were made from other sources than those below ``root``."""
    return [
        (operator, fault.title)
        for operator, table in faults.items()
        for fault in table
        if fault.title in records.get(operator, {})
        and records[operator][fault.title]["source"] != source_of(fault, root)
    ]
