"""Count, mean and centred second moment of the pixel features of each class, the full matrix.

    mean = c + S / n        m2 = sum (x - c)(x - c)^T - S S^T / n        S = sum (x - c)

A stable counting sort lists the pixels of each class in order. Panels of at most ``panel_rows`` of them, each of one
class, are gathered, less the class's pivot c (the mean of its first 16 pixels) in float32, and multiplied by
themselves, by tiles of the lower triangle. The first panel of a class is written to m2 itself, the others to partial
tiles, and a last kernel adds them up in float64 and in order, subtracts S S^T / n and mirrors the triangle. The grid
follows from sizes alone: panels that do not exist end at once. So nothing waits for the device, and the bits never
change.

On tensor cores d = x - c is a sum of three bfloat16 numbers, and six of their nine products hold 24 bits of d d^T.
Sums of BLOCK_R rows start at zero and are added outside, where additions round to nearest.

Memory beyond inputs and outputs: partial tiles of at most 1/10 of the size that the features have in float32, which
decides ``panel_rows``; 4 bytes a pixel; A floats for each panel and class.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels import _common
from fastuda.kernels._common import (
    DTYPES,
    block,
    cdiv,
    counting_sort,
    exact_product,
    feature_strides,
    launch,
    locate,
    spaced,
)
from fastuda.kernels._launch import kernel

# Tile of m2 and rows at a time: the largest that do not spill registers. Six sums of 128 x 128 do not fit into the
# tensor memory of Blackwell's larger chips, and channels that are not contiguous take more registers for addresses.
TILES = {
    "fma": {"BLOCK_A": 64, "BLOCK_R": 16, "num_warps": 8},
    "narrow": {"BLOCK_A": 64, "BLOCK_R": 32, "num_warps": 8},
    "ampere": {"BLOCK_A": 128, "BLOCK_R": 16, "num_warps": 8},
    "hopper": {"BLOCK_A": 128, "BLOCK_R": 32, "num_warps": 8},
}
SHORTEST_PANEL = 2048
PANEL_STEP = 32
SHORTEST_CHUNK = 1024  # labels in a chunk of the sort
MOST_CHUNKS = 512
PIVOT_ROWS = 16
FINISHED_AT_ONCE = 64


def serves(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> bool:
    """Whether ``class_moments_full`` takes these arguments: features of 32 or 16 bits, pixels that 32 bits count."""
    panels = labels.numel() // SHORTEST_PANEL + num_classes
    return features.dtype in DTYPES and labels.numel() < 2**31 - 2**20 and max(panels, num_classes) < 2**16


def class_moments_full(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int, *, terms: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    """(count int64 (K,), mean (K, A), m2 (K, A, A)) of features (N, A, H, W) or (P, A), any strides, without a copy.

    terms: of the bfloat16 products on tensor cores: 6 for float32's accuracy, 3 for 16 bits of x - c, 1 for 8.
    """
    pixels, channels = labels.numel(), features.shape[1]
    product, strides = exact_product(features.device), feature_strides(features)
    tile = _tile(features.device, product, channels, channels_last=strides[-1] is None)
    size = tile["BLOCK_A"]
    across = cdiv(channels, size)
    tiles = across * (across + 1) // 2
    panel_rows = _panel_rows(channels, tiles * size * size)
    extra = pixels // panel_rows  # panels that are not the first of their class, at most
    order, (count, starts, panel_starts, slots) = counting_sort(
        labels, num_classes, ignore_index, SHORTEST_CHUNK, MOST_CHUNKS, panel_rows=panel_rows
    )

    empty = {"dtype": torch.float32, "device": features.device}
    pivots = torch.empty(num_classes, channels, **empty)
    columns = block(channels, 16, 256)
    launch(
        _find_pivots, (num_classes, cdiv(channels, columns)), features, order, starts, pivots, channels,
        *strides, BLOCK_R=PIVOT_ROWS, BLOCK_A=columns, num_warps=4,
    )  # fmt: skip
    mean, m2 = torch.empty(num_classes, channels, **empty), torch.empty(num_classes, channels, channels, **empty)
    partials = torch.empty(extra, tiles, size, size, **empty)
    sums = torch.empty(extra + num_classes, channels, **empty)
    plan = starts, panel_starts, slots
    launch(
        _multiply_panels, (tiles, extra + num_classes), features, order, *plan, pivots, m2, partials, sums, channels,
        num_classes, panel_rows, *strides,
        **tile, BLOCK_K=block(num_classes, 16, 2**16), PRODUCT=product, TERMS=terms, CHANNELS_LAST=strides[-1] is None,
    )  # fmt: skip
    step = min(size, FINISHED_AT_ONCE)
    steps = cdiv(channels, step)
    launch(
        _add_panels, (steps * (steps + 1) // 2, num_classes), *plan, pivots, partials, sums, mean, m2, channels,
        BLOCK_A=size, STEP=step, num_warps=4,
    )  # fmt: skip
    return count, mean, m2


def _tile(device: torch.device, product: str, channels: int, channels_last: bool) -> dict[str, int]:
    capability = _common.capability(device) or 90
    if product == "fma":
        name = "fma"
    elif not channels_last or 100 <= capability < 120:
        name = "narrow"
    else:
        name = "hopper" if capability == 90 else "ampere"
    return TILES[name] | {"BLOCK_A": block(channels, 16, TILES[name]["BLOCK_A"])}


def _panel_rows(channels: int, tile_numbers: int) -> int:
    """Rows of a panel such that P // rows partial triangles have at most 1/10 of P x A numbers."""
    rows = max(SHORTEST_PANEL, cdiv(10 * tile_numbers, channels))
    return cdiv(rows, PANEL_STEP) * PANEL_STEP


