"""Cross entropy of bilinearly upsampled logits, with the gradient of the low-resolution logits made beside it.

Programs walk over the cells between low-resolution nodes (kernels/_cells.py). The softmax of a pixel is taken where its
logits are; its gradient is summed along the row of a cell as sum and sum times weight, and down the cell to the four
nodes. One launch for losses and partial gradients, one that gathers these; nothing of full resolution is stored but the
map that was asked for. Memory beyond inputs and outputs: two numbers for each row of nodes that a strip of 32 rows of
pixels adds to (three times the gradient at 8-fold upsampling), and 16 bytes a program.
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
LN_2 = tl.constexpr(0.6931471805599453)


def serves(logits: Tensor, target: Tensor, *others) -> bool:
    """Whether ``upsample_cross_entropy`` takes these arguments: logits of 32 or 16 bits, at most 256 classes."""
    return walkable(logits, *target.shape[1:])


def upsample_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, pixel_weight: Tensor | None, align_corners: bool,
    ignore_index: int, label_smoothing: float, with_map: bool, with_slope: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(total, losses, slope) as fastuda.reference.upsample_cross_entropy.forward; any strides."""
    _, classes, h, w = logits.shape
    height, width = target.shape[1:]
    losses = logits.new_empty(target.shape if with_map else 0, dtype=torch.float32)
    programs, strips, tile = walk(logits, height, width, align_corners)
    sums = torch.empty(programs, 2, dtype=torch.float64, device=logits.device)
    partials = partial_sums(logits, height, strips, align_corners) if with_slope else None
    slots = partials.shape[2] if with_slope else 0
    launch(
        _sum_losses, (programs,), logits, target, weight, pixel_weight, losses, partials, sums,
        classes, h, w, height, width, strips, slots, ignore_index, label_smoothing, *strides(logits),
        *strides(target), 0 if weight is None else weight.stride(0),
        *((0,) * 3 if pixel_weight is None else strides(pixel_weight)),
        SMOOTH=label_smoothing > 0, WITH_MAP=with_map, **tile,
    )  # fmt: skip
    slope = gather_nodes(partials, h, height, align_corners) if with_slope else logits.new_empty(0, dtype=torch.float32)
    return sums.sum(0).to(torch.float32), losses, slope


@kernel()
def _sum_losses(
    scores, target, weight, pixel_weight, losses, partials, sums,
    classes, h, w, height, width, strips, slots, ignore_index, smoothing,
    image_stride, class_stride, row_stride, column_stride, target_image, target_row, target_column, weight_stride,
    scale_image, scale_row, scale_column,
    SMOOTH: tl.constexpr, WITH_MAP: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    image, strip, cell, left, right, first, count = cells_of(w, width, strips, BLOCK_C, ALIGN)
    first_node, nodes = nodes_of(strip, height, h, ROWS, ALIGN)
    most = tl.max(count, 0)
    k = tl.arange(0, BLOCK_K)
    scores += image * image_stride
    even = tl.where(k < classes, smoothing / classes, 0.0)
    if weight is not None:
        even *= tl.load(weight + k * weight_stride, mask=k < classes, other=0.0).to(tl.float32)
    even_sum = tl.sum(even, 0)
    loss = tl.zeros([BLOCK_C], tl.float64)
    share = tl.zeros([BLOCK_C], tl.float64)
    upper_left = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    upper_right = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    # Values that the compiler hoists out of loops stay in registers and would exceed them.
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
        cell_share = tl.zeros([BLOCK_C], tl.float32)
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
                inside = i < count
                label, valid = read_class(
                    target, image, y, x, inside, classes, ignore_index, target_image, target_row, target_column
                )
                along = weight_within(x, cell, width, w, ALIGN)
                z = tl.fma(along[None, :], step, start)
                largest = tl.max(z, 0)
                e = tl.exp2((z - largest[None, :]) * LOG2_E)
                total = tl.sum(e, 0)
                log_total = tl.log2(total) * LN_2
                wanted = tl.where(valid, 1.0, 0.0)
                scale = wanted
                if weight is not None:
                    wanted = tl.load(weight + label * weight_stride, mask=valid, other=0.0).to(tl.float32)
                if pixel_weight is not None:
                    at = image * scale_image + y.to(tl.int64) * scale_row + x.to(tl.int64) * scale_column
                    scale = tl.load(pixel_weight + at, mask=valid, other=0.0).to(tl.float32)
                cell_share += wanted
                wanted *= 1 - smoothing
                own = _own_logit(
                    scores + label * class_stride, node * row_stride, below * row_stride, left * column_stride,
                    right * column_stride, down, along,
                )  # fmt: skip
                value = wanted * (largest - own + log_total)
                if SMOOTH:
                    value += even_sum * log_total + tl.sum(even[:, None] * (largest[None, :] - z), 0)
                value = tl.where(valid, scale * value, 0.0)
                cell_loss += value
                if WITH_MAP:
                    tl.store(losses + (image * height + y) * width + x, value, mask=inside)
                if partials is not None:
                    wanted *= scale
                    slope = e * ((wanted + even_sum * scale) / total)[None, :]
                    slope -= tl.where(k[:, None] == label[None, :], wanted[None, :], 0.0)
                    if SMOOTH:
                        slope -= even[:, None] * scale[None, :]
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
        share += cell_share.to(tl.float64)
        if partials is not None:
            store_sides(partials, (image * strips + strip) * slots + n, w, classes, k, cell, upper_left, upper_right)
            upper_left = lower_left
            upper_right = lower_right
    if partials is not None:
        store_sides(partials, (image * strips + strip) * slots + nodes, w, classes, k, cell, upper_left, upper_right)
    tl.store(sums + 2 * tl.program_id(0), tl.sum(loss, 0))
    tl.store(sums + 2 * tl.program_id(0) + 1, tl.sum(share, 0))


@triton.jit
def _own_logit(scores, top, bottom, left, right, down, along):
    """The logit of each pixel's label, exactly as above; reading it again costs less than selecting it among all."""
    top_left = tl.load(scores + top + left).to(tl.float32)
    top_right = tl.load(scores + top + right).to(tl.float32)
    start = tl.fma(down, tl.load(scores + bottom + left).to(tl.float32) - top_left, top_left)
    end = tl.fma(down, tl.load(scores + bottom + right).to(tl.float32) - top_right, top_right)
    return tl.fma(along, end - start, start)
