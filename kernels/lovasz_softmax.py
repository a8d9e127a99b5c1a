"""Lovasz-Softmax of bilinearly upsampled scores with errors counted in bins, and the gradient of the scores.

Programs walk over the cells between low-resolution nodes (kernels/_cells.py), twice. First they count, of each class
and bin, the pixels and the class's own ones, both in one integer of 64 bits; the lowest bin, where nearly all errors
lie, is counted in registers, the others by integer atomics, whose order does not matter. One program a class then turns
the counts into what the pixels of each bin count for. The second walk computes the errors again, rounded alike, and
looks up what they count for. Four launches; nothing of full resolution is stored. Memory beyond inputs and outputs: 12
bytes for each class and bin, and with a gradient what ``_cells.partial_sums`` takes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._cells import (
    cells_of,
    gather_nodes,
    nodes_of,
    partial_sums,
    read_class,
    read_nodes,
    rows_of,
    store_sides,
    walk,
    walkable,
    weight_within,
)  # fmt: skip
from fastuda.kernels._common import launch
from fastuda.kernels._launch import kernel
from fastuda.kernels._upsample import strides

LOG2_E = tl.constexpr(1.4426950408889634)
AT_ONCE = 1024  # bins that a program holds


def serves(logits: Tensor, target: Tensor, bins: int, *others) -> bool:
    """Whether ``lovasz_softmax`` takes these arguments: bins, scores of 32 or 16 bits, at most 256 classes."""
    return (
        bins > 0 and logits.shape[1] * bins < 2**31 and target.numel() < 2**31 and walkable(logits, *target.shape[1:])
    )


def lovasz_softmax(
    logits: Tensor, target: Tensor, bins: int, probabilities: bool, align_corners: bool, ignore_index: int,
    with_slope: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, slope) as fastuda.reference.lovasz_softmax.forward with bins; any strides."""
    _, classes, h, w = logits.shape
    height, width = target.shape[1:]
    programs, strips, tile = walk(logits, height, width, align_corners)
    device = logits.device
    counts = torch.zeros(classes, bins, dtype=torch.int64, device=device)
    table, present = (torch.empty(shape, dtype=torch.float32, device=device) for shape in ((classes, bins), classes))
    sums = torch.empty(programs, dtype=torch.float64, device=device)
    partials = partial_sums(logits, height, strips, align_corners) if with_slope else None
    slots = partials.shape[2] if with_slope else 0
    given = logits, target, counts
    layout = classes, bins, h, w, height, width, strips, slots, ignore_index, *strides(logits), *strides(target)
    # Without fused multiply-adds both passes round alike, so that each computes the same bin for a pixel.
    options = tile | {"PROBABILITIES": probabilities, "enable_fp_fusion": False}
    launch(_count_errors, (programs,), *given, *layout, **options)
    launch(_weigh_bins, (classes,), counts, table, present, bins, BLOCK=AT_ONCE, num_warps=4, maxnreg=255)
    launch(_sum_errors, (programs,), logits, target, table, present, partials, sums, *layout, **options)
    loss = (sums.sum() / present.sum().clamp(min=1)).to(torch.float32)
    slope = gather_nodes(partials, h, height, align_corners) if with_slope else logits.new_empty(0, dtype=torch.float32)
    return loss, slope


@triton.jit
def _errors(z, k, label, classes, bins, PROBABILITIES: tl.constexpr):
    """Of a tile of scores: probabilities, errors, whether the class is the pixel's label, and the errors' bins."""
    p = z
    if not PROBABILITIES:
        p = tl.exp2((z - tl.max(z, 0)[None, :]) * LOG2_E)
        p = p * (1 / tl.sum(p, 0))[None, :]
    own = k[:, None] == label[None, :]
    error = tl.where(own, 1 - p, p)
    place = error * bins
    place = tl.where(place == place, place, 0.0)
    return p, error, own, tl.minimum(tl.maximum(place, 0.0), bins - 1.0).to(tl.int32)


