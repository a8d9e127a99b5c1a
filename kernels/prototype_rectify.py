"""Stored soft labels corrected by the class scores of a second head, from one walk over the classes.

A program takes the output rows between two rows of scores at a block of columns, as ``pseudo_labels`` does. Soft
labels of the same resolution lie between the same rows; of another one each output row finds its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES, launch
from fastuda.kernels._launch import kernel
from fastuda.kernels._upsample import read, readable, strides, taps
from fastuda.kernels.pseudo_labels import IGNORED, MOST_CLASSES, cells, this_cell

OTHER_ROWS = 4  # rows of pixels in a program if each needs other rows of soft labels
SMALL = tl.constexpr(2.0**-100)  # a GPU's logarithm may treat smaller numbers as 0
RAISED = tl.constexpr(2.0**64)
LOG_RAISED = tl.constexpr(44.3614195558365)


def serves(scores: Tensor, soft: Tensor, height: int, width: int, temperature: float, align_corners: bool) -> bool:
    """Whether ``prototype_rectify`` takes these arguments: scores of 32 or 16 bits, at most 255 classes."""
    both = readable(scores, height, width) and readable(soft, height, width, (*DTYPES, torch.float64))
    return both and scores.shape[1] <= MOST_CLASSES


def prototype_rectify(
    scores: Tensor, soft: Tensor, height: int, width: int, temperature: float, align_corners: bool
) -> Tensor:
    """(N, height, width) uint8 as fastuda.reference.prototype_rectify; both of any strides."""
    label = scores.new_empty(scores.shape[0], height, width, dtype=torch.uint8)
    same = scores.shape == soft.shape
    grid, tile = cells(scores, height, width, None if same else OTHER_ROWS)
    launch(
        _rectify_cells, grid, scores, soft, label, *scores.shape[1:], *soft.shape[2:], height, width,
        *strides(scores), *strides(soft), 1 / temperature,
        SAME=same, ALIGN=align_corners, **tile,
    )  # fmt: skip
    return label


@triton.jit
def _log(share):
    """Logarithm of a probability, exact for subnormal float32 numbers too; negative ones count as 0."""
    share = tl.where(share < 0, 0.0, share)  # keeps NaN
    small = share < SMALL
    return tl.log(tl.where(small, share * RAISED, share)) - tl.where(small, LOG_RAISED, 0.0)


@kernel()
def _rectify_cells(
    scores, soft, label, classes, h, w, soft_h, soft_w, height, width,
    image_stride, class_stride, row_stride, column_stride,
    soft_image_stride, soft_class_stride, soft_row_stride, soft_column_stride, inverse_temperature,
    SAME: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, cell, begin, end = this_cell(height, h, ALIGN, ROWS)
    scores += image.to(tl.int64) * image_stride
    soft += image.to(tl.int64) * soft_image_stride
    to = label + image.to(tl.int64) * height * width
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = tl.minimum(x, width - 1)
    left, right, along = taps(inside, width, w, ALIGN)
    soft_left, soft_right, soft_along = taps(inside, width, soft_w, ALIGN)
    top, bottom = cell * row_stride, tl.minimum(cell + 1, h - 1) * row_stride
    left, right = left * column_stride, right * column_stride
    soft_left, soft_right = soft_left * soft_column_stride, soft_right * soft_column_stride
    for start in range(begin, end, ROWS * tl.num_programs(2)):
        y = start + tl.arange(0, ROWS)[:, None]
        _, _, down = taps(tl.minimum(y, end - 1), height, h, ALIGN)
        if SAME:
            soft_top, soft_bottom = cell * soft_row_stride, tl.minimum(cell + 1, h - 1) * soft_row_stride
            soft_down = down
        else:
            soft_top, soft_bottom, soft_down = taps(tl.minimum(y, end - 1), height, soft_h, ALIGN)
            soft_top, soft_bottom = soft_top * soft_row_stride, soft_bottom * soft_row_stride
        most = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
        place = tl.zeros([ROWS, COLUMNS], tl.int32)
        logits, shares = scores, soft
        for k in range(classes):
            z = read(logits, top, bottom, left, right, down, along)
            share = read(shares, soft_top, soft_bottom, soft_left, soft_right, soft_down, soft_along)
            value = z * inverse_temperature + _log(share)
            better = (value > most) | (value != value)  # NaN counts as the largest, so that it stays
            most = tl.where(better, value, most)
            place = tl.where(better, k, place)
            logits += class_stride
            shares += soft_class_stride
        kept = tl.where(most > float("-inf"), place, IGNORED)
        tl.store(to + y * width + x, kept.to(tl.uint8), mask=(y < end) & (x < width))
