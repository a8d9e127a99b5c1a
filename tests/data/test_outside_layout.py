"""Data layouts that live outside this package, and the records of those inside it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fastuda.cli.data import main
from fastuda.data import LAYOUTS, DatasetConfig, build_dataset, class_set, find_layout
from fastuda.data.check import data_config
from fastuda.data.config import DataConfig
from fastuda.data.strict import from_dict

ROOT = Path(__file__).resolve().parents[2]
HARBOUR = """
from fastuda.data import IdTable, Layout

class Harbour(Layout):
    image_folder, label_folder = "frames", "masks"
    label_suffix = "_mask.png"
    ids = IdTable("harbour", {1: 0, 2: 13, 9: 255}, read="red")
    image_size = (12, 20)
"""


@pytest.fixture
def harbour(files, monkeypatch):
    """A module ``harbour`` in the current directory, and two of its images."""
    monkeypatch.chdir(files.root)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    for name in [name for name in sys.modules if name.split(".")[0] in ("harbour", "docks")]:
        monkeypatch.delitem(sys.modules, name)
    files.text("harbour.py", HARBOUR)
    for name in ("a", "b"):
        files.image(f"data/frames/{name}.jpg")
        ids = files.ids([1, 2, 9])
        files.label(f"data/masks/{name}_mask.png", np.stack([ids, ids // 2, 0 * ids], 2))
    yield files
    sys.modules.pop("harbour", None)


def test_a_layout_of_the_current_directory(harbour):
    config = from_dict(DatasetConfig, {"kind": "harbour:Harbour", "root": str(harbour.root / "data")}, "task.yaml")
    dataset = build_dataset(config, class_set("cityscapes19"))
    assert [dataset.name(i) for i in range(len(dataset))] == ["a", "b"]
    assert set(np.unique(dataset.label(1))) == {0, 13, 255}
    unlabelled = build_dataset(DatasetConfig(**{**vars(config), "labelled": False}), class_set("cityscapes19"))
    with pytest.raises(ValueError, match="unlabelled"):
        unlabelled.label(0)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            "harbor:Harbour",
            "",
            "the data layout harbor:Harbour: cannot import harbor .ModuleNotFoundError: No module named 'harbor'; mod",
        ),
        ("harbour.sub:Harbour", "", "cannot import harbour.sub .ModuleNotFoundError"),
        ("harbour:Harbor", "", r"harbour \(.*harbour\.py\) has no Harbor"),
        ("harbour:", "", "must have the form package.module:Class"),
        ("har bour:Harbour", "", "must have the form package.module:Class"),
        ("harbour:IdTable", "", "is no subclass of fastuda.data.Layout"),
        ("harbour:Harbour", "1 / 0\n", "cannot import harbour .ZeroDivisionError: division by zero"),
        ("harbour:Harbour", "import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("harbour:Harbour", "def f(:\n", "cannot import harbour .SyntaxError"),
        (
            "harbour:Port",
            HARBOUR + "class Port(Harbour):\n    def __init__(self, name): ...\n",
            "must be made without arguments",
        ),
    ],
)
def test_whatever_is_wrong_with_it_is_one_sentence(harbour, kind, text, message):
    if text:
        harbour.text("harbour.py", text)
    config = DatasetConfig(kind, str(harbour.root / "data"))
    with pytest.raises(ValueError, match=message) as caught:
        build_dataset(config, class_set("common11"))
    assert "\n" not in str(caught.value)


def test_a_config_alone_imports_nothing():
    config = from_dict(DataConfig, {"source": {"kind": "nowhere_to_be_found:Layout"}}, "task.yaml")
    assert config.source.kind == "nowhere_to_be_found:Layout"


def test_unknown_kinds_name_the_nearest():
    with pytest.raises(ValueError, match=r"no data layout 'citiscapes' \(did you mean 'cityscapes'\?\); there are"):
        find_layout("citiscapes")


def test_every_record_is_whole_and_the_page_lists_it():
    page = (ROOT / "docs/data.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rows - {"kind"} == set(LAYOUTS)
    for kind, layout in LAYOUTS.items():
        assert layout.kind == kind and type(layout).__doc__
        assert layout.label_size is None or layout.image_size is not None


def test_the_page_shows_a_whole_layout_that_runs_as_printed(harbour, capsys):
    page = (ROOT / "docs/extending.md").read_text().split("## A data layout")[1]
    code = page.split("<!-- example: layout -->\n```python\n")[1].split("```")[0]
    task = page.split("```yaml\n")[1].split("```")[0]
    harbour.text("harbour.py", code)
    harbour.text("task.yaml", task)
    for name in ("1", "2"):
        green = harbour.ids([0, 1, 2, 3, 4])
        harbour.image(f"harbour_data/day1/frames/{name}.jpg")
        harbour.label(f"harbour_data/day1/masks/{name}.png", np.stack([0 * green + 9, green, 0 * green], 2))
        harbour.image(f"photos/{name}.jpg")
    assert main(["check", "task.yaml"]) == 0
    assert "source: harbour:Harbour" in (out := capsys.readouterr().out) and "sky" in out
    config = data_config("task.yaml")
    dataset = build_dataset(config.source, class_set("cityscapes19"))
    assert dataset.name(1) == "day1/2" and set(np.unique(dataset.label(1))) == {0, 2, 10, 11, 255}
    with pytest.raises(ValueError, match="the harbour has no splits"):
        build_dataset(DatasetConfig(**{**vars(config.source), "split": "x"}), class_set("cityscapes19"))