@kernel(fixed=("s0", "s1"))
def _find_pivots(
    features, order, starts, pivots, channels, d1, d2, s0, s1, s2, channel_stride,
    BLOCK_R: tl.constexpr, BLOCK_A: tl.constexpr,
):  # fmt: skip
    label = tl.program_id(0)
    a = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)
    begin = tl.load(starts + label)
    rows = tl.minimum(tl.load(starts + label + 1) - begin, BLOCK_R)
    r = tl.arange(0, BLOCK_R)
    at = locate(tl.load(order + begin + r, mask=r < rows, other=0), d1, d2, s0, s1, s2)
    read = (r < rows)[:, None] & (a < channels)[None, :]
    x = tl.load(features + at[:, None] + spaced(a, channel_stride)[None, :], mask=read, other=0.0)
    pivot = tl.sum(x.to(tl.float32), 0) / tl.maximum(rows, 1)
    pivot = tl.where(tl.abs(pivot) < float("inf"), pivot, 0.0)  # an infinite pivot would turn infinity into NaN
    tl.store(pivots + label.to(tl.int64) * channels + a, pivot, mask=a < channels)


@triton.jit
def _triangle(tile):
    """(row, column) of the ``tile``-th block of a lower triangle, row by row."""
    row = ((tl.sqrt(8.0 * tile + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where((row + 1) * (row + 2) // 2 <= tile, row + 1, row)  # where the root was rounded
    row = tl.where(row * (row + 1) // 2 > tile, row - 1, row)
    return row, tile - row * (row + 1) // 2


@triton.jit
def _deviations(features, at, inside, pivots, a, channels, channel_stride, CHANNELS_LAST: tl.constexpr):
    """x - c, (channels, pixels), 0 outside; read along the dimension that may be contiguous."""
    pivot = tl.load(pivots + a, mask=a < channels, other=0.0)
    along = spaced(a, channel_stride)
    if CHANNELS_LAST:
        read = inside[:, None] & (a < channels)[None, :]
        x = tl.load(features + at[:, None] + along[None, :], mask=read, other=0.0).to(tl.float32)
        return tl.trans(tl.where(read, x - pivot[None, :], 0.0))
    read = (a < channels)[:, None] & inside[None, :]
    x = tl.load(features + at[None, :] + along[:, None], mask=read, other=0.0).to(tl.float32)
    return tl.where(read, x - pivot[:, None], 0.0)


@triton.jit
def _part(x):
    """x rounded to bfloat16, and what is left."""
    high = x.to(tl.bfloat16)
    return high, x - high.to(tl.float32)


@triton.jit
def _outer(left, right, PRODUCT: tl.constexpr, TERMS: tl.constexpr):
    """left @ right^T of (channels, pixels), the small products first."""
    right = tl.trans(right)
    if PRODUCT == "fma":
        return tl.dot(left, right, input_precision="ieee")
    a1, rest_a = _part(left)
    b1, rest_b = _part(right)
    if TERMS == 1:
        return tl.dot(a1, b1)
    a2, rest_a = _part(rest_a)
    b2, rest_b = _part(rest_b)
    if TERMS == 3:
        return tl.dot(a1, b1, tl.dot(a1, b2, tl.dot(a2, b1)))
    a3, rest_a = _part(rest_a)
    b3, rest_b = _part(rest_b)
    total = tl.dot(a1, b3, tl.dot(a2, b2, tl.dot(a3, b1)))
    return tl.dot(a1, b1, tl.dot(a1, b2, tl.dot(a2, b1, total)))


@kernel(fixed=("s0", "s1"))
def _multiply_panels(
    features, order, starts, panel_starts, slots, pivots, m2, partials, sums, channels, classes, panel_rows,
    d1, d2, s0, s1, s2, channel_stride,
    BLOCK_A: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr, TERMS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    panel = tl.program_id(1)
    if panel >= tl.load(panel_starts + classes):
        return
    k = tl.arange(0, BLOCK_K)
    following = tl.load(panel_starts + 1 + k, mask=k < classes, other=2147483647)
    label = tl.sum((following <= panel).to(tl.int32), 0)
    index = panel - tl.load(panel_starts + label)
    begin = tl.load(starts + label) + index * panel_rows
    end = tl.minimum(begin + panel_rows, tl.load(starts + label + 1))
    row, column = _triangle(tile)
    i = row * BLOCK_A + tl.arange(0, BLOCK_A)
    j = column * BLOCK_A + tl.arange(0, BLOCK_A)
    pivots += label.to(tl.int64) * channels

    square = tl.zeros([BLOCK_A, BLOCK_A], tl.float32)
    total = tl.zeros([BLOCK_A, BLOCK_R], tl.float32)
    for start in range(begin, end, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        at = locate(tl.load(order + r, mask=r < end, other=0), d1, d2, s0, s1, s2)
        left = _deviations(features, at, r < end, pivots, i, channels, channel_stride, CHANNELS_LAST)
        right = _deviations(features, at, r < end, pivots, j, channels, channel_stride, CHANNELS_LAST)
        square += _outer(left, right, PRODUCT, TERMS)
        total += left

    if row == column:
        tl.store(sums + panel.to(tl.int64) * channels + i, tl.sum(total, 1), mask=i < channels)
    if index == 0:
        to = (label.to(tl.int64) * channels + i)[:, None] * channels + j[None, :]
        tl.store(m2 + to, square, mask=(i < channels)[:, None] & (j < channels)[None, :])
    else:
        slot = (tl.load(slots + label) + index - 1).to(tl.int64) * tl.num_programs(0) + tile
        inside = tl.arange(0, BLOCK_A)[:, None] * BLOCK_A + tl.arange(0, BLOCK_A)[None, :]
        tl.store(partials + slot * (BLOCK_A * BLOCK_A) + inside, square)


@triton.jit
def _add_sums(sums, first, panels, a, channels, STEP: tl.constexpr):
    total = tl.zeros([STEP], tl.float64)
    at = sums + first.to(tl.int64) * channels + a
    for _ in range(panels):
        total += tl.load(at, mask=a < channels, other=0.0).to(tl.float64)
        at += channels
    return total


@kernel()
def _add_panels(
    starts, panel_starts, slots, pivots, partials, sums, mean, m2, channels, BLOCK_A: tl.constexpr, STEP: tl.constexpr
):
    row, column = _triangle(tl.program_id(0))
    label = tl.program_id(1)
    i = row * STEP + tl.arange(0, STEP)
    j = column * STEP + tl.arange(0, STEP)
    n = tl.load(starts + label + 1) - tl.load(starts + label)
    first = tl.load(panel_starts + label)
    panels = tl.load(panel_starts + label + 1) - first
    each = 1.0 / tl.maximum(n, 1).to(tl.float64)
    left = _add_sums(sums, first, panels, i, channels, STEP)
    right = _add_sums(sums, first, panels, j, channels, STEP)
    if column == 0:
        at = label.to(tl.int64) * channels + i
        pivot = tl.load(pivots + at, mask=i < channels, other=0.0)  # 0 without pixels
        tl.store(mean + at, (pivot.to(tl.float64) + left * each).to(tl.float32), mask=i < channels)

    lower = (i[:, None] >= j[None, :]) & (i < channels)[:, None]
    base = m2 + label.to(tl.int64) * channels * channels
    at = i.to(tl.int64)[:, None] * channels + j[None, :]
    total = tl.load(base + at, mask=lower & (n > 0), other=0.0).to(tl.float64)
    across = tl.cdiv(channels, BLOCK_A)
    tiles = across * (across + 1) // 2
    tile_row = row * STEP // BLOCK_A
    tile = tile_row * (tile_row + 1) // 2 + column * STEP // BLOCK_A
    inside = (i % BLOCK_A)[:, None] * BLOCK_A + (j % BLOCK_A)[None, :]
    more = partials + (tl.load(slots + label).to(tl.int64) * tiles + tile) * (BLOCK_A * BLOCK_A)
    for _ in range(1, panels):
        total += tl.load(more + inside, mask=lower, other=0.0).to(tl.float64)
        more += tiles * (BLOCK_A * BLOCK_A)
    total -= left[:, None] * (right * each)[None, :]
    total = tl.where((i[:, None] == j[None, :]) & (total < 0), 0.0, total)  # keeps NaN
    value = total.to(tl.float32)
    tl.debug_barrier()  # m2 is read above; of a block on the diagonal only the lower half is
    tl.store(base + at, value, mask=lower)
    tl.store(base + j.to(tl.int64)[None, :] * channels + i[:, None], value, mask=lower)
