"""Scores and labels for the cases of losses over upsampled scores."""

from __future__ import annotations

import dense
import torch
from torch import Tensor

from fastuda.reference._pixels import usable
from fastuda.reference._upsample import taps

SIZES = (
    ((1, 5, 3, 4), (19, 29), "many rows and columns a cell"),
    ((2, 4, 5, 7), (40, 56), "8-fold"),
    ((1, 3, 5, 7), (5, 7), "the same size"),
    ((1, 3, 13, 17), (5, 6), "fewer pixels than nodes"),
    ((1, 4, 1, 6), (9, 31), "one row"),
    ((1, 4, 6, 1), (31, 9), "one column"),
    ((1, 3, 1, 1), (7, 5), "one node"),
    ((1, 3, 4, 5), (1, 1), "one pixel"),
    ((1, 3, 2, 3), (70, 20), "parts of the rows"),
    ((1, 2, 2, 2), (3, 300), "more columns in a cell than threads"),
    ((1, 3, 2, 40), (9, 320), "several tiles"),
    ((1, 2, 2, 300), (3, 301), "tiles of full width"),
    ((3, 2, 3, 3), (1, 40), "one output row"),
    ((1, 2, 2, 300), (3, 40), "many nodes and few columns"),
)


def make(
    shape, size, dtype=torch.float32, label_dtype=torch.int64, layout="nchw", prepare=None, seed=0
) -> tuple[Tensor, Tensor]:
    """As tests/ops has them: labels with ignored and out-of-range ones, any layout. prepare: edits the scores."""
    scores, labels = dense.make(shape, size, torch.float32, label_dtype, seed=seed)
    scores = scores if prepare is None else prepare(scores)
    return dense.lay_out(scores.to(dtype), layout), dense.lay_out_labels(labels, layout)


def unread(scores: Tensor, labels: Tensor, align_corners: bool, ignore_index: int) -> Tensor:
    """Which nodes no valid pixel lies between, (N, 1, h, w)."""
    marks = []
    for i in (0, 1):
        lower, upper, _ = taps(labels.shape[i + 1], scores.shape[i + 2], align_corners, labels.device)
        near = torch.zeros(len(lower), scores.shape[i + 2], dtype=torch.float64)
        marks.append(near.scatter_(1, lower[:, None], 1.0).scatter_(1, upper[:, None], 1.0))
    valid = usable(labels, scores.shape[1], ignore_index)[0].double()
    read = marks[0].T @ valid @ marks[1]
    return (read == 0).unsqueeze(1)
