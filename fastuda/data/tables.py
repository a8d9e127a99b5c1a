"""Label id -> Cityscapes train id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastuda.data.classes import IGNORE, TRAIN_ID_NAMES, ClassSet
from fastuda.data.config import load_yaml
from fastuda.data.errors import DataError, UnknownId

_OUTSIDE = 254  # marks ids that a table does not know; no class set has so many classes

# fmt: off
_CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
               27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
_SYNTHIA = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15, 12: 17,
            11: 18}
# fmt: on


@dataclass(frozen=True)
class IdTable:
    """A named table from label ids (0..65535) to Cityscapes train ids (0..18, 255 = ignore).

    255 belongs to every table. An id that stands in no table is an error of the data, never silently ignored.
    """

    name: str
    mapping: Mapping[int, int]

    def lut(self, classes: ClassSet) -> np.ndarray:
        """(65536,) uint8: label id -> class index of ``classes``, 255 = ignore, 254 = not in the table."""
        table = np.full(65536, _OUTSIDE, np.uint8)
        table[IGNORE] = IGNORE
        for label_id, train_id in self.mapping.items():
            table[label_id] = classes.lut[train_id]
        return table

    def apply(self, lut: np.ndarray, ids: np.ndarray, path: Path) -> np.ndarray:
        """(H, W) uint8 class indices of the ids read from ``path``, through ``lut`` as built by ``lut()``.

        Raises UnknownId for an id outside the table.
        """
        if ids.dtype not in (np.uint8, np.uint16):
            outside = (ids < 0) | (ids > 65535)
            if outside.any():
                raise self._unknown(ids[outside], path)
            ids = ids.astype(np.uint16)
        indices = lut[:256][ids] if ids.dtype == np.uint8 else lut[ids]
        outside = indices == _OUTSIDE
        if outside.any():
            raise self._unknown(ids[outside], path)
        return indices

    def _unknown(self, ids: np.ndarray, path: Path) -> UnknownId:
        found = [str(i) for i in np.unique(ids)]
        plural = "s" if len(found) > 1 else ""
        shown = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "")
        return UnknownId(
            f"the label {path} holds the id{plural} {shown}, which the id table '{self.name}' does not know"
        )


def id_table(name: str, root: Path) -> IdTable:
    """A built-in table (``trainids``, ``cityscapes``, ``synthia``) or one read from a YAML file of ``id: train id``.

    A relative file name is looked up below ``root``. Raises ValueError for a missing file or entries that are no ids.
    """
    if name == "trainids":
        return IdTable(name, {i: i for i in range(len(TRAIN_ID_NAMES))})
    if name == "cityscapes":  # GTA5 and Cityscapes know ids 0..34; those that train nothing are ignored
        return IdTable(name, {i: _CITYSCAPES.get(i, IGNORE) for i in range(35)})
    if name == "synthia":  # 0..22: void, ..., lane marking
        return IdTable(name, {i: _SYNTHIA.get(i, IGNORE) for i in range(23)})
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
