"""Histograms of the largest probability of upsampled scores by predicted class, counted by integer atomics.

Programs walk as those of ``pseudo_labels``. Confident pixels all meet in the last bin: those of a program are counted
by class in shared memory first; the others are spread over many bins.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import block, launch
from fastuda.kernels._launch import kernel
from fastuda.kernels._upsample import readable, strides, taps
from fastuda.kernels.pseudo_labels import MOST_CLASSES, best_logit, best_probability, cells, this_cell

MOST_BINS = 2**22  # up to which float32 represents the number of each bin exactly


def serves(scores: Tensor, height: int, width: int, bins: int, probabilities: bool, align_corners: bool) -> bool:
    """Whether ``confidence_histogram`` takes these arguments: scores of 32 or 16 bits, at most 255 classes."""
    return scores.shape[1] <= MOST_CLASSES and bins <= MOST_BINS and readable(scores, height, width)


def confidence_histogram(
    scores: Tensor, height: int, width: int, bins: int, probabilities: bool, align_corners: bool
) -> Tensor:
    """(K, bins) int64 as fastuda.reference.confidence_histogram; scores of any strides."""
    counts = torch.zeros(scores.shape[1], bins, dtype=torch.int64, device=scores.device)
    grid, tile = cells(scores, height, width)
    launch(
        _count_cells, grid, scores, counts, *scores.shape[1:], height, width, *strides(scores), bins,
        PROBABILITIES=probabilities, ALIGN=align_corners, LABELS=label_bins(scores.shape[1]), **tile,
    )  # fmt: skip
    return counts


def label_bins(classes: int) -> int:
    """Bins of the classes, and of one more class for pixels that are not counted."""
    return block(classes + 1, 32, 256)


@triton.jit
def count_pixels(counts, label, confidence, counted, bins, LABELS: tl.constexpr, PIXELS: tl.constexpr):
    """Adds pixels to their bins, except for each class's last bin, whose counts (LABELS,) are returned."""
    place = tl.minimum(tl.maximum(confidence * bins, 0.0), bins - 1.0).to(tl.int32)
    last = place == bins - 1
    at = counts + label.to(tl.int64) * bins + place
    tl.atomic_add(at, tl.full(label.shape, 1, tl.int64), mask=counted & ~last, sem="relaxed")
    return tl.histogram(tl.reshape(tl.where(counted & last, label, LABELS - 1), [PIXELS]), LABELS)


@triton.jit
def add_last_bins(counts, number, classes, bins, LABELS: tl.constexpr):
    k = tl.arange(0, LABELS)
    at = counts + k.to(tl.int64) * bins + (bins - 1)
    tl.atomic_add(at, number.to(tl.int64), mask=(k < classes) & (number > 0), sem="relaxed")


@kernel()
def _count_cells(
    scores, counts, classes, h, w, height, width, image_stride, class_stride, row_stride, column_stride, bins,
    PROBABILITIES: tl.constexpr, ALIGN: tl.constexpr, LABELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, cell, begin, end = this_cell(height, h, ALIGN, ROWS)
    scores += image.to(tl.int64) * image_stride
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    left, right, along = taps(tl.minimum(x, width - 1), width, w, ALIGN)
    top, bottom = cell * row_stride, tl.minimum(cell + 1, h - 1) * row_stride
    left, right = left * column_stride, right * column_stride
    number = tl.zeros([LABELS], tl.int32)
    for start in range(begin, end, ROWS * tl.num_programs(2)):
        y = start + tl.arange(0, ROWS)[:, None]
        _, _, down = taps(tl.minimum(y, end - 1), height, h, ALIGN)
        if PROBABILITIES:
            k, p = best_probability(
                scores, None, classes, class_stride, 0, top, bottom, left, right, down, along, False, ROWS, COLUMNS
            )
        else:
            k, p = best_logit(
                scores, None, classes, class_stride, 0, top, bottom, left, right, down, along, False, ROWS, COLUMNS
            )
        counted = (y < end) & (x < width) & (p == p)
        number += count_pixels(counts, k, p, counted, bins, LABELS, ROWS * COLUMNS)
    add_last_bins(counts, number, classes, bins, LABELS)