@kernel()
def _count_errors(
    scores, target, counts, classes, bins, h, w, height, width, strips, slots, ignore_index,
    image_stride, class_stride, row_stride, column_stride, target_image, target_row, target_column,
    PROBABILITIES: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """counts: the pixels in each class's bins; in the upper 32 bits those labelled with the class."""
    image, strip, cell, left, right, first, count = cells_of(w, width, strips, BLOCK_C, ALIGN)
    first_node, nodes = nodes_of(strip, height, h, ROWS, ALIGN)
    most = tl.max(count, 0)
    k = tl.arange(0, BLOCK_K)
    scores += image * image_stride
    lowest = tl.zeros([BLOCK_K, BLOCK_C], tl.int32)
    lowest_own = tl.zeros([BLOCK_K, BLOCK_C], tl.int32)
    for n in tl.range(nodes, disable_licm=True):
        node = first_node + n
        below = tl.minimum(node + 1, h - 1)
        top_left = read_nodes(scores, node, left, k, classes, class_stride, row_stride, column_stride)
        top_right = read_nodes(scores, node, right, k, classes, class_stride, row_stride, column_stride)
        bottom_left = read_nodes(scores, below, left, k, classes, class_stride, row_stride, column_stride)
        bottom_right = read_nodes(scores, below, right, k, classes, class_stride, row_stride, column_stride)
        begin, rows = rows_of(strip, node, height, h, ROWS, ALIGN)
        for r in tl.range(rows, disable_licm=True):
            y = begin + r
            down = weight_within(y, node, height, h, ALIGN)
            start = tl.fma(down, bottom_left - top_left, top_left)
            step = tl.fma(down, bottom_right - top_right, top_right) - start
            for i in range(most):
                x = first + i
                label, valid = read_class(
                    target, image, y, x, i < count, classes, ignore_index, target_image, target_row, target_column
                )
                z = tl.fma(weight_within(x, cell, width, w, ALIGN)[None, :], step, start)
                _, _, own, place = _errors(z, k, label, classes, bins, PROBABILITIES)
                counted = valid[None, :] & (k < classes)[:, None]
                lowest += (counted & (place == 0)).to(tl.int32)
                lowest_own += (counted & (place == 0) & own).to(tl.int32)
                one = tl.where(own, 0x100000001, 1).to(tl.int64)
                tl.atomic_add(counts + (k * bins)[:, None] + place, one, mask=counted & (place > 0), sem="relaxed")
    packed = tl.sum(lowest, 1).to(tl.int64) + (tl.sum(lowest_own, 1).to(tl.int64) << 32)
    tl.atomic_add(counts + k * bins, packed, mask=(k < classes) & (packed > 0), sem="relaxed")


@triton.jit
def _jaccard(total, seen, rank):
    """The Jaccard loss of a class of ``total`` pixels with ``rank`` wrong pixels, ``seen`` of them of the class."""
    return 1 - (total - seen).to(tl.float64) / tl.maximum(total + rank - seen, 1).to(tl.float64)


@kernel()
def _weigh_bins(counts, table, present, bins, BLOCK: tl.constexpr):
    """The weight of each pixel of a bin: the increment of the class's Jaccard loss over the bin, by its pixels."""
    k = tl.program_id(0)
    counts += k.to(tl.int64) * bins
    table += k.to(tl.int64) * bins
    total = tl.full([], 0, tl.int64)
    for start in range(0, bins, BLOCK):
        b = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(counts + b, mask=b < bins, other=0) >> 32, 0)
    seen = tl.full([], 0, tl.int64)
    rank = tl.full([], 0, tl.int64)
    for start in range(0, bins, BLOCK):
        b = bins - 1 - start - tl.arange(0, BLOCK)  # from the largest error down
        packed = tl.load(counts + b, mask=b >= 0, other=0)
        own = packed >> 32
        number = packed & 0xFFFFFFFF
        own_so_far = seen + tl.cumsum(own, 0)
        so_far = rank + tl.cumsum(number, 0)
        step = _jaccard(total, own_so_far, so_far) - _jaccard(total, own_so_far - own, so_far - number)
        mean = tl.where(total > 0, step / tl.maximum(number, 1).to(tl.float64), 0.0)
        tl.store(table + b, mean.to(tl.float32), mask=b >= 0)
        seen += tl.sum(own, 0)
        rank += tl.sum(number, 0)
    tl.store(present + k, tl.where(total > 0, 1.0, 0.0))


