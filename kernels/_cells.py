"""Walking over upsampled scores cell by cell, and sums that go back to the low-resolution nodes, deterministic.

A cell lies between four nodes. A program owns a tile of BLOCK_C cells of a row of cells and a strip of ROWS rows of
output pixels: it walks down the strip, cell after cell, and takes one pixel of each cell at a time, all classes of
them, so that a node is read once for all pixels of a cell and their sums stay in registers. What a strip adds to a node
is stored by the side of the node it lies on, and ``gather_nodes`` adds strips and sides in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import block, cdiv, launch
from fastuda.kernels._launch import kernel
from fastuda.kernels._upsample import first_position, readable, taps

MOST_CLASSES = 256
TILE = 128  # cells times classes that one warp holds
ROWS = 32  # rows of output pixels in a strip
NODES = 1024  # nodes that one program gathers
LOWEST = tl.constexpr(-3.0e38)  # score of the padding beyond the last class


def walkable(scores: Tensor, height: int, width: int) -> bool:
    """Whether ``walk`` and ``gather_nodes`` take scores (N, K, h, w) at such a size."""
    sized = 1 <= scores.shape[1] <= MOST_CLASSES and scores.numel() < 2**31 - NODES
    programs = scores.shape[0] * cdiv(height, ROWS) * scores.shape[3]
    return sized and programs < 2**31 and readable(scores, height, width)


def walk(scores: Tensor, height: int, width: int, align_corners: bool) -> tuple[int, int, dict]:
    """Programs, strips of an image, and constants of a kernel that walks over scores (N, K, h, w)."""
    images, classes, _, w = scores.shape
    columns = block(classes, 2, MOST_CLASSES)
    tile = {"BLOCK_K": columns, "BLOCK_C": max(TILE // columns, 1), "ROWS": ROWS, "ALIGN": align_corners}
    strips = cdiv(height, ROWS) if width else 0
    return images * strips * cdiv(w, tile["BLOCK_C"]), strips, tile | {"num_warps": 1, "maxnreg": 255}


def partial_sums(scores: Tensor, height: int, strips: int, align_corners: bool) -> Tensor:
    """Room for what each strip adds to its nodes: (N, strips, slots, 2, K, w) float32, not yet written.

    A strip has a slot for each row of nodes that it may add to; the sides: of cells whose left, or right, node it is.
    """
    images, classes, h, w = scores.shape
    above, below = (h - 1, max(height - 1, 1)) if align_corners else (h, max(height, 1))
    slots = min((min(ROWS, height) - 1) * above // below + 3, h + 1) if strips else 1
    return scores.new_empty(images, strips, slots, 2, classes, w, dtype=torch.float32)


def gather_nodes(partials: Tensor, h: int, height: int, align_corners: bool) -> Tensor:
    """(N, K, h, w) float32: the sums of what ``partial_sums`` holds, in one launch."""
    images, strips, slots, _, classes, w = partials.shape
    slope = partials.new_empty(images, classes, h, w)
    if strips == 0:
        return slope.zero_()
    launch(
        _gather_nodes, (cdiv(slope.numel(), NODES),), partials, slope, slope.numel(), classes, h, w, height,
        strips, slots, ROWS=ROWS, BLOCK=NODES, ALIGN=align_corners, num_warps=4,
    )  # fmt: skip
    return slope


@triton.jit
def cells_of(w, width, strips, BLOCK_C: tl.constexpr, ALIGN: tl.constexpr):
    """This program's image, strip, cells and columns of their nodes; each cell's first pixel and number of pixels."""
    tiles = tl.cdiv(w, BLOCK_C)
    rest = tl.program_id(0) // tiles
    image = rest // strips
    cell = (tl.program_id(0) - rest * tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = first_position(cell, width, w, ALIGN)
    count = first_position(cell + 1, width, w, ALIGN) - first
    left = tl.minimum(cell, w - 1)
    right = tl.minimum(cell + 1, w - 1)
    return image.to(tl.int64), rest - image * strips, cell, left, right, first, count


@triton.jit
def nodes_of(strip, height, h, ROWS: tl.constexpr, ALIGN: tl.constexpr):
    """The first row of nodes above a strip, and the number of rows of cells that the strip overlaps."""
    first, _, _ = taps(strip * ROWS, height, h, ALIGN)
    last, _, _ = taps(tl.minimum(strip * ROWS + ROWS, height) - 1, height, h, ALIGN)
    return first, last - first + 1


@triton.jit
def rows_of(strip, node, height, h, ROWS: tl.constexpr, ALIGN: tl.constexpr):
    """The strip's first row of pixels below a row of nodes, and the number of those rows."""
    begin = tl.maximum(first_position(node, height, h, ALIGN), strip * ROWS)
    end = tl.minimum(first_position(node + 1, height, h, ALIGN), strip * ROWS + ROWS)
    return begin, tl.maximum(tl.minimum(end, height) - begin, 0)


