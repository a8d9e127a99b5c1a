"""The contrastive bound without covariance or with a diagonal one: loss and softmax forward, gradient backward.

    a_k = q.mu_k / tau + q^2.Sigma_k / (2 tau^2)        loss = logsumexp_k(a_k) - q.mu_y / tau
    d loss / d q = sum_k (p_k - [k = y]) mu_k / tau + q sum_k p_k Sigma_k / tau^2

A program owns a tile of pixels and walks over the channels; both sums over classes are products on tensor cores, of
bfloat16 parts that together hold all 24 bits of a float32 (``_product``). A first kernel scales the statistics by
1 / tau, 1 / (2 tau^2) and their norms and splits them; norms of q accumulate beside the products, so normalisation
scales the finished logits. Traffic: one read of the features forward; one read and one write backward, where more than
256 channels are normalised a second read, mostly from cache. Memory beyond inputs and outputs: 12 bytes for each number
of the statistics, padded to 64 channels, and posterior and statistics themselves if not contiguous.
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

# Tiles by product and number of classes. Pixels x classes stay in registers. Every tile reads all statistics from L2,
# 12 bytes for each of their numbers, so tiles of many pixels; few channels at a time, or the backward spills.
MOST_CLASSES = 64
FORWARD = {
    "bf16": {
        32: {"BLOCK_P": 128, "BLOCK_A": 32, "num_warps": 8, "num_stages": 3},
        64: {"BLOCK_P": 64, "BLOCK_A": 16, "num_warps": 8, "num_stages": 2},
    },
    "fma": {
        32: {"BLOCK_P": 64, "BLOCK_A": 16, "num_warps": 4},
        64: {"BLOCK_P": 32, "BLOCK_A": 16, "num_warps": 4},
    },
}
BACKWARD = FORWARD | {
    "bf16": {
        32: {"BLOCK_P": 128, "BLOCK_A": 16, "num_warps": 8, "num_stages": 2},
        64: {"BLOCK_P": 64, "BLOCK_A": 16, "num_warps": 8, "num_stages": 2},
    }
}
PADDING = 64  # channels of the split statistics are padded to a multiple of it and read without masks
# Numbers of bfloat16 parts that represent q and q^2 exactly, or to 24 bits.
PARTS = {torch.bfloat16: (1, 2), torch.float16: (2, 3), torch.float32: (3, 3)}


def serves(features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, *options) -> bool:
    """Whether ``forward`` takes these arguments: 32 or 16 bits, at most 64 classes, no full covariance."""
    simple = covariance is None or covariance.dim() == 2
    return simple and features.dtype in DTYPES and len(mean) <= MOST_CLASSES and labels.numel() < 2**31 - 64


def serves_backward(
    grad: Tensor, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, *others
) -> bool:
    """Whether ``backward`` takes these arguments."""
    return serves(features, labels, mean, covariance)


def forward(
    features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, temperature: float, normalize: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss (N, H, W), 0 where ignored, and softmax (N, H, W, K), float32, of features (N, A, H, W), any strides."""
    loss = features.new_empty(labels.shape, dtype=torch.float32)
    posterior = features.new_empty((*labels.shape, len(mean)), dtype=torch.float32)
    statistics, sizes, constants = _statistics(features, mean, covariance, temperature, normalize)
    tile = _tile(FORWARD[constants["PRODUCT"]], len(mean))
    launch(
        _bound_forward, (cdiv(labels.numel(), tile["BLOCK_P"]),), features, labels, statistics, loss, posterior,
        labels.numel(), *sizes, ignore_index, *feature_strides(features), *pixel_strides(labels),
        **tile, **constants, Q_PARTS=PARTS[features.dtype][0], SQUARE_PARTS=PARTS[features.dtype][1],
    )  # fmt: skip
    return loss, posterior


def backward(
    grad: Tensor, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, posterior: Tensor,
    temperature: float, normalize: bool, ignore_index: int,
) -> Tensor:  # fmt: skip
    """Gradient by the features, in their dtype, with ``grad`` (N, H, W) applied before the rounding."""
    slope = torch.empty_like(features)
    statistics, sizes, constants = _statistics(features, mean, covariance, temperature, normalize)
    tile = _tile(BACKWARD[constants["PRODUCT"]], len(mean))
    launch(
        _bound_backward, (cdiv(labels.numel(), tile["BLOCK_P"]),), features, labels, statistics, grad,
        posterior.contiguous(), slope, labels.numel(), *sizes, ignore_index,
        *feature_strides(features), *pixel_strides(labels), *pixel_strides(grad), *feature_strides(slope),
        **tile, **constants, Q_PARTS=PARTS[features.dtype][0], SQUARE_PARTS=PARTS[features.dtype][1],
    )  # fmt: skip
    return slope