@kernel()
def _sum_errors(
    scores, target, table, present, partials, sums, classes, bins, h, w, height, width, strips, slots, ignore_index,
    image_stride, class_stride, row_stride, column_stride, target_image, target_row, target_column,
    PROBABILITIES: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Each program's part of the weighted sum of errors, and of the gradient of the mean over classes."""
    image, strip, cell, left, right, first, count = cells_of(w, width, strips, BLOCK_C, ALIGN)
    first_node, nodes = nodes_of(strip, height, h, ROWS, ALIGN)
    most = tl.max(count, 0)
    k = tl.arange(0, BLOCK_K)
    scores += image * image_stride
    occurs = tl.load(present + k, mask=k < classes, other=0.0)
    share = occurs / tl.maximum(tl.sum(occurs, 0), 1.0)
    loss = tl.zeros([BLOCK_C], tl.float64)
    upper_left = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    upper_right = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for n in tl.range(nodes, disable_licm=True):
        node = first_node + n
        below = tl.minimum(node + 1, h - 1)
        top_left = read_nodes(scores, node, left, k, classes, class_stride, row_stride, column_stride)
        top_right = read_nodes(scores, node, right, k, classes, class_stride, row_stride, column_stride)
        bottom_left = read_nodes(scores, below, left, k, classes, class_stride, row_stride, column_stride)
        bottom_right = read_nodes(scores, below, right, k, classes, class_stride, row_stride, column_stride)
        lower_left = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
        lower_right = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
        cell_loss = tl.zeros([BLOCK_C], tl.float32)
        begin, rows = rows_of(strip, node, height, h, ROWS, ALIGN)
        for r in tl.range(rows, disable_licm=True):
            y = begin + r
            down = weight_within(y, node, height, h, ALIGN)
            start = tl.fma(down, bottom_left - top_left, top_left)
            step = tl.fma(down, bottom_right - top_right, top_right) - start
            whole = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
            moment = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
            for i in range(most):
                x = first + i
                label, valid = read_class(
                    target, image, y, x, i < count, classes, ignore_index, target_image, target_row, target_column
                )
                along = weight_within(x, cell, width, w, ALIGN)
                z = tl.fma(along[None, :], step, start)
                p, error, own, place = _errors(z, k, label, classes, bins, PROBABILITIES)
                counted = valid[None, :] & (occurs > 0)[:, None]
                weight = tl.load(table + (k * bins)[:, None] + place, mask=counted, other=0.0)
                cell_loss += tl.sum(tl.where(counted, error * weight, 0.0), 0)
                if partials is not None:
                    slope = tl.where(own, -weight, weight) * share[:, None]
                    if not PROBABILITIES:
                        slope = p * (slope - tl.sum(p * slope, 0)[None, :])
                    slope = tl.where(valid[None, :], slope, 0.0)
                    whole += slope
                    moment += slope * along[None, :]
            if partials is not None:
                whole -= moment
                upper_left += whole - whole * down
                upper_right += moment - moment * down
                lower_left += whole * down
                lower_right += moment * down
        loss += cell_loss.to(tl.float64)
        if partials is not None:
            store_sides(partials, (image * strips + strip) * slots + n, w, classes, k, cell, upper_left, upper_right)
            upper_left = lower_left
            upper_right = lower_right
    if partials is not None:
        store_sides(partials, (image * strips + strip) * slots + nodes, w, classes, k, cell, upper_left, upper_right)
    tl.store(sums + tl.program_id(0), tl.sum(loss, 0))
