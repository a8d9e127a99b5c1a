"""Target labels are never opened, listed or looked at: proven with labels that cannot be read and a record of every
path the process touches."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from fastuda.data.build import build_dataset, build_domains
from fastuda.data.check import check
from fastuda.data.classes import class_set
from fastuda.data.config import Augment, DataConfig, DatasetConfig
from fastuda.data.loader import loader
from fastuda.data.stream import EvalStream, TrainStream

_touched: list[str] | None = None


def _hook(event, arguments):
    if _touched is not None and event in ("open", "os.scandir", "os.listdir") and arguments:
        _touched.append(str(arguments[0]))


sys.addaudithook(_hook)


@pytest.fixture
def touched(monkeypatch):
    """Every path opened, listed or passed to os.stat while the test runs."""
    global _touched
    record: list[str] = []
    stat = os.stat

    def recording(path, *args, **kwargs):
        record.append(str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", recording)
    _touched = record
    yield record
    _touched = None


def layout(files, kind):
    """Two images with garbage for labels; returns the config and the directory that must not be touched."""
    names = {
        "gta5": ("images/{}.png", "labels/{}.png", {}),
        "synthia": ("RGB/{}.png", "GT/LABELS/{}.png", {}),
        "synscapes": ("img/rgb-2k/{}.png", "img/class/{}.png", {}),
        "cityscapes": (
            "leftImg8bit/train/ulm/{}_leftImg8bit.png",
            "gtFine/train/ulm/{}_gtFine_labelIds.png",
            {"split": "train"},
        ),
        "crosscity": ("Rome/Images/Test/{}.png", "Rome/Labels/Test/{}_eval.png", {"city": "Rome", "split": "Test"}),
        "folder": ("images/{}.png", "labels/{}.png", {}),
    }
    image, label, extra = names[kind]
    for name in "ab":
        files.image(image.format(name))
        files.text(label.format(name), "garbage")
    top = label.split("/")[0] if kind in ("gta5", "folder", "cityscapes") else label.rsplit("/", 1)[0]
    return DatasetConfig(kind, str(files.root), labelled=False, **extra), str(files.root / top)


KINDS = ["gta5", "synthia", "synscapes", "cityscapes", "crosscity", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_data_never_touch_labels(files, kind, touched):
    config, labels = layout(files, kind)
    touched.clear()
    dataset = build_dataset(config, class_set("common11"))
    stream = TrainStream(dataset, size=(8, 8), batch=2, seed=0, stage=0, domain=1, augment=Augment(flip=0.5))
    batches = list(loader(stream, 0, 3)) + [EvalStream(dataset, (8, 8))[0]]
    assert all(batch.labels is None for batch in batches)
    with pytest.raises(ValueError, match="the data set is unlabelled"):
        dataset.label(0)
    assert any("a" in os.path.basename(path) for path in touched), "the recorder saw nothing"
    assert not [path for path in touched if path.startswith(labels)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_would_show_it(files, kind, touched):
    config, labels = layout(files, kind)
    touched.clear()
    dataset = build_dataset(DatasetConfig(**{**vars(config), "labelled": True}), class_set("common11"))
    with pytest.raises(ValueError, match="cannot be read"):
        dataset.label(0)
    assert [path for path in touched if path.startswith(labels)]


def test_a_task_never_touches_target_labels_whatever_its_config_says(files, touched):
    files.gta5("source", 2)
    target, labels = layout(files, "gta5")
    config = DataConfig(
        source=DatasetConfig("gta5", str(files.root / "source")),
        target=DatasetConfig("gta5", target.root, labelled=True),
        validation=DatasetConfig("gta5", str(files.root / "source")),
    )
    touched.clear()
    domains = build_domains(config)
    assert not domains.target.labelled and domains.source.labelled
    lines: list[str] = []
    assert check(config, say=lines.append)
    assert any("labels not opened" in line for line in lines)
    assert not [path for path in touched if path.startswith(labels)]


def test_given_labels_replace_those_of_the_data_set(files, touched):
    config, labels = layout(files, "gta5")
    (files.root / "labels/a.png").unlink()
    dataset = build_dataset(config, class_set("common11"))
    touched.clear()
    given = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    options = {"size": (8, 8), "batch": 2, "seed": 0, "stage": 0, "domain": 1, "augment": Augment()}
    batch = TrainStream(dataset, **options, labels=lambda i: given[i])[0]
    for slot, index in enumerate(batch.index.tolist()):
        assert np.array_equal(batch.labels[slot].numpy(), given[index])
    with pytest.raises(ValueError, match=r"given label of [ab] is uint8 \(4, 4\), but must be uint8 \(8, 8\)"):
        TrainStream(dataset, **options, labels=lambda i: given[i, :4, :4])[0]
    assert not [path for path in touched if path.startswith(labels)]
