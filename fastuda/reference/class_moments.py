"""Count, mean and centred second moment of the pixel features of each class."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

# Bounds the temporaries: a chunk of centred features instead of a second copy of all of them.
CHUNK_ROWS = 8192


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
    ignore_index: int = 255,
) -> Moments:
    """n_k = |{i: y_i = k}|,  mean_k = sum x_i / n_k,  m2_k = sum (x_i - mean_k)(x_i - mean_k)^T or its diagonal.

    features: (N, A, H, W) or (P, A); labels: (N, H, W) or (P,), any integer type; a label that is ``ignore_index`` or
    outside 0..K-1 is ignored. Statistics are float64 for float64 features and float32 otherwise. Two passes, so that
    nothing cancels. Memory: one copy of the features if they are not viewable as (P, A), and O(CHUNK_ROWS x A).
    """
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]) if features.dim() == 4 else features
    index = labels.reshape(-1).long()
    valid = (index >= 0) & (index < num_classes) & (index != ignore_index)
    index = index.where(valid, num_classes)  # ignored pixels go to a last row that is dropped: no host synchronisation
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    chunks = list(zip(rows.split(CHUNK_ROWS), index.split(CHUNK_ROWS), strict=True))

    count = index.new_zeros(num_classes + 1).index_add(0, index, torch.ones_like(index))
    mean = rows.new_zeros(num_classes + 1, rows.shape[1], dtype=dtype)
    for x, y in chunks:
        mean = _add_rows(mean, y, x.to(dtype))
    mean = mean / count.clamp_min(1).unsqueeze(1)
    m2 = None
    if covariance == "diag":
        m2 = torch.zeros_like(mean)
        for x, y in chunks:
            m2 = _add_rows(m2, y, (x.to(dtype) - mean[y]).square())
        m2 = m2[:-1].clone()
    elif covariance == "full":
        m2 = torch.stack([_scatter_matrix(chunks, k, mean[k]) for k in range(num_classes)])
    return Moments(count[:-1].clone(), mean[:-1].clone(), m2)


def _add_rows(total: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    if rows.is_cuda:  # index_add is atomic there; accumulating index_put sorts first and is deterministic
        return total.index_put((index,), rows, accumulate=True)
    return total.index_add(0, index, rows)


def _scatter_matrix(chunks: list[tuple[Tensor, Tensor]], label: int, mean: Tensor) -> Tensor:
    total = mean.new_zeros(len(mean), len(mean))
    with torch.autocast(mean.device.type, enabled=False):  # statistics stay in float32
        for x, y in chunks:
            centred = (x.to(mean.dtype) - mean).where((y == label).unsqueeze(1), 0.0)
            total = total + centred.T @ centred
    return total
