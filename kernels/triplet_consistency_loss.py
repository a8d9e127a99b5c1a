"""Triplet loss between target rows and the source rows drawn for them, and its gradients.

    loss_i = max(0, |t_i - s_p|^2 - |t_i - s_n|^2 + margin)
    dt_i = 2 g_i (s_n - s_p)        ds_p += 2 g_i (s_p - t_i)        ds_n += 2 g_i (t_i - s_n)

Forward, a program owns a tile of target rows and reads their partners where they lie; the two squares are subtracted
channel by channel. Backward, one launch writes the targets' slopes and lists the draws, positive ones first, with their
source rows as keys. The library sorts the keys, stably. Each place of the sorted list has a program: the one at the
first draw of a source row adds all of that row's draws in their order, 16 at a time, in float32, and the others end at
once. So the bits never change, and a long list costs its length. Memory beyond inputs and outputs: none forward;
backward 32 bytes a target row, and what the sort takes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES, block, cdiv, launch, one_is_none, spaced
from fastuda.kernels._launch import kernel

MOST_CHANNELS = {"forward": 128, "backward": 256}  # channels of a tile; larger tiles spill registers
TARGETS = 8
DRAWS = 16  # gradients of a source row that are added at a time


def serves(target: Tensor, source: Tensor, *others) -> bool:
    """Whether ``forward`` takes these arguments: rows of 32 or 16 bits, fewer than 2^30 of them."""
    return target.dtype in DTYPES and source.dtype in DTYPES and max(len(target), len(source)) < 2**30


def serves_backward(grad: Tensor, target: Tensor, source: Tensor, *others) -> bool:
    """Whether ``backward`` takes these arguments."""
    return serves(target, source)


def forward(target: Tensor, source: Tensor, positive: Tensor, negative: Tensor, valid: Tensor, margin: float) -> Tensor:
    """The loss of each target row, float32; any strides. One launch.

    A partner outside the source cannot be an error without waiting for the device: its loss is NaN, its slopes are 0.
    """
    rows, channels = target.shape
    loss = target.new_empty(rows, dtype=torch.float32)
    launch(
        _triplet_losses, (cdiv(rows, TARGETS),), target, source, positive, negative, valid, loss,
        rows, len(source), channels, margin, *_strides(target), *_strides(source),
        positive.stride(0), negative.stride(0), valid.stride(0),
        BLOCK_T=TARGETS, BLOCK_D=block(channels, 16, MOST_CHANNELS["forward"]), num_warps=4,
    )  # fmt: skip
    return loss


def backward(
    grad: Tensor, target: Tensor, source: Tensor, positive: Tensor, negative: Tensor, loss: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of target, in its strides, and of source. Three launches and those of a sort."""
    rows, channels = target.shape
    sources = len(source)
    slope, total = torch.empty_like(target), source.new_zeros(source.shape)
    keys = target.new_empty(2 * rows, dtype=torch.int32)
    tile = {"BLOCK_D": block(channels, 16, MOST_CHANNELS["backward"]), "num_warps": 4}
    across = cdiv(channels, tile["BLOCK_D"])
    launch(
        _pull_targets, (cdiv(rows, TARGETS), across), grad, source, positive, negative, loss, slope, keys,
        rows, sources, channels, *_strides(source), *_strides(slope),
        grad.stride(0), positive.stride(0), negative.stride(0), loss.stride(0), BLOCK_T=TARGETS, **tile,
    )  # fmt: skip
    keys, draws = torch.sort(keys, stable=True)
    launch(
        _add_draws, (2 * rows, across), grad, target, source, keys, draws, total, rows, sources, channels,
        *_strides(target), *_strides(source), grad.stride(0), BLOCK_R=DRAWS, **tile,
    )  # fmt: skip
    return slope, total


def _strides(rows: Tensor) -> tuple[int, int | None]:
    return rows.stride(0), one_is_none(rows.stride(1))


@triton.jit
def _partner(index, i, stride, sources, mask):
    """The source row at index[i], and whether there is one."""
    row = tl.load(index + i.to(tl.int64) * stride, mask=mask, other=-1)
    return row, (row >= 0) & (row < sources)


