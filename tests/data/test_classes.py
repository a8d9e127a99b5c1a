"""Class sets against the tables of the papers."""

from __future__ import annotations

import numpy as np
import pytest

from fastuda.data.classes import class_set


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("cityscapes19", 19),
        ("synthia16", 16),
        ("synthia13", 13),
        ("crosscity13", 13),
        ("common11", 11),
        ("common10", 10),
    ],
)
def test_every_set_is_consistent(name, count):
    classes = class_set(name)
    assert classes.num_classes == len(classes.names) == len(classes.palette) == count
    assert classes.palette.dtype == np.uint8
    assert [int(classes.lut[i]) for i in classes.train_ids] == list(range(count))
    assert classes.lut.shape == (256,) and classes.lut.dtype == np.uint8
    assert classes.lut[255] == 255 and set(classes.lut[19:]) == {255}


def test_synthia13_lacks_wall_fence_pole():
    sixteen, thirteen = class_set("synthia16"), class_set("synthia13")
    assert set(sixteen.names) - set(thirteen.names) == {"wall", "fence", "pole"}
    assert [int(i) for i in class_set("synthia13").lut[[3, 4, 5]]] == [255] * 3


def test_common11_merges_finer_ids_and_common10_drops_riders():
    expected = [0, 1, 2, 2, 4, 5, 7, 7, 8, 8, 10, 11, 12, 13, 13, 13, 13, 12, 12]  # 19 train ids -> common11 train ids
    eleven, ten = class_set("common11"), class_set("common10")
    assert [eleven.train_ids[eleven.lut[i]] for i in range(19)] == expected
    for train_id, coarse in enumerate(expected):
        assert ten.lut[train_id] == 255 if coarse == 12 else ten.train_ids[ten.lut[train_id]] == coarse
    assert eleven.names[eleven.lut[7]] == "sign" and eleven.names[eleven.lut[13]] == "vehicle"


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown class set 'cityscape19' \(did you mean 'cityscapes19'"):
        class_set("cityscape19")