def _tile(tiles: dict[int, dict], classes: int) -> dict[str, int]:
    if classes > MOST_CLASSES:
        raise ValueError(f"mean has {classes} classes, but the Triton kernel holds at most {MOST_CLASSES}")
    return next(tile for most, tile in tiles.items() if classes <= most)


def _statistics(features: Tensor, mean: Tensor, covariance: Tensor | None, temperature: float, normalize: bool):
    """(statistic, part, class, channel) as scaled and split, padded by zeros; sizes and constants of the kernels."""
    classes, channels = mean.shape
    product, width = exact_product(features.device), cdiv(channels, PADDING) * PADDING
    parts, dtype = (3, torch.bfloat16) if product == "bf16" else (1, torch.float32)
    scaled = mean.new_empty(1 if covariance is None else 2, parts, classes, width, dtype=dtype)
    if covariance is not None and covariance.dtype != mean.dtype:  # one kernel reads both
        mean, covariance = mean.to(torch.float32), covariance.to(torch.float32)
    rows = mean.contiguous()
    spread = rows if covariance is None else covariance.contiguous()
    launch(
        _scale_statistics, (classes, len(scaled)), rows, spread, scaled, classes, channels, width,
        1 / temperature, 1 / (2 * temperature**2),
        NORMALIZE=normalize, PRODUCT=product, BLOCK=block(channels, PADDING, 1024), num_warps=4,
    )  # fmt: skip
    constants = {"BLOCK_K": block(classes, 16, MOST_CLASSES), "COVARIANCE": covariance is not None}
    constants |= {"NORMALIZE": normalize, "PRODUCT": product}
    return scaled, (channels, width, classes), constants


