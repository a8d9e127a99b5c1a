"""Labels and confidences of upsampled scores, from one walk over the classes.

A program takes the output rows between two rows of scores (a cell) at a block of columns: the four scores around a
column are read and lerped along once for all of its rows. Of logits the softmax's sum is kept relative to the largest
so far, so that no score is kept. Nothing is stored but the results.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, float32, uint8

from fastuda.kernels._common import block, cdiv, launch
from fastuda.kernels._launch import kernel
from fastuda.kernels._upsample import first_position, read, readable, rows_of_a_cell, strides, taps

MOST_CLASSES = 255
COLUMNS = 128  # columns of a program
MOST_ROWS = 8  # rows that a program holds at a time
MOST_PARTS = 64  # programs that share a cell and its columns
MOST_REGISTERS = 128  # set explicitly: otherwise the assembler spills registers to fit more warps
IGNORED = tl.constexpr(255)
LEAST_THRESHOLD = tl.constexpr(1e-30)
LOWEST = tl.constexpr(-3.4028234663852886e38)


def serves(
    scores: Tensor, threshold: Tensor, height: int, width: int, probabilities: bool, balanced: bool,
    align_corners: bool, with_confidence: bool,
) -> bool:  # fmt: skip
    """Whether ``pseudo_labels`` takes these arguments: scores of 32 or 16 bits, at most 255 classes."""
    return scores.shape[1] <= MOST_CLASSES and readable(scores, height, width)


def pseudo_labels(
    scores: Tensor, threshold: Tensor, height: int, width: int, probabilities: bool, balanced: bool,
    align_corners: bool, with_confidence: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(label, confidence) as fastuda.reference.pseudo_labels; scores of any strides."""
    shape = scores.shape[0], height, width
    label = scores.new_empty(shape, dtype=uint8)
    confidence = scores.new_empty(shape if with_confidence else (0,), dtype=float32)
    grid, tile = cells(scores, height, width)
    launch(
        _label_cells, grid, scores, threshold, label, confidence if with_confidence else None,
        *scores.shape[1:], height, width, *strides(scores), *strides(threshold),
        PROBABILITIES=probabilities, BALANCED=balanced, ALIGN=align_corners, **tile,
    )  # fmt: skip
    return label, confidence


def cells(
    scores: Tensor, height: int, width: int, most_rows: int | None = None
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Grid over (images and cells, blocks of columns, parts of a cell), and the sizes of a program."""
    images, _, h, _ = scores.shape
    whole = rows_of_a_cell(height, h)
    rows = min(most_rows or MOST_ROWS, 1 << (whole.bit_length() - 1))
    columns = block(width, 32, COLUMNS)
    parts = min(cdiv(whole, 2 * rows), MOST_PARTS)
    grid = images * h, cdiv(width, columns) if height else 0, parts
    return grid, {"ROWS": rows, "COLUMNS": columns, "num_warps": columns // 32, "maxnreg": MOST_REGISTERS}


@triton.jit
def this_cell(height, h, ALIGN: tl.constexpr, ROWS: tl.constexpr):
    """This program's image and cell, the first of its rows, and the end of the cell's."""
    image = tl.program_id(0) // h
    cell = tl.program_id(0) - image * h
    begin = first_position(cell, height, h, ALIGN) + tl.program_id(2) * ROWS
    return image, cell, begin, first_position(cell + 1, height, h, ALIGN)


@triton.jit
def least_of(threshold, label, threshold_stride, BALANCED: tl.constexpr):
    """The smallest probability that makes each class a label."""
    least = tl.load(threshold + label * threshold_stride).to(tl.float32)
    if BALANCED:
        least = tl.where(least > LEAST_THRESHOLD, least, float("inf"))
    return least


@triton.jit
def best_probability(
    scores, threshold, classes, class_stride, threshold_stride, top, bottom, left, right, down, along,
    BALANCED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Class (int32) and probability of the largest one, or of the largest quotient; NaN where the best is."""
    most = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    label = tl.zeros([ROWS, COLUMNS], tl.int32)
    p = most
    for k in range(classes):
        x = read(scores, top, bottom, left, right, down, along)
        key = x
        if BALANCED:
            key = x * tl.div_rn(1.0, least_of(threshold, k, threshold_stride, True))
        better = (key > most) | (key != key)
        most = tl.where(better, key, most)
        p = tl.where(better, x, p)
        label = tl.where(better, k, label)
        scores += class_stride
    return label, p


@triton.jit
def best_logit(
    scores, threshold, classes, class_stride, threshold_stride, top, bottom, left, right, down, along,
    BALANCED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """As ``best_probability`` of the logits' softmax; quotients are compared by their logarithms."""
    most = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    label = tl.zeros([ROWS, COLUMNS], tl.int32)
    largest = tl.full([ROWS, COLUMNS], LOWEST, tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    best = largest
    for k in range(classes):
        x = read(scores, top, bottom, left, right, down, along)
        above = x > largest
        e = tl.exp(-tl.abs(x - largest))
        total = tl.where(above, total * e + 1, total + e)
        largest = tl.where(above, x, largest)
        if BALANCED:
            key = x - tl.log(least_of(threshold, k, threshold_stride, True))
            better = key > most
            most = tl.where(better, key, most)
            best = tl.where(better, x, best)
            label = tl.where(better, k, label)
        else:
            label = tl.where(above, k, label)
        scores += class_stride
    share = tl.exp(best - largest) if BALANCED else tl.zeros_like(total) + 1
    finite = (total > 0) & (largest < float("inf"))
    return label, tl.where(finite, tl.div_rn(share, total), float("nan"))


@kernel()
def _label_cells(
    scores, threshold, label, confidence, classes, h, w, height, width,
    image_stride, class_stride, row_stride, column_stride, threshold_stride,
    PROBABILITIES: tl.constexpr, BALANCED: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    image, cell, begin, end = this_cell(height, h, ALIGN, ROWS)
    scores += image.to(tl.int64) * image_stride
    first = image.to(tl.int64) * height * width
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    left, right, along = taps(tl.minimum(x, width - 1), width, w, ALIGN)
    top, bottom = cell * row_stride, tl.minimum(cell + 1, h - 1) * row_stride
    left, right = left * column_stride, right * column_stride
    for start in range(begin, end, ROWS * tl.num_programs(2)):
        y = start + tl.arange(0, ROWS)[:, None]
        _, _, down = taps(tl.minimum(y, end - 1), height, h, ALIGN)
        if PROBABILITIES:
            k, p = best_probability(
                scores, threshold, classes, class_stride, threshold_stride, top, bottom, left, right, down, along,
                BALANCED, ROWS, COLUMNS,
            )  # fmt: skip
        else:
            k, p = best_logit(
                scores, threshold, classes, class_stride, threshold_stride, top, bottom, left, right, down, along,
                BALANCED, ROWS, COLUMNS,
            )  # fmt: skip
        kept = tl.where(p >= least_of(threshold, k, threshold_stride, BALANCED), k, IGNORED)
        to = first + y * width + x
        written = (y < end) & (x < width)
        tl.store(label + to, kept.to(tl.uint8), mask=written)
        if confidence is not None:
            tl.store(confidence + to, p, mask=written)