@triton.jit
def weight_within(position, node, size, source, ALIGN: tl.constexpr):
    """The weight of the node after ``node`` at a position between the two, as ``taps`` has it; 0 after the last one."""
    if ALIGN:
        denominator = tl.maximum(size - 1, 1)
        rest = position * (source - 1) - node * denominator
    else:
        denominator = 2 * size
        rest = tl.maximum((2 * position + 1) * source - size, 0) - node * denominator
    weight = tl.div_rn(rest.to(tl.float32), (rest * 0 + denominator).to(tl.float32))
    return tl.where(node + 1 < source, weight, 0.0)


@triton.jit
def read_nodes(scores, row, column, k, classes, class_stride, row_stride, column_stride):
    """Scores of all classes [BLOCK_K, BLOCK_C] at nodes of a row; LOWEST beyond the classes."""
    at = (tl.minimum(k, classes - 1) * class_stride)[:, None] + (column * column_stride)[None, :] + row * row_stride
    x = tl.load(scores + at).to(tl.float32)
    return tl.where((k < classes)[:, None], x, LOWEST)


@triton.jit
def read_class(target, image, y, x, inside, classes, ignore_index, image_stride, row_stride, column_stride):
    """The class of pixels of a row, 0 where it does not count, and whether it does."""
    at = image * image_stride + y.to(tl.int64) * row_stride + x.to(tl.int64) * column_stride
    label = tl.load(target + at, mask=inside, other=0).to(tl.int64)
    valid = inside & (label >= 0) & (label < classes) & (label != ignore_index)
    return tl.where(valid, label, 0).to(tl.int32), valid


@triton.jit
def store_sides(partials, slot, w, classes, k, cell, left, right):
    """A strip's contributions to a row of nodes: from the cells right of each node and from those left of it."""
    # Declared as not contiguous: otherwise a thread holds four cells of one class, and sums over classes are slow.
    to = tl.max_contiguous(partials + slot * 2 * classes * w + (k * w)[:, None] + cell[None, :], (1, 1))
    stored = (k < classes)[:, None] & (cell < w)[None, :]
    tl.store(to, left, mask=stored)
    tl.store(to + classes * w, right, mask=stored)


@kernel()
def _gather_nodes(
    partials, slope, elements, classes, h, w, height, strips, slots,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < elements
    e = tl.minimum(e, elements - 1)
    plane_row = e // w
    j = e - plane_row * w
    plane = plane_row // h
    i = plane_row - plane * h
    image = plane // classes
    # Rows of pixels between the node before and the node after.
    begin = first_position(tl.maximum(i - 1, 0), height, h, ALIGN)
    end = first_position(i + 1, height, h, ALIGN)
    strip = begin // ROWS
    count = tl.where(inside & (end > begin), (end - 1) // ROWS + 1 - strip, 0)
    total = tl.zeros([BLOCK], tl.float32)
    for n in range(tl.max(count, 0)):
        known = n < count
        top, _, _ = taps(tl.minimum((strip + n) * ROWS, height - 1), height, h, ALIGN)
        row = ((image * strips + strip + n).to(tl.int64) * slots + i - top) * 2 * classes + plane - image * classes
        left = tl.load(partials + row * w + j, mask=known, other=0.0)
        total += left + tl.load(partials + (row + classes) * w + j - 1, mask=known & (j > 0), other=0.0)
    tl.store(slope + e, total, mask=inside)
