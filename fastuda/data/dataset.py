"""What a data set is, and data sets made of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from fastuda.data.classes import ClassSet
from fastuda.data.errors import DataError, SizeMismatch
from fastuda.data.files import image_size, label_size, read_image, read_label_ids
from fastuda.data.tables import IdTable


@runtime_checkable
class Dataset(Protocol):
    """Images of one domain, decoded on demand.

    An unlabelled data set never opens or lists label files, and never asks whether they exist.
    """

    classes: ClassSet
    labelled: bool

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File or scene name, unique in the data set."""

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB at native size. Raises ValueError for an unreadable file."""

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of ``image``, which is not decoded for it. Raises ValueError for an unreadable file."""

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8 class indices 0..K-1, 255 = ignore, at native size.

        Raises ValueError when the data set is unlabelled, or for an unreadable file, an id outside the table or a
        size that differs from the image's.
        """


class Entry(NamedTuple):
    """One image on disk; ``label`` is None in an unlabelled data set."""

    name: str
    image: Path
    label: Path | None


class FileDataset:
    """Images and, where labelled, label maps in files.

    Args:
        classes: the class set that labels are mapped to.
        entries: one per image.
        table: label id -> Cityscapes train id.
        labelled: whether labels may be read.
        same_size: False accepts a label of the image's aspect ratio but of another size (Synscapes).
    """

    def __init__(
        self, classes: ClassSet, entries: Sequence[Entry], table: IdTable, labelled: bool, same_size: bool = True
    ) -> None:
        self.classes = classes
        self.labelled = labelled
        self._entries = list(entries)
        self._lut = table.lut(classes)
        self._table = table
        self._same_size = same_size

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        return self._entries[index].name

    def image_path(self, index: int) -> Path:
        return self._entries[index].image

    def label_path(self, index: int) -> Path:
        path = self._entries[index].label
        if not self.labelled or path is None:
            raise DataError(f"the label of {self.image_path(index)} was asked for, but the data set is unlabelled")
        return path

    def image(self, index: int) -> np.ndarray:
        return read_image(self.image_path(index))

    def image_size(self, index: int) -> tuple[int, int]:
        return image_size(self.image_path(index))

    def label(self, index: int) -> np.ndarray:
        return self.to_classes(index, self.ids(index))

    def ids(self, index: int) -> np.ndarray:
        """(H, W) label ids as stored, before the table. Raises ValueError as ``label`` does."""
        path = self.label_path(index)
        # The size in the header is compared first: a file of a few kilobytes can unpack to gigabytes.
        self._check_size(index, path, label_size(path))
        return read_label_ids(path, self._table.read)

    def to_classes(self, index: int, ids: np.ndarray) -> np.ndarray:
        """(H, W) uint8 class indices of the ids of image ``index``. Raises ValueError for an id outside the table."""
        return self._table.apply(self._lut, ids, self.label_path(index))

    def _check_size(self, index: int, path: Path, label: tuple[int, ...]) -> None:
        image = self.image_size(index)
        same_aspect = image[0] * label[1] == image[1] * label[0]
        if image != tuple(label) and (self._same_size or not same_aspect):
            raise SizeMismatch(
                f"the image {self.image_path(index)} is {image[1]}x{image[0]} pixels (width x height) "
                f"but its label {path} is {label[1]}x{label[0]}"
            )


class Unlabelled:
    """The images of a data set without its labels."""

    labelled = False

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.classes = dataset.classes

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        return self._dataset.name(index)

    def image(self, index: int) -> np.ndarray:
        return self._dataset.image(index)

    def image_size(self, index: int) -> tuple[int, int]:
        return self._dataset.image_size(index)

    def label(self, index: int) -> np.ndarray:
        raise DataError(f"the label of {self.name(index)} was asked for, but the data set is unlabelled")
