"""The per-class IoU table of several stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

Stage = Mapping[str, Any]
"""{name, miou, iou: {class: value}} with fractions in 0..1 and None for classes without a score."""


def iou_table(stages: Sequence[Stage]) -> Table:
    """A rich table: a row a class and one for the mean, a column a stage, IoU in per cent, the best of each row bold.

    Classes come in the order of the first stage that names them; "-" marks what a stage has no score for.
    Raises ValueError for an empty list.
    """
    if not stages:
        raise ValueError("there are no stages to tabulate")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("IoU, %")
    for stage in stages:
        table.add_column(str(stage["name"]), justify="right")
    for label, values in _rows(stages):
        if label == "mean":
            table.add_section()
        cells = [percent(v) for v in values]
        best = max((c for c in cells if c != "-"), key=float, default=None) if len(stages) > 1 else None
        table.add_row(label, *(f"[bold]{c}[/bold]" if c == best else c for c in cells))
    return table


def class_table(title: str, columns: Mapping[str, Mapping[str, float | None]]) -> Table:
    """A rich table: a row a class, a column for each of {column: {class: value}}, three digits, "-" for None and NaN.

    Classes come in the order of the first column and must be those of all.  Raises ValueError without a column.
    """
    if not columns:
        raise ValueError("there are no columns to tabulate")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(title)
    for name in columns:
        table.add_column(name, justify="right")
    for name in next(iter(columns.values())):
        values = (column[name] for column in columns.values())
        table.add_row(name, *("-" if v is None or v != v else f"{v:.3g}" for v in values))
    return table


def _rows(stages: Sequence[Stage]) -> list[tuple[str, list[float | None]]]:
    names = dict.fromkeys(name for stage in stages for name in stage["iou"])
    rows = [(name, [stage["iou"].get(name) for stage in stages]) for name in names]
    subsets = dict.fromkeys(name for stage in stages for name in stage.get("subsets", {}))
    means = [(name, [stage.get("subsets", {}).get(name) for stage in stages]) for name in subsets]
    return [*rows, ("mean", [stage["miou"] for stage in stages]), *means]


def percent(value: float | None) -> str:
    """A fraction in per cent with one digit; "-" for None and NaN."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"
