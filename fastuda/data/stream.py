"""Streams of batches: what iteration t of a run sees, as a function of (seed, stage, domain, t) and the slot alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fastuda.data.augment import View, geometric
from fastuda.data.batch import Batch
from fastuda.data.cache import ImageCache
from fastuda.data.config import Augment
from fastuda.data.dataset import Dataset
from fastuda.data.errors import DataError
from fastuda.data.seeding import generator

_ORDER, _GEOMETRY = 0, 1  # last part of a random key: the order of an epoch, or a sample's augmentation


class TrainStream:
    """Batches of one domain for training: ``stream[iteration]``, any iteration in any order.

    Every image is seen once an epoch, in an order drawn from (seed, stage, domain, epoch); with ``weights`` an epoch is
    as many draws with replacement. Iteration t sees one batch of world * batch samples, of which this rank loads the
    slots from rank * batch on: sample ``slot`` is number t * world * batch + slot, and its augmentation is drawn from
    (seed, stage, domain, t, slot). A batch does not depend on what was loaded before, nor on the loading processes.

    Args:
        dataset: where images and labels come from.
        size: (height, width) in pixels that images are resized to before augmentation; (0, 0) = native.
        batch: images per rank and iteration.
        seed, stage, domain: non-negative integers, parts of every key.
        augment: only its geometric fields are used here.
        rank, world: which of how many processes this is.
        weights: (len(dataset),) non-negative sampling weights, or None.
        labels: index -> (h, w) uint8 class indices at ``size``, in place of the data set's labels, such as pseudo
            labels; the data set's labels are then not opened.
        scores: index -> (K, h, w) float16 scores of the whole image at a resolution of their own, or None.
        cache: a cache of the same data set and size, or None.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        size: tuple[int, int],
        batch: int,
        seed: int,
        stage: int,
        domain: int,
        augment: Augment,
        rank: int = 0,
        world: int = 1,
        weights: np.ndarray | None = None,
        labels: Callable[[int], np.ndarray] | None = None,
        scores: Callable[[int], np.ndarray] | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise DataError("the data set holds no images")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        self._dataset, self._batch = dataset, batch
        self._key = (seed, stage, domain)
        self._augment = augment
        self._rank, self._world = rank, world
        self._probabilities = _probabilities(weights, len(dataset))
        self._labels, self._scores = labels, scores
        self._cache = _cache_of(dataset, size, cache)
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, iteration: int) -> Batch:
        """Batch with images (N, 3, h, w) uint8, labels (N, h, w) uint8 or None, index (N,) int64, windows and scores.

        Raises ValueError, naming the file, for whatever is wrong on disk.
        """
        indices = self.indices(iteration)
        first = self._rank * self._batch
        views = [self._sample(iteration, first + slot, int(index)) for slot, index in enumerate(indices)]
        batch = _collate(views, indices, self._dataset)
        if self._scores is None:
            return batch
        return replace(batch, scores=self._scores_of(indices))

    def _scores_of(self, indices: np.ndarray) -> torch.Tensor:
        scores = [self._scores(int(index)) for index in indices]
        for index, one in zip(indices, scores, strict=True):
            if one.shape != scores[0].shape:
                names = (self._dataset.name(int(i)) for i in (indices[0], index))
                raise DataError(
                    f"the scores of the images {' and '.join(names)} differ in size, {scores[0].shape} and "
                    f"{one.shape}, and cannot share a batch: set 'size'"
                )
        return torch.from_numpy(np.stack(scores))

    def indices(self, iteration: int) -> np.ndarray:
        """(batch,) int64: which images of the data set iteration ``iteration`` sees on this rank."""
        first = (iteration * self._world + self._rank) * self._batch
        n = len(self._dataset)
        return np.array([self._order(p // n)[p % n] for p in range(first, first + self._batch)], np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            rng, n = generator(*self._key, epoch, _ORDER), len(self._dataset)
            uniform = self._probabilities is None
            order = rng.permutation(n) if uniform else rng.choice(n, n, p=self._probabilities)
            # A batch may span several epochs of a tiny data set; the orders of earlier epochs are no longer needed.
            while len(self._orders) > 1 + self._batch // n:
                del self._orders[min(self._orders)]
            self._orders[epoch] = order
        return self._orders[epoch]

    def _sample(self, iteration: int, slot: int, index: int) -> View:
        with_label = self._dataset.labelled and self._labels is None
        image, label = self._cache.load(index, with_label)
        if self._labels is not None:
            label = self._labels(index)
            if label.shape != image.shape[:2] or label.dtype != np.uint8:
                raise ValueError(
                    f"the given label of {self._dataset.name(index)} is {label.dtype} {label.shape}, "
                    f"but must be uint8 {image.shape[:2]}"
                )
        # The 0 stands where the key once held the rank: without it, runs of one process would draw other numbers.
        rng = generator(*self._key, iteration, 0, slot, _GEOMETRY)
        return geometric(image, label, self._augment, rng)


class EvalStream:
    """One image a batch, in order, for evaluation: ``stream[i]``.

    Images are resized to ``size`` ((0, 0) = native); labels keep their own native size, at which predictions are
    scored.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int], cache: ImageCache | None = None) -> None:
        self._dataset = dataset
        self._cache = _cache_of(dataset, size, cache)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Batch:
        """Batch with images (1, 3, h, w) uint8, labels (1, H, W) uint8 or None for an unlabelled data set."""
        image, _ = self._cache.load(index, with_label=False)
        images = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        labels = torch.from_numpy(np.array(self._dataset.label(index)))[None] if self._dataset.labelled else None
        return Batch(images, labels, torch.tensor([index]))


def image_weights(dataset: Dataset, cache: ImageCache | None = None) -> np.ndarray:
    """Class-balanced sampling weights of the images of a labelled data set, (len(dataset),) float64 that sum to one.

    With s_ic the share of class c among the labelled pixels of image i, and f_c the class's share of the whole data
    set, the weight of image i is proportional to sum_c s_ic / log(1.01 + f_c): images full of rare classes are seen
    more often (the class weight is that of the released SDCA code). An image without a labelled pixel gets the
    weight of the most frequent class. Reads every label once.

    Raises ValueError for an unlabelled data set.
    """
    if not dataset.labelled:
        raise ValueError("class-balanced sampling needs labels, but the data set is unlabelled")
    classes = dataset.classes.num_classes
    counts = np.zeros((len(dataset), classes))
    for index in range(len(dataset)):
        label = dataset.label(index) if cache is None else cache.load(index)[1]
        counts[index] = np.bincount(label.ravel(), minlength=256)[:classes]
    per_class = 1 / np.log(1.01 + counts.sum(0) / max(counts.sum(), 1))
    pixels = counts.sum(1, keepdims=True)
    weights = np.where(pixels[:, 0] > 0, counts @ per_class / np.maximum(pixels[:, 0], 1), per_class.min())
    return weights / weights.sum()


def _cache_of(dataset: Dataset, size: tuple[int, int], cache: ImageCache | None) -> ImageCache:
    if cache is None:
        return ImageCache(dataset, size, mib=0)
    if cache.dataset is not dataset or cache.size != size:
        raise ValueError("the cache belongs to another data set or size")
    return cache


def _probabilities(weights: np.ndarray | None, n: int) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights, np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(f"weights must be {n} finite numbers, none negative and not all zero")
    return weights / weights.sum()


def _collate(views: list[View], indices: np.ndarray, dataset: Dataset) -> Batch:
    shape = views[0].image.shape
    for view, index in zip(views, indices, strict=True):
        if view.image.shape != shape:
            raise DataError(
                f"images {dataset.name(int(indices[0]))} and {dataset.name(int(index))} differ in size "
                "and cannot share a batch: set 'size' or a crop"
            )
    images = np.empty((len(views), 3, *shape[:2]), np.uint8)
    for slot, view in enumerate(views):
        images[slot] = view.image.transpose(2, 0, 1)
    labels = None if views[0].label is None else torch.from_numpy(np.stack([view.label for view in views]))
    windows = torch.tensor([view.window for view in views], dtype=torch.float32)
    return Batch(torch.from_numpy(images), labels, torch.from_numpy(indices), windows)
