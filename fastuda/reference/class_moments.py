"""Count, mean and centred second moment of the pixel features of each class."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import add_rows, compute_dtype, usable

# Bounds the temporaries: a chunk of centred features instead of a second copy of all of them.
CHUNK_ROWS = 8192
# Counters of cells x classes at once: 16 MiB, where a one-hot of the labels would hold pixels x classes.
CHUNK_COUNTERS = 1 << 22


class Moments(NamedTuple):
    """count int64 (K,); mean (K, A); m2 (K, A), (K, A, A) or None; empty classes hold zeros."""

    count: Tensor
    mean: Tensor
    m2: Tensor | None


def class_moments(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    covariance: Literal["diag", "full"] | None = "diag",
    ignore_index: int = IGNORE,
) -> Moments:
    """n_k = |{i: y_i = k}|,  mean_k = sum x_i / n_k,  m2_k = sum (x_i - mean_k)(x_i - mean_k)^T or its diagonal.

    features: (N, A, H, W) or (P, A); labels: (N, H, W) or (P,), any integer type; a label that is ``ignore_index`` or
    outside 0..K-1 is ignored. Statistics are float64 for float64 features and float32 otherwise. Two passes, so that
    nothing cancels. Memory: one copy of the features if they are not viewable as (P, A), and O(CHUNK_ROWS x A).
    """
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]) if features.dim() == 4 else features
    valid, index = usable(labels.reshape(-1), num_classes, ignore_index)
    index = index.where(valid, num_classes)  # ignored pixels go to a last row that is dropped: no host synchronisation
    dtype = compute_dtype(features)
    chunks = list(zip(rows.split(CHUNK_ROWS), index.split(CHUNK_ROWS), strict=True))

    count = index.new_zeros(num_classes + 1).index_add(0, index, torch.ones_like(index))
    mean = rows.new_zeros(num_classes + 1, rows.shape[1], dtype=dtype)
    for x, y in chunks:
        mean = add_rows(mean, y, x.to(dtype))
    mean = mean / count.clamp_min(1).unsqueeze(1)
    m2 = None
    if covariance == "diag":
        m2 = torch.zeros_like(mean)
        for x, y in chunks:
            m2 = add_rows(m2, y, (x.to(dtype) - mean[y]).square())
        m2 = m2[:-1].clone()
    elif covariance == "full":
        m2 = torch.stack([_scatter_matrix(chunks, k, mean[k]) for k in range(num_classes)])
    return Moments(count[:-1].clone(), mean[:-1].clone(), m2)


def _scatter_matrix(chunks: list[tuple[Tensor, Tensor]], label: int, mean: Tensor) -> Tensor:
    total = mean.new_zeros(len(mean), len(mean))
    with torch.autocast(mean.device.type, enabled=False):  # statistics stay in float32
        for x, y in chunks:
            centred = (x.to(mean.dtype) - mean).where((y == label).unsqueeze(1), 0.0)
            total = total + centred.T @ centred
    return total


def dominant_labels(
    labels: Tensor, height: int, width: int, num_classes: int, min_ratio: float, ignore_index: int = IGNORE
) -> Tensor:
    """The ratio rule of DAFormer (Hoyer et al., CVPR 2022, ``downscale_label_ratio``), which SePiCo uses as well.

    A cell of H/height x W/width label pixels takes the class with the most of them, the lowest one of equals, if its
    share of all the cell's pixels is at least min_ratio (in float32); else -1.  Ignored pixels and labels outside
    0..K-1 count as one more class, the last: they stay in the denominator, and a cell where they lead is -1.

    labels (N, H, W) of any integer type, H and W multiples of height and width.  Returns int32 (N, height, width).
    Memory: 4 (K + 1) + 48 bytes for each cell of a chunk of images; no copy of the labels and no one-hot of them.
    """
    down, across = labels.shape[1] // max(1, height), labels.shape[2] // max(1, width)
    result = labels.new_empty((len(labels), height, width), dtype=torch.int32)
    at_once = max(1, CHUNK_COUNTERS // max(1, height * width * (num_classes + 1)))
    for first in range(0, len(labels), at_once):
        block, out = labels[first : first + at_once], result[first : first + at_once]
        counts = labels.new_zeros(out.numel() * (num_classes + 1), dtype=torch.int32)
        start = torch.arange(0, len(counts), num_classes + 1, device=labels.device)
        one = counts.new_ones(()).expand(len(start))
        for i in range(down):
            for j in range(across):
                y = block[:, i::down, j::across].reshape(-1).long()
                valid = (y >= 0) & (y < num_classes) & (y != ignore_index)
                counts.scatter_add_(0, start + y.where(valid, num_classes), one)  # a cell once each: no collisions
        most, label = counts.view(-1, num_classes + 1).max(1)
        keep = (label < num_classes) & (most.float() / (down * across) >= min_ratio)
        out.copy_(label.where(keep, -1).view(out.shape))
    return result