@kernel(fixed=("rows", "width"))
def _scale_statistics(
    rows, spread, out, classes, channels, width, factor, spread_factor,
    NORMALIZE: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """factor * row, or of row / |row| with 0 / 0 = 0, split into parts; channels of the padding are zeros.

    Of the means, and by the second programs of the grid of the covariances, ``spread``.
    """
    row = tl.program_id(0)
    if tl.program_id(1) == 1:
        rows = spread
        factor = spread_factor
        out += (1 if PRODUCT == "fma" else 3) * classes * width
    row_at = rows + row.to(tl.int64) * channels
    scale = factor
    if NORMALIZE:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, channels, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(row_at + i, mask=i < channels, other=0.0).to(tl.float32)
            total += x * x
        scale = factor * _inverse_root(tl.sum(total))
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(row_at + i, mask=i < channels, other=0.0).to(tl.float32) * scale
        to = out + row * width + i
        if PRODUCT == "fma":
            tl.store(to, x, mask=i < width)
        else:
            high, middle, low = split(x)
            tl.store(to, high, mask=i < width)
            tl.store(to + classes * width, middle, mask=i < width)
            tl.store(to + 2 * classes * width, low, mask=i < width)


@triton.jit
def _inverse_root(squared):
    """1 / sqrt(x), and 0 for x = 0, so that zero vectors stay 0."""
    return tl.where(squared > 0, 1.0 / tl.sqrt(tl.where(squared > 0, squared, 1.0)), 0.0)


@triton.jit
def _product(x, statistics, known, part, X_PARTS: tl.constexpr, PRODUCT: tl.constexpr):
    """x @ statistics of one block, exact to float32: of three parts each, the six products above 2^-24 of the whole.

    statistics: pointers to the first part, ``part`` elements apart from the next; zero where not ``known``. Sums start
    at zero, small ones first, as tensor cores cut what they add to a large one; blocks are added outside, to nearest.
    """
    first = tl.load(statistics, mask=known, other=0.0)
    if PRODUCT == "fma":
        total = tl.dot(x, first, input_precision="ieee")
    else:
        second = tl.load(statistics + part, mask=known, other=0.0)
        third = tl.load(statistics + 2 * part, mask=known, other=0.0)
        high, middle, low = split(x)
        total = tl.dot(high, third)
        if X_PARTS > 1:
            total = tl.dot(middle, second, total)
        if X_PARTS > 2:
            total = tl.dot(low, first, total)
        total = tl.dot(high, second, total)
        if X_PARTS > 1:
            total = tl.dot(middle, first, total)
        total = tl.dot(high, first, total)
    return total


@triton.jit
def _project(
    rows, statistics, inside, channels, width, classes, channel_stride,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, COVARIANCE: tl.constexpr,
    PRODUCT: tl.constexpr, Q_PARTS: tl.constexpr, SQUARE_PARTS: tl.constexpr,
):  # fmt: skip
    """q @ mean, q^2 @ covariance and |q|^2 of a tile of pixels."""
    k = tl.arange(0, BLOCK_K)
    part = classes * width
    parts: tl.constexpr = 1 if PRODUCT == "fma" else 3
    first = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    second = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    squared = tl.zeros([BLOCK_P], tl.float32)
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        read = inside[:, None] & (a < channels)[None, :]
        q = tl.load(rows[:, None] + spaced(a, channel_stride)[None, :], mask=read, other=0.0).to(tl.float32)
        at = statistics + k[None, :] * width + a[:, None]
        known = (k < classes)[None, :]
        first += _product(q, at, known, part, Q_PARTS, PRODUCT)
        if COVARIANCE:
            second += _product(q * q, at + parts * part, known, part, SQUARE_PARTS, PRODUCT)
        squared += tl.sum(q * q, 1)
    return first, second, squared


@kernel(fixed=("width",))
def _bound_forward(
    features, labels, statistics, loss, posterior, pixels, channels, width, classes, ignore_index,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, COVARIANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, PRODUCT: tl.constexpr, Q_PARTS: tl.constexpr, SQUARE_PARTS: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    inside = p < pixels
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    first, second, squared = _project(
        rows, statistics, inside, channels, width, classes, channel_stride,
        BLOCK_P, BLOCK_A, BLOCK_K, COVARIANCE, PRODUCT, Q_PARTS, SQUARE_PARTS,
    )  # fmt: skip
    if NORMALIZE:
        inverse = _inverse_root(squared)[:, None]
        first = first * inverse
        second = second * inverse * inverse
    logits = tl.where((k < classes)[None, :], first + second, float("-inf"))
    top = tl.max(logits, 1)
    share = tl.exp(logits - top[:, None])
    total = tl.sum(share, 1)
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    own = tl.sum(tl.where(k[None, :] == y[:, None], first, 0.0), 1)
    tl.store(loss + p, tl.where(y >= 0, top + tl.log(total) - own, 0.0), mask=inside)
    at = posterior + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    tl.store(at, share / total[:, None], mask=inside[:, None] & (k < classes)[None, :])


@kernel(fixed=("width",))
def _bound_backward(
    features, labels, statistics, grad, posterior, slope, pixels, channels, width, classes, ignore_index,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2, gd1, gd2, gs0, gs1, gs2,
    od1, od2, os0, os1, os2, out_stride,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, COVARIANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, PRODUCT: tl.constexpr, Q_PARTS: tl.constexpr, SQUARE_PARTS: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    inside = p < pixels
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    shares = posterior + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    share = tl.load(shares, mask=inside[:, None] & (k < classes)[None, :], other=0.0)
    pull = share - (k[None, :] == y[:, None]).to(tl.float32)
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    inverse = tl.full([BLOCK_P], 1.0, tl.float32)
    along = tl.zeros([BLOCK_P], tl.float32)
    if NORMALIZE:  # subtract the component of the gradient along q
        first, second, squared = _project(
            rows, statistics, inside, channels, width, classes, channel_stride,
            BLOCK_P, BLOCK_A, BLOCK_K, COVARIANCE, PRODUCT, Q_PARTS, SQUARE_PARTS,
        )  # fmt: skip
        inverse = _inverse_root(squared)
        along = (tl.sum(first * pull, 1) + 2 * tl.sum(second * share, 1) * inverse) * inverse * inverse
    weight = tl.load(grad + locate(p, gd1, gd2, gs0, gs1, gs2), mask=y >= 0, other=0.0).to(tl.float32)
    to = slope + locate(p, od1, od2, os0, os1, os2)
    part = classes * width
    parts: tl.constexpr = 1 if PRODUCT == "fma" else 3
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        written = inside[:, None] & (a < channels)[None, :]
        at = statistics + k[:, None] * width + a[None, :]
        known = (k < classes)[:, None]
        total = _product(pull, at, known, part, 3, PRODUCT)
        if COVARIANCE or NORMALIZE:
            q = tl.load(rows[:, None] + spaced(a, channel_stride)[None, :], mask=written, other=0.0)
            q = q.to(tl.float32)
        if COVARIANCE:
            total += 2 * _product(share, at + parts * part, known, part, 3, PRODUCT) * q * inverse[:, None]
        if NORMALIZE:
            total = (total - q * along[:, None]) * inverse[:, None]
        total = tl.where((y >= 0)[:, None], total * weight[:, None], 0.0)
        tl.store(to[:, None] + spaced(a, out_stride)[None, :], total.to(slope.dtype.element_ty), mask=written)
