"""Pixels of (N, A, H, W) tensors chunk by chunk, and which labels count: shared by the references."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of a chunk of pixels x channels: bounds the temporaries (8 MiB each in float32), near the size of a cache.
CHUNK_ELEMENTS = 1 << 21


def usable(labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which labels count, and labels as int64 that are safe to index with (0 where they do not count)."""
    labels = labels.long()  # comparing uint8 with a number above 255 would wrap around
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    return valid, labels.where(valid, 0)


def compute_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def chunks(features: Tensor) -> Iterator[tuple[slice, slice]]:
    """(images, rows) slices of at most CHUNK_ELEMENTS features, or of one row of pixels."""
    images, channels, height, width = features.shape
    rows = max(1, CHUNK_ELEMENTS // max(1, channels * width))
    at_once = max(1, rows // max(1, height))
    for n in range(0, images, at_once):
        for h in range(0, height, rows):
            yield slice(n, n + at_once), slice(h, h + rows)


def rows(features: Tensor, part: tuple[slice, slice]) -> Tensor:
    return block(features, part, channels=True).reshape(-1, features.shape[1])


def pixels(values: Tensor, part: tuple[slice, slice]) -> Tensor:
    return values[part].reshape(-1)


def block(values: Tensor, part: tuple[slice, slice], channels: bool = False) -> Tensor:
    """The chunk of (N, H, W, ...) or, with ``channels``, of (N, A, H, W) seen as (N, H, W, A)."""
    return (values.permute(0, 2, 3, 1) if channels else values)[part]


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """total[index] += rows, deterministic."""
    if rows.is_cuda:  # index_add is atomic there; accumulating index_put sorts first and is deterministic
        return total.index_put((index,), rows, accumulate=True)
    return total.index_add(0, index, rows)
