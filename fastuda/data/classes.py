"""Class sets: those of the field's benchmarks, all written as Cityscapes train ids (0..18), and a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastuda.labels import IGNORE

if TYPE_CHECKING:
    from fastuda.data.tables import IdTable


TRAIN_ID_NAMES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)

TRAIN_ID_COLOURS = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)

_ALL = tuple(range(19))
_SYNTHIA16 = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
_SYNTHIA13 = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
_COMMON11 = (0, 1, 2, 4, 5, 7, 8, 10, 11, 12, 13)
_COMMON11_NAMES = {7: "sign", 13: "vehicle"}
# Finer train ids that count as a coarser class: wall -> building, light -> sign, terrain -> vegetation, ...
_COMMON11_MERGED = ((3, 2), (6, 7), (9, 8), (14, 13), (15, 13), (16, 13), (17, 12), (18, 12))


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of classes; class index k stands for Cityscapes train id ``train_ids[k]`` where there are any.

    merged: pairs (finer train id, train id of the class that it counts as), for coarse class sets.
    colours: RGB of each class; without them those of Cityscapes.
    groups: further means beside mIoU, names of classes by the group's name.
    tables: tables from label ids to these classes by name, of a user's own classes.
    """

    name: str
    names: tuple[str, ...]
    train_ids: tuple[int, ...] = ()
    merged: tuple[tuple[int, int], ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tables: Mapping[str, IdTable] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def lut(self) -> np.ndarray:
        """(256,) uint8: Cityscapes train id -> class index, 255 for every id outside the set."""
        table = np.full(256, IGNORE, np.uint8)
        for index, train_id in enumerate(self.train_ids):
            table[train_id] = index
        for fine, coarse in self.merged:
            table[fine] = table[coarse]
        table.setflags(write=False)
        return table

    @cached_property
    def palette(self) -> np.ndarray:
        """(K, 3) uint8: the RGB colour of each class."""
        colours = np.array(self.colours or [TRAIN_ID_COLOURS[i] for i in self.train_ids], np.uint8)
        colours.setflags(write=False)
        return colours


# Train ids of the means that the literature reports beside mIoU (SYNTHIA's 16 and 13, the rare classes).
_GROUPS = {"miou16": _SYNTHIA16, "miou13": _SYNTHIA13, "tail": (3, 4, 6, 7, 9, 12, 14, 15, 16, 17, 18)}


def _make(name: str, train_ids: tuple[int, ...], merged: tuple[tuple[int, int], ...] = ()) -> ClassSet:
    renamed = _COMMON11_NAMES if merged else {}
    names = {i: renamed.get(i, TRAIN_ID_NAMES[i]) for i in train_ids}
    groups = {group: tuple(names[i] for i in ids) for group, ids in _GROUPS.items() if set(ids) < set(train_ids)}
    pairs = tuple(pair for pair in merged if pair[1] in train_ids)
    return ClassSet(name, tuple(names.values()), train_ids, pairs, groups=groups)


_CLASS_SETS = {
    "cityscapes19": _make("cityscapes19", _ALL),
    "synthia16": _make("synthia16", _SYNTHIA16),
    "synthia13": _make("synthia13", _SYNTHIA13),
    "crosscity13": _make("crosscity13", _SYNTHIA13),
    "common11": _make("common11", _COMMON11, _COMMON11_MERGED),
    "common10": _make("common10", tuple(i for i in _COMMON11 if i != 12), _COMMON11_MERGED),
}


def class_set(classes: str | Mapping[str, Any]) -> ClassSet:
    """The class set of that name, or a user's own as fastuda/data/own_classes.py describes them.

    Raises ValueError for an unknown name, and for whatever is wrong with own classes.
    """
    if isinstance(classes, Mapping):
        from fastuda.data.own_classes import own_classes

        return own_classes(classes, "data.classes")
    if classes not in _CLASS_SETS:
        close = get_close_matches(classes, _CLASS_SETS, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"unknown class set '{classes}'{hint}; there are {', '.join(_CLASS_SETS)}, or your own in a YAML file"
        )
    return _CLASS_SETS[classes]
