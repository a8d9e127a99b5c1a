"""Count, mean and centred second moment of the pixel features of each class, diagonal.

A program walks over a chunk of pixels for a block of channels and a block of classes. For each class of the chunk its
first pixel is the pivot c; the sums of d = x - c and d^2 of all classes are two products of the one-hot labels with the
features, which tensor cores make free beside the one read of the features. A second kernel merges the chunks:

    mean = sum_j n_j (c_j + S_j / n_j) / n        m2 = sum_j (Q_j - S_j^2 / n_j) + n_j (mean_j - mean)^2

in float64 and in a fixed order. Memory beyond inputs and outputs: 3 x K x A float32 for each chunk of at least 64 K
pixels, 5 % of the size the features have in float32 (one 3 x K x A block at least).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import (
    DTYPES,
    block,
    cdiv,
    exact_dot,
    exact_product,
    feature_strides,
    launch,
    locate,
    pixel_strides,
    read_labels,
    spaced,
    split,
)
from fastuda.kernels._launch import kernel

# Without tensor cores each thread computes its part of the product alone: larger tiles would spill registers.
TILES = {
    "bf16": {"BLOCK_P": 32, "BLOCK_A": 64, "num_warps": 8, "num_stages": 3},
    "fma": {"BLOCK_P": 32, "BLOCK_A": 32, "num_warps": 8},
}
BLOCK_LABELS = 128
MERGED_AT_ONCE = 16
SHORTEST_CHUNK = 1024


def serves(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> bool:
    """Whether ``class_moments`` takes these arguments: features of 32 or 16 bits, at most 2^31 - 1 pixels."""
    return features.dtype in DTYPES and labels.numel() < 2**31 - SHORTEST_CHUNK


def class_moments(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, ...]:
    """(count int64 (K,), mean (K, A), m2 (K, A)) of features (N, A, H, W) or (P, A), any strides, without a copy."""
    pixels, channels = labels.numel(), features.shape[1]
    chunk_rows = cdiv(max(64 * num_classes, SHORTEST_CHUNK), BLOCK_LABELS) * BLOCK_LABELS
    chunks = cdiv(pixels, chunk_rows)
    count = features.new_empty(num_classes, dtype=torch.int64)
    mean, m2 = (features.new_empty(num_classes, channels, dtype=torch.float32) for _ in range(2))
    partials = features.new_empty(chunks, num_classes, 3, channels, dtype=torch.float32)
    counts = features.new_empty(chunks, num_classes, dtype=torch.int32)

    product = exact_product(features.device)
    tile = TILES[product] | {"BLOCK_K": block(num_classes, 16, 32 if product == "fma" else 64), "PRODUCT": product}
    grid = chunks, cdiv(channels, tile["BLOCK_A"]), cdiv(num_classes, tile["BLOCK_K"])
    strides = *feature_strides(features), *pixel_strides(labels)
    sizes = pixels, channels, num_classes, ignore_index
    launch(
        _sum_chunks, grid, features, labels, partials, counts, *sizes, chunk_rows, *strides,
        **tile, BLOCK_LABELS=BLOCK_LABELS,
    )  # fmt: skip
    columns = block(channels, 16, 64)
    grid = num_classes, max(1, cdiv(channels, columns))
    sizes = chunks, num_classes, channels
    launch(
        _merge_chunks, grid, partials, counts, count, mean, m2, *sizes,
        BLOCK_A=columns, BLOCK_C=MERGED_AT_ONCE, num_warps=4,
    )  # fmt: skip
    return count, mean, m2


@triton.jit
def _exact_sums(member, x):
    """Sums of x and x^2 of each class, for bfloat16 x: x is one part, x^2 two, and so three products hold all bits.

    x^2 - 2 c x + c^2 of the sums cancels only where x is near c, and there they fit into float32 without rounding: 16
    bits of each square and 5 of the 32 rows. So the pivot is subtracted from the sums, not from each pixel.
    """
    one = member.to(tl.float32).to(tl.bfloat16)
    wide = x.to(tl.float32)
    high, low, _ = split(wide * wide)
    q = tl.dot(one, low)
    return tl.dot(one, x), tl.dot(one, high, q)


@kernel()
def _sum_chunks(
    features, labels, partials, counts, pixels, channels, classes, ignore_index, chunk_rows,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, PRODUCT: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    a = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)
    lowest = tl.program_id(2) * BLOCK_K
    k = lowest + tl.arange(0, BLOCK_K)
    begin = chunk * chunk_rows
    end = tl.minimum(begin + chunk_rows, pixels)
    columns = features + spaced(a, channel_stride)
    rows = partials + (chunk.to(tl.int64) * classes + k) * 3 * channels

    count = tl.zeros([BLOCK_K], tl.int32)
    first = tl.full([BLOCK_K], pixels, tl.int32)
    for start in range(begin, end, BLOCK_LABELS):
        p = start + tl.arange(0, BLOCK_LABELS)
        y = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
        member = y[:, None] == k[None, :]
        count += tl.sum(member.to(tl.int32), 0)
        first = tl.minimum(first, tl.min(tl.where(member, p[:, None], pixels), 0))
    if tl.program_id(1) == 0:
        tl.store(counts + chunk * classes + k, count, mask=k < classes)
    here = (first < pixels)[:, None] & (a < channels)[None, :]
    offset = locate(tl.minimum(first, pixels - 1), fd1, fd2, fs0, fs1, fs2)
    pivot = tl.load(columns[None, :] + offset[:, None], mask=here, other=0.0).to(tl.float32)
    pivot = tl.where(tl.abs(pivot) < float("inf"), pivot, 0.0)  # an infinite pivot would turn infinity into NaN
    to = rows[:, None] + a[None, :]
    written = (k < classes)[:, None] & (a < channels)[None, :]
    tl.store(to, pivot, mask=written)
    tl.debug_barrier()  # other threads read these pivots below

    total = tl.zeros([BLOCK_K, BLOCK_A], tl.float32)
    square = tl.zeros([BLOCK_K, BLOCK_A], tl.float32)
    pivots = partials + chunk.to(tl.int64) * classes * 3 * channels + a
    for start in range(begin, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        y = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
        read = ((y >= lowest) & (y < lowest + BLOCK_K))[:, None] & (a < channels)[None, :]
        x = tl.load(columns[None, :] + locate(p, fd1, fd2, fs0, fs1, fs2)[:, None], mask=read, other=0.0)
        member = k[:, None] == y[None, :]
        if PRODUCT == "bf16" and x.dtype == tl.bfloat16:
            number = tl.sum(member.to(tl.float32), 1)[:, None]
            s, q = _exact_sums(member, x)
            s_shifted = s - number * pivot
            total += s_shifted
            square += (q - pivot * s) - pivot * s_shifted
        else:
            c = tl.load(pivots[None, :] + (y.to(tl.int64) * 3 * channels)[:, None], mask=read, other=0.0)
            d = x.to(tl.float32) - c
            total += exact_dot(member, d, PRODUCT)
            square += exact_dot(member, d * d, PRODUCT)
    tl.store(to + channels, total, mask=written)
    tl.store(to + 2 * channels, square, mask=written)

    # A NaN or infinity in one class spoils the product for all classes: the sums are computed again, row by row.
    if tl.sum((total != total).to(tl.int32) + (square != square).to(tl.int32)) > 0:
        tl.debug_barrier()
        tl.store(to + channels, tl.zeros_like(total), mask=written)
        tl.store(to + 2 * channels, tl.zeros_like(total), mask=written)
        for row in range(end - begin):
            p = begin + row + tl.arange(0, 1)
            tl.debug_barrier()
            y = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
            read = (y >= lowest) & (y < lowest + BLOCK_K) & (a < channels)
            at = pivots + y.to(tl.int64) * 3 * channels
            x = tl.load(columns + locate(p, fd1, fd2, fs0, fs1, fs2), mask=read, other=0.0).to(tl.float32)
            d = x - tl.load(at, mask=read, other=0.0)
            tl.store(at + channels, tl.load(at + channels, mask=read, other=0.0) + d, mask=read)
            tl.store(at + 2 * channels, tl.load(at + 2 * channels, mask=read, other=0.0) + d * d, mask=read)


@kernel()
def _merge_chunks(
    partials, counts, count, mean, m2, chunks, classes, channels, BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr
):
    label = tl.program_id(0)
    a = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)
    pixels = tl.zeros([BLOCK_C], tl.int64)
    total = tl.zeros([BLOCK_C, BLOCK_A], tl.float64)
    for start in range(0, chunks, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        n = tl.load(counts + c * classes + label, mask=c < chunks, other=0)
        pixels += n
        read = (n > 0)[:, None] & (a < channels)[None, :]
        at = partials + ((c.to(tl.int64) * classes + label) * 3 * channels)[:, None] + a[None, :]
        pivot = tl.load(at, mask=read, other=0.0).to(tl.float64)
        total += pivot * n[:, None] + tl.load(at + channels, mask=read, other=0.0).to(tl.float64)
    n_all = tl.sum(pixels)
    if tl.program_id(1) == 0:
        tl.store(count + label, n_all)
    average = tl.sum(total, 0) / tl.maximum(n_all, 1).to(tl.float64)

    spread = tl.zeros([BLOCK_C, BLOCK_A], tl.float64)
    for start in range(0, chunks, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        n = tl.load(counts + c * classes + label, mask=c < chunks, other=0)
        read = (n > 0)[:, None] & (a < channels)[None, :]
        at = partials + ((c.to(tl.int64) * classes + label) * 3 * channels)[:, None] + a[None, :]
        pivot = tl.load(at, mask=read, other=0.0).to(tl.float64)
        shift = tl.load(at + channels, mask=read, other=0.0).to(tl.float64) / tl.maximum(n, 1)[:, None].to(tl.float64)
        square = tl.load(at + 2 * channels, mask=read, other=0.0).to(tl.float64)
        within = square - shift * shift * n[:, None]
        within = tl.where(within < 0, 0.0, within)  # keeps NaN
        delta = tl.where(read, pivot + shift - average[None, :], 0.0)
        spread += within + delta * delta * n[:, None]
    out = label.to(tl.int64) * channels + a
    tl.store(mean + out, average.to(tl.float32), mask=a < channels)
    tl.store(m2 + out, tl.sum(spread, 0).to(tl.float32), mask=a < channels)