@triton.jit
def _rows(x, row, d, channels, row_stride, channel_stride, known):
    at = (row.to(tl.int64) * row_stride)[:, None] + spaced(d, channel_stride)[None, :]
    return tl.load(x + at, mask=known[:, None] & (d < channels)[None, :], other=0.0).to(tl.float32)


@kernel(fixed=("target", "target_row"))
def _triplet_losses(
    target, source, positive, negative, valid, loss, rows, sources, channels, margin,
    target_row, target_channel, source_row, source_channel, positive_stride, negative_stride, valid_stride,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    wanted = tl.load(valid + i.to(tl.int64) * valid_stride, mask=i < rows, other=0) != 0
    p, near = _partner(positive, i, positive_stride, sources, wanted)
    n, far = _partner(negative, i, negative_stride, sources, wanted)
    known = near & far
    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for start in range(0, channels, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        t = _rows(target, i, d, channels, target_row, target_channel, known)
        to_near = t - _rows(source, p, d, channels, source_row, source_channel, known)
        to_far = t - _rows(source, n, d, channels, source_row, source_channel, known)
        total += to_near * to_near - to_far * to_far
    hinge = tl.sum(total, 1) + margin
    hinge = tl.where(hinge < 0, 0.0, hinge)  # keeps NaN
    hinge = tl.where(known, hinge, tl.where(wanted & (sources > 0), float("nan"), 0.0))
    tl.store(loss + i, hinge, mask=i < rows)


@kernel()
def _pull_targets(
    grad, source, positive, negative, loss, slope, keys, rows, sources, channels,
    source_row, source_channel, slope_row, slope_channel, grad_stride, positive_stride, negative_stride, loss_stride,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    active = tl.load(loss + i.to(tl.int64) * loss_stride, mask=i < rows, other=0.0) > 0
    p, near = _partner(positive, i, positive_stride, sources, active)
    n, far = _partner(negative, i, negative_stride, sources, active)
    active = near & far
    if tl.program_id(1) == 0:
        tl.store(keys + i, tl.where(active, p, sources).to(tl.int32), mask=i < rows)
        tl.store(keys + rows + i, tl.where(active, n, sources).to(tl.int32), mask=i < rows)
    g = 2 * tl.load(grad + i.to(tl.int64) * grad_stride, mask=active, other=0.0).to(tl.float32)
    apart = _rows(source, n, d, channels, source_row, source_channel, active)
    apart -= _rows(source, p, d, channels, source_row, source_channel, active)
    pull = (g[:, None] * apart).to(slope.dtype.element_ty)
    at = (i.to(tl.int64) * slope_row)[:, None] + spaced(d, slope_channel)[None, :]
    tl.store(slope + at, pull, mask=(i < rows)[:, None] & (d < channels)[None, :])


@kernel(fixed=("target", "target_row"))
def _add_draws(
    grad, target, source, keys, draws, total, rows, sources, channels,
    target_row, target_channel, source_row, source_channel, grad_stride,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row = tl.load(keys + place)
    before = tl.load(keys + place - 1, mask=place > 0, other=-1)
    if (row >= sources) | (before == row):
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    at = source + row.to(tl.int64) * source_row + spaced(d, source_channel)
    s = tl.load(at, mask=d < channels, other=0.0).to(tl.float32)
    whole = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    more = True
    while more:
        j = place + tl.arange(0, BLOCK_R)
        own = tl.load(keys + j, mask=j < 2 * rows, other=-1) == row
        draw = tl.load(draws + j, mask=own, other=0)
        i = tl.where(draw < rows, draw, draw - rows)
        g = 2 * tl.load(grad + i * grad_stride, mask=own, other=0.0).to(tl.float32)
        g = tl.where(draw < rows, g, -g)
        apart = s[None, :] - _rows(target, i, d, channels, target_row, target_channel, own)
        whole += tl.where(own[:, None], g[:, None] * apart, 0.0)
        place += BLOCK_R
        more = tl.sum(own.to(tl.int32), 0) == BLOCK_R
    slope = tl.sum(whole, 0).to(total.dtype.element_ty)
    tl.store(total + row.to(tl.int64) * channels + d, slope, mask=d < channels)
