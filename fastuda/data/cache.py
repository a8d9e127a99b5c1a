"""Decoded images in RAM, within a budget."""

from __future__ import annotations

import mmap
from typing import Protocol

import numpy as np

from fastuda.data.augment import resize_image, resize_label
from fastuda.data.dataset import Dataset

_MIB = 1 << 20


class ImageCache:
    """Decoded and resized uint8 images and labels of one data set, by index; nothing is ever evicted.

    With a fixed ``size`` the cache is one block of memory that forked loading processes share: an image that one of
    them decodes need not be decoded by the others. Only as many images as fit the budget are kept, those of the lowest
    indices; the others are decoded each time. At native size each process keeps the images that it decodes first.

    Args:
        dataset: what to read.
        size: (height, width) in pixels; (0, 0) = native.
        mib: budget in MiB; 0 caches nothing.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int], mib: float) -> None:
        self.dataset = dataset
        self.size = size
        self._mib = mib
        budget = int(mib * _MIB)
        self._images: _Store
        self._labels: _Store
        if size == (0, 0):
            # Labels take a third of the bytes of images.
            share = budget // 4 if dataset.labelled else 0
            self._images, self._labels = _Private(budget - share), _Private(share)
        else:
            pixels = size[0] * size[1] * (4 if dataset.labelled else 3)
            slots = min(len(dataset), budget // pixels)
            self._images = _Shared(slots, (*size, 3))
            self._labels = _Shared(slots if dataset.labelled else 0, size)

    def load(self, index: int, with_label: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        """(image (h, w, 3) uint8, label (h, w) uint8 class indices), not to be written to.

        The label is None where it is not asked for, and then not opened, or where the data set is unlabelled. Raises
        ValueError where the data set does.
        """
        image = self._images.get(index)
        if image is None:
            image = self._images.put(index, resize_image(self.dataset.image(index), self.size))
        if not (with_label and self.dataset.labelled):
            return image, None
        label = self._labels.get(index)
        if label is None:
            # At native size a Synscapes label is smaller than its image.
            label = self._labels.put(index, resize_label(self.dataset.label(index), image.shape[:2]))
        return image, label

    def __getstate__(self) -> dict:
        # Where processes cannot be forked, each starts with an empty cache of its own.
        return {"dataset": self.dataset, "size": self.size, "mib": self._mib}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


class _Store(Protocol):
    def get(self, index: int) -> np.ndarray | None: ...

    def put(self, index: int, array: np.ndarray) -> np.ndarray: ...


class _Shared:
    """Arrays of one shape for indices 0..slots-1, in memory that processes still share after a fork."""

    def __init__(self, slots: int, shape: tuple[int, ...]) -> None:
        self._slots = slots
        if slots:
            size = int(np.prod(shape))
            # Anonymous shared memory: pages are taken when touched, and /dev/shm's limit does not apply.
            flat = np.frombuffer(mmap.mmap(-1, slots * (size + 1)), np.uint8)
            self._filled, self._arrays = flat[:slots], flat[slots:].reshape(slots, *shape)

    def get(self, index: int) -> np.ndarray | None:
        return self._arrays[index] if index < self._slots and self._filled[index] else None

    def put(self, index: int, array: np.ndarray) -> np.ndarray:
        if index < self._slots:
            # Two processes may fill the same place at once: they write the same bytes.
            self._arrays[index] = array
            self._filled[index] = 1
        return array


class _Private:
    """Arrays of any shape up to a number of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._arrays: dict[int, np.ndarray] = {}

    def get(self, index: int) -> np.ndarray | None:
        return self._arrays.get(index)

    def put(self, index: int, array: np.ndarray) -> np.ndarray:
        if array.nbytes <= self._budget:
            self._budget -= array.nbytes
            self._arrays[index] = array
        return array
