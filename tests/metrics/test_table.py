"""The tables of scores as they are printed."""

import io

import pytest
from rich.console import Console

from fastuda.metrics import class_table, iou_table

STAGES = [
    {"name": "source", "miou": 0.25, "iou": {"road": 0.5, "rider": None}},
    {
        "name": "adapted",
        "miou": 0.4012,
        "iou": {"road": 0.75, "rider": 0.052, "bus": float("nan")},
        "subsets": {"tail": 0.1},
    },
]


def test_the_cells_of_the_printed_table():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(iou_table(STAGES))
    printed = [line.split() for line in console.export_text().splitlines() if line.strip(" ─╶╴━")]
    assert printed == [
        ["IoU,", "%", "source", "adapted"],
        ["road", "50.0", "75.0"],
        ["rider", "-", "5.2"],
        ["bus", "-", "-"],
        ["mean", "25.0", "40.1"],
        ["tail", "-", "10.0"],
    ]


def test_best_of_a_row_is_bold():
    column = iou_table(STAGES).columns[2]._cells
    assert column[:3] == ["[bold]75.0[/bold]", "[bold]5.2[/bold]", "-"]
    assert iou_table(STAGES[:1]).columns[1]._cells[0] == "50.0"


def test_no_stages():
    with pytest.raises(ValueError, match="no stages"):
        iou_table([])


def test_class_table_has_a_row_a_class():
    console = Console(width=80, record=True, file=io.StringIO())
    columns = {"PDD": {"road": 0.12345, "rider": None}, "CCD": {"road": 1234.5, "rider": float("nan")}}
    console.print(class_table("class", columns))
    printed = [line.split() for line in console.export_text().splitlines() if line.strip(" ─╶╴━")]
    assert printed == [["class", "PDD", "CCD"], ["road", "0.123", "1.23e+03"], ["rider", "-", "-"]]
    with pytest.raises(ValueError, match="no columns"):
        class_table("class", {})
