"""Label id -> class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastuda.data.classes import IGNORE, TRAIN_ID_NAMES, ClassSet
from fastuda.data.errors import DataError, UnknownId
from fastuda.data.files import Read
from fastuda.data.strict import load_yaml

_OUTSIDE = 254  # marks ids that a table does not name; no class set has so many classes
IDS, COLOURS = 1 << 16, 1 << 24  # values that an id can have, and one made of a colour

# fmt: off
_CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
               27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
_SYNTHIA = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15, 12: 17,
            11: 18}
# fmt: on


@dataclass(frozen=True)
class IdTable:
    """A named table from label ids (0..65535, or colours) to Cityscapes train ids (0..18, 255 = ignore).

    255 is ignored in every table of ids. An id that the table does not name is an error and not silently ignored.

    read: which part of a label file is the id, as ``read_label_ids`` takes it.
    of_classes: the mapping leads to class indices and not to train ids.
    others_void: whether ids that the mapping does not name are ignored instead.
    """

    name: str
    mapping: Mapping[int, int]
    read: Read = "id"
    of_classes: bool = False
    others_void: bool = False

    def lut(self, classes: ClassSet) -> np.ndarray:
        """(65536,) or, of colours, (2^24,) uint8: id -> class index of ``classes``, 255 = ignore, 254 = not named."""
        size = COLOURS if self.read == "colour" else IDS
        table = np.full(size, IGNORE if self.others_void else _OUTSIDE, np.uint8)
        if size == IDS:
            table[IGNORE] = IGNORE
        for label_id, value in self.mapping.items():
            table[label_id] = value if self.of_classes else classes.lut[value]
        return table

    def apply(self, lut: np.ndarray, ids: np.ndarray, path: Path) -> np.ndarray:
        """(H, W) uint8 class indices of the ids read from ``path``, through ``lut`` as built by ``lut()``.

        Raises UnknownId for an id outside the table.
        """
        if ids.dtype not in (np.uint8, np.uint16):
            outside = (ids < 0) | (ids >= len(lut))
            if outside.any():
                raise self._unknown(ids[outside], path)
        indices = lut[:256][ids] if ids.dtype == np.uint8 else lut[ids]
        outside = indices == _OUTSIDE
        if outside.any():
            raise self._unknown(ids[outside], path)
        return indices

    def _unknown(self, ids: np.ndarray, path: Path) -> UnknownId:
        found = np.unique(ids).tolist()
        what, shown = "id", [str(i) for i in found[:8]]
        if self.read == "colour":
            what, shown = "colour", [str([i >> 16, i >> 8 & 255, i & 255]) for i in found[:8]]
        plural, more = "s" if len(found) > 1 else "", " ..." if len(found) > 8 else ""
        return UnknownId(
            f"the label {path} holds the {what}{plural} {', '.join(shown)}{more}, "
            f"which the id table '{self.name}' does not name"
        )


def own_table(name: str, classes: ClassSet) -> IdTable:
    """The table of a user's own classes that a data set's field ``ids`` names; "" chooses the only one.

    Raises DataError where there is none of that name.
    """
    if not name and len(classes.tables) == 1:
        return next(iter(classes.tables.values()))
    if name in classes.tables:
        return classes.tables[name]
    there = f"there are {', '.join(classes.tables)}" if classes.tables else "they have no section 'ids'"
    asked = f"no id table '{name}'" if name else "more than one id table or none, and the field 'ids' names none"
    raise DataError(f"the own classes have {asked}: {there}")


TRAIN_IDS = IdTable("trainids", {i: i for i in range(len(TRAIN_ID_NAMES))})
# GTA5 and Cityscapes have ids 0..34; those that train nothing are ignored.
CITYSCAPES = IdTable("cityscapes", {i: _CITYSCAPES.get(i, IGNORE) for i in range(35)})
# 0..22: void, ..., lane marking.
SYNTHIA = IdTable("synthia", {i: _SYNTHIA.get(i, IGNORE) for i in range(23)})
_NAMED = {table.name: table for table in (TRAIN_IDS, CITYSCAPES, SYNTHIA)}


def id_table(name: str, root: Path) -> IdTable:
    """A built-in table (``trainids``, ``cityscapes``, ``synthia``) or one read from a YAML file of ``id: train id``.

    A relative file name is looked up below ``root``. Raises ValueError for a missing file or entries that are no ids.
    """
    if name in _NAMED:
        return _NAMED[name]
    path = root / name
    if not path.is_file():
        raise DataError(f"the id table '{name}' is neither trainids, cityscapes or synthia nor a file ({path})")
    mapping = load_yaml(path)
    for label_id, train_id in mapping.items():
        known = type(train_id) is int and (0 <= train_id < len(TRAIN_ID_NAMES) or train_id == IGNORE)
        if not (type(label_id) is int and 0 <= label_id <= 65535 and known):
            raise DataError(
                f"the id table {path} must map ids 0..65535 to train ids 0..18 or 255, not '{label_id}' to '{train_id}'"
            )
    return IdTable(str(path), mapping)
