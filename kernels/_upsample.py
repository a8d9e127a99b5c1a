"""Bilinear upsampling inside a kernel: exact taps, and low-resolution scores read at output pixels.

Along each dimension ``size`` positions (of output pixels) lie between ``source`` nodes (of scores), where
fastuda.reference._upsample.taps puts them. A cell is all positions with the same lower node: a program that takes a
cell of rows reads each node once for all of them.

    program:  y = first_position(cell, ...) + tl.arange(0, ROWS)[:, None], below first_position(cell + 1, ...)
              x = column + tl.arange(0, COLUMNS)[None, :]
              top, bottom, down = taps(tl.minimum(y, height - 1), height, h, ALIGN)    # or those of one y, [1, 1]
              left, right, along = taps(tl.minimum(x, width - 1), width, w, ALIGN)
    a class:  read(scores + k * class_stride, top * row_stride, bottom * row_stride, left * column_stride,
                   right * column_stride, down, along)                                 # float32 (ROWS, COLUMNS)

Positions beyond the size are moved to the last one, so nothing but the stores needs a mask.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES

MOST_POSITIONS = 2**22  # up to which float32 represents numerator and denominator of a weight exactly
MOST_OFFSET = 2**31


def readable(scores: Tensor, height: int, width: int, dtypes: tuple = DTYPES) -> bool:
    """Whether kernels can read scores (..., K, h, w) at (height, width): dtype, and sizes that 32-bit integers hold."""
    room = sum((size - 1) * stride for size, stride in zip(scores.shape[-3:], scores.stride()[-3:], strict=True))
    fits = all(
        size < MOST_POSITIONS and 2 * (size + 1) * (source + 1) < MOST_OFFSET
        for size, source in zip((height, width), scores.shape[-2:], strict=True)
    )
    return scores.dtype in dtypes and fits and room < MOST_OFFSET and height * width < MOST_OFFSET


def strides(scores: Tensor) -> tuple[int, ...]:
    """Strides in elements; 0 for dimensions of size 1, whose stride is arbitrary.

    The stride of the columns stays as it is: Triton compiles a stride of 1 as a constant, and an image of one column
    should not need another kernel.
    """
    found = [stride if size > 1 else 0 for size, stride in zip(scores.shape, scores.stride(), strict=True)]
    if scores.dim() > 1:
        found[-1] = scores.stride(-1)
    return tuple(found)


def rows_of_a_cell(size: int, source: int) -> int:
    """The number of positions that most cells have, at least one."""
    return max(1, size // max(source - 1, 1))


@triton.jit
def taps(position, size, source, ALIGN: tl.constexpr):
    """Lower node, upper node and the upper one's weight (float32, correctly rounded) of positions below ``size``."""
    if ALIGN:
        numerator = position * (source - 1)
        denominator = position * 0 + tl.maximum(size - 1, 1)
    else:
        numerator = tl.maximum((2 * position + 1) * source - size, 0)
        denominator = position * 0 + 2 * size
    lower = numerator // denominator
    rest = numerator - lower * denominator
    weight = tl.div_rn(rest.to(tl.float32), denominator.to(tl.float32))  # "/" is approximate on a card
    return lower, tl.minimum(lower + 1, source - 1), weight


@triton.jit
def first_position(node, size, source, ALIGN: tl.constexpr):
    """The first position whose lower node is at least ``node``; ``size`` if ``node`` is at least ``source``."""
    if ALIGN:
        step = tl.maximum(source - 1, 1)
        first = (node * tl.maximum(size - 1, 1) + step - 1) // step
    else:
        first = ((2 * node + 1) * size + source - 1) // (2 * source)
        first = tl.where(node > 0, first, 0)
    return tl.where(node < source, first, size)


@triton.jit
def lerp(lower, upper, weight):
    """lower + weight (upper - lower), counted from the nearer end as torch.lerp does."""
    from_upper = weight >= 0.5
    return tl.where(from_upper, upper, lower) + tl.where(from_upper, weight - 1, weight) * (upper - lower)


@triton.jit
def read(scores, top, bottom, left, right, down, along, mask=None):
    """Scores of a class, float32, between rows and columns at element offsets, with the weights of bottom and right.

    Along the rows first: of one pair of rows [1, 1] and columns [1, COLUMNS] that costs little beside the lerp down.
    """
    upper = _along(scores, top + left, top + right, along, mask)
    return lerp(upper, _along(scores, bottom + left, bottom + right, along, mask), down)


@triton.jit
def _along(scores, left, right, weight, mask):
    lower = tl.load(scores + left, mask=mask).to(tl.float32)
    return lerp(lower, tl.load(scores + right, mask=mask).to(tl.float32), weight)
