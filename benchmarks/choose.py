"""Rewrite fastuda/ops/_table.py, which says which GPU backend goes first, from rows measured on a card.

    python benchmarks/choose.py RESULTS.json [RESULTS.json ...] [--capability 9.0] [--device NAME] [--ungated]

A form's row for that card is replaced where the files time CUDA C++ and Triton in the same cases; all others stay.
The time of a row is the device's, or the clock's where the host takes longer.  The geometric mean
of the cases' ratios decides.  Rows that the gate refused, or did not judge, count only with --ungated; smoke sizes
never do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import torch

from fastuda.ops import _table
from fastuda.ops._table import Capability, Row
from fastuda.train.checkpoint import write_atomically

TABLE = Path(_table.__file__)
START = "ROWS = (\n"
LINE = 120
ORDERS = {_table.CUDA: "CUDA", _table.TRITON: "TRITON"}
# Operators of benchmarks/ops whose raw operators have another name.
RAW = {"triplet_consistency_loss": "triplet_consistency"}


def form_of(operator: str, case: str, direction: str) -> str | None:
    """The table's form that a row of results times; None if it times several at once, or a form not in the table."""
    forms = {row.form for row in _table.ROWS}
    name = RAW.get(operator, operator)
    if operator == "class_balanced_sample" and case.startswith("per class"):
        name = "sample_per_class"
    elif f"{name}_full" in forms or f"{name}_full_forward" in forms:
        name += "_full" if case.startswith("full") else ""
    if name in forms:
        return name
    return f"{name}_{direction}" if f"{name}_{direction}" in forms else None


def milliseconds(row: dict) -> float:
    """Milliseconds of a call: the larger of the device's time and the host's."""
    return max(row["ms"], row.get("wall_ms") or 0)


def ratios(rows: list[dict]) -> dict[str, list[float]]:
    """{form: Triton's time over CUDA C++'s in each case that both served}."""
    times: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in rows:
        form = form_of(row["operator"], row["case"], row["direction"])
        if form and row["provider"] in ("cuda", "triton"):
            times[form, row["case"], row["direction"]][row["provider"]] = milliseconds(row)
    found: dict[str, list[float]] = defaultdict(list)
    for (form, _, _), of in sorted(times.items()):
        if len(of) == 2:
            found[form].append(of["triton"] / of["cuda"])
    return dict(found)


def decide(form: str, capability: Capability, device: str, found: list[float]) -> Row:
    """The row of a form for a card, from its ratios."""
    mean = math.exp(sum(map(math.log, found)) / len(found))
    order = _table.CUDA if mean >= 1 else _table.TRITON
    faster = sum((ratio >= 1) == (mean >= 1) for ratio in found)
    all_of = f"{faster} case{'s' if faster > 1 else ''}"
    cases = f"in {all_of if faster == len(found) else f'{faster} of {len(found)} cases'}"
    return Row(form, capability, order, f"measured on {device}, {order[0]} {max(mean, 1 / mean):.1f}x faster {cases}")


def updated(old: tuple[Row, ...], new: list[Row]) -> list[Row]:
    """The table with new rows in place of those of the same form and capability, newest cards first in each form."""
    measured = {(row.form, row.oldest): row for row in new}
    rows = []
    for form in dict.fromkeys(row.form for row in old):
        kept = {row.oldest: row for row in old if row.form == form}
        kept |= {row.oldest: row for (name, _), row in measured.items() if name == form}
        rows += [kept[oldest] for oldest in sorted(kept, reverse=True)]
    return rows


def line(row: Row) -> str:
    """A row as Python, as ruff formats it."""
    values = [json.dumps(row.form), str(row.oldest), ORDERS[row.order], json.dumps(row.reason)]
    text = f"    Row({', '.join(values)}),\n"
    return text if len(text) <= LINE else "    Row(\n" + "".join(f"        {value},\n" for value in values) + "    ),\n"


def capability_of(device: str, given: str | None) -> Capability:
    """The compute capability of the card that the rows come from; ValueError if it cannot be found out."""
    if given:
        major, _, minor = given.partition(".")
        if not (major.isdigit() and minor.isdigit()):
            raise ValueError(f"--capability must be as 9.0, got {given!r}")
        return int(major), int(minor)
    for index in range(torch.cuda.device_count()):
        if torch.cuda.get_device_name(index) == device:
            return torch.cuda.get_device_capability(index)
    raise ValueError(f"{device} is not a card of this machine: give its compute capability by --capability")


def measured_rows(paths: list[Path], device: str | None, ungated: bool) -> tuple[str, list[dict]]:
    """(device, rows that count) of results files; ValueError if there are none or of several devices."""
    rows = []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        content = json.loads(path.read_text())
        if not isinstance(content, list) or not all(isinstance(row, dict) and "operator" in row for row in content):
            raise ValueError(f"{path} does not hold the rows of operators")
        rows += [row for row in content if row["device_type"] == "cuda" and row["scale"] != "smoke"]
    rows = [row for row in rows if (row["gated"] or ungated) and device in (None, row["device"])]
    devices = sorted({row["device"] for row in rows})
    if not devices:
        raise ValueError(
            f"{' and '.join(map(str, paths))} hold no row that counts and was measured on {device or 'a GPU'}"
        )
    if len(devices) > 1:
        raise ValueError(f"the rows are of {', '.join(devices)}: name one by --device")
    return devices[0], rows


def read_table(path: Path) -> tuple[str, tuple[Row, ...]]:
    """(text before the rows, rows) of a table's file; ValueError if the file holds no table."""
    text = path.read_text()
    if START not in text:
        raise ValueError(f"{path} has no line {START.strip()!r}")
    spec = importlib.util.spec_from_file_location("table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text[: text.index(START)], tuple(Row(*row) for row in module.ROWS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--capability", help="the card's compute capability, as 9.0; default: that of the card here")
    parser.add_argument("--device", help="the card's name in the rows, where a file holds several")
    parser.add_argument("--ungated", action="store_true", help="count rows that the gate refused or did not judge")
    parser.add_argument("--table", type=Path, default=TABLE, help="the file to rewrite; default: the package's")
    options = parser.parse_args(arguments)
    try:
        device, rows = measured_rows(options.results, options.device, options.ungated)
        capability = capability_of(device, options.capability)
        head, old = read_table(options.table)
    except ValueError as error:
        parser.error(str(error))
    new = [decide(form, capability, device, found) for form, found in ratios(rows).items()]
    body = "".join(map(line, updated(old, new)))
    write_atomically(options.table, lambda file: file.write(f"{head}{START}{body})\n".encode()))
    for row in new:
        print(f"{row.form}: {' before '.join(row.order)}, {row.reason}")
    print(f"{len(new)} rows of {options.table} were measured; all others stay")
    return 0


if __name__ == "__main__":
    sys.exit(main())
