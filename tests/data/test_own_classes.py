"""A user's own classes: by ids, by a channel, by colours; and everything that can be wrong with their description."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from fastuda.data.build import build_dataset
from fastuda.data.classes import class_set
from fastuda.data.config import DataConfig, DatasetConfig
from fastuda.data.strict import from_dict
from fastuda.metrics import ConfusionMatrix

OWN = {
    "classes": {"ground": [128, 64, 128], "vehicle": "#00008e", "person": None},
    "ids": {
        "carla": {"read": "red", "map": {"ground": [1, 24], "vehicle": 14, "person": [12]}, "void": "others"},
        "drawn": {
            "read": "colour",
            "map": {"ground": [128, 64, 128], "vehicle": [[0, 0, 142], [0, 0, 70]]},
            "void": [[0, 0, 0]],
        },
        "plain": {"map": {"ground": 0, "vehicle": 1, "person": 2}, "void": [9]},
    },
    "groups": {"moving": ["vehicle", "person"]},
}


def build(files, ids):
    return build_dataset(DatasetConfig(kind="folder", root=str(files.root), ids=ids), class_set(OWN))


def label(files, pixels):
    files.image("images/a.png", *pixels.shape[:2])
    (files.root / "labels").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(files.root / "labels/a.png")


def test_names_and_colours():
    classes = class_set(OWN)
    assert classes.names == ("ground", "vehicle", "person") and classes.num_classes == 3
    assert classes.palette.tolist()[:2] == [[128, 64, 128], [0, 0, 142]] and classes.palette.shape == (3, 3)
    assert class_set({"classes": ["a", "b"]}).names == ("a", "b")
    many = class_set({"classes": [f"c{k}" for k in range(60)]}).palette
    assert len(np.unique(many, axis=0)) == 60, "two classes of one colour cannot be told apart in a picture"


def test_one_channel_as_carla_writes_it(files):
    ids = np.array([[1, 24, 14, 12, 3, 0]], np.uint8)
    rest = np.arange(6, dtype=np.uint8)[None]
    expected = [0, 0, 1, 2, 255, 255]
    for pixels in (np.stack([ids, rest, rest], 2), np.stack([ids, rest, rest, rest + 250], 2)):
        label(files, pixels)
        assert build(files, "carla").label(0)[0].tolist() == expected


def test_colours(files):
    label(files, np.array([[[128, 64, 128], [0, 0, 142], [0, 0, 70], [0, 0, 0]]], np.uint8))
    assert build(files, "drawn").label(0)[0].tolist() == [0, 1, 1, 255]
    label(files, np.array([[[128, 64, 129], [0, 0, 142]]], np.uint8))
    with pytest.raises(ValueError, match=r"the colour \[128, 64, 129\], which the id table 'drawn' does not name"):
        build(files, "drawn").label(0)


def test_ids_and_void(files):
    label(files, np.array([[0, 1, 2, 9, 255]], np.uint8))
    assert build(files, "plain").label(0)[0].tolist() == [0, 1, 2, 255, 255]
    label(files, np.array([[0, 5]], np.uint8))
    with pytest.raises(ValueError, match="holds the id 5, which the id table 'plain' does not name"):
        build(files, "plain").label(0)


def test_the_run_keeps_the_classes_of_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(OWN, sort_keys=False))
    config = from_dict(DataConfig, {"classes": str(path)}, "task.yaml")
    assert config.classes == OWN and class_set(config.classes).names == ("ground", "vehicle", "person")
    with pytest.raises(ValueError, match="cannot read .*none.yaml"):
        from_dict(DataConfig, {"classes": str(tmp_path / "none.yaml")}, "task.yaml")


def test_groups_are_averaged_apart():
    import torch

    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]))
    scores = confusion.scores(class_set(OWN))
    assert scores.subsets == {"moving": pytest.approx(0.5)} and scores.miou == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"classes": {}}, "'classes' must map"),
        ({"classes": {"a": [1, 2]}}, r"colour of class 'a' must be \[red, green, blue\]"),
        ({"classes": {"a": "#12345g"}}, "colour of class 'a'"),
        ({"classes": {3: None}}, "a class's name must be text, not 3"),
        ({"classes": [f"c{k}" for k in range(255)]}, "there are 255 classes, at most 254"),
        ({"ids": {"t": {"map": {"groud": 1}}}}, r"ids.t: there is no class 'groud' \(did you mean 'ground'\?\)"),
        ({"ids": {"t": {"map": {"ground": 1, "vehicle": 1}}}}, "the id 1 belongs to another class already"),
        ({"ids": {"t": {"map": {"ground": -1}}}}, "must be a whole number 0..65535, not -1"),
        ({"ids": {"t": {"map": {"ground": True}}}}, "must be a whole number"),
        ({"ids": {"t": {"read": "alpha", "map": {"ground": 1}}}}, "'read' must be one of id, red"),
        ({"ids": {"t": {}}}, "'map' must name the ids of each class"),
        ({"ids": {"t": {"mapp": {}}}}, r"unknown field 'mapp' \(did you mean 'map'\?\)"),
        ({"groups": {"g": ["persons"]}}, "group 'g' names no class 'persons'"),
        ({"colours": {}}, "unknown field 'colours'"),
    ],
)
def test_whatever_is_wrong_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        class_set({**OWN, **change})
    assert str(caught.value).startswith("data.classes") and "\n" not in str(caught.value)


def test_a_table_must_be_chosen_among_several(files):
    label(files, np.array([[0]], np.uint8))
    with pytest.raises(ValueError, match="there are carla, drawn, plain"):
        build(files, "")
    with pytest.raises(ValueError, match="no id table 'cara'"):
        build(files, "cara")
