"""The contrastive bound without covariance or with a diagonal one: loss and softmax forward, gradient backward.

    a_k = q.mu_k / tau + q^2.Sigma_k / (2 tau^2)        loss = logsumexp_k(a_k) - q.mu_y / tau
    d loss / d q = sum_k (p_k - [k = y]) mu_k / tau + q sum_k p_k Sigma_k / tau^2

A program owns a tile of pixels and walks over the channels; both sums over classes are products on tensor cores. Norms
accumulate beside them, so normalisation scales the finished logits. Traffic: one read of the features forward; one read
and one write backward (a second read, mostly from cache, to normalise). Memory beyond inputs and outputs: 2 K floats.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import (
    block,
    feature_strides,
    launch,
    locate,
    pixel_strides,
    precision,
    read_labels,
)

# Pixels x classes of a tile stay in registers.
MOST_CLASSES = 256
TILES = {  # classes up to: tile
    32: {"BLOCK_P": 64, "BLOCK_A": 32, "num_warps": 4},
    64: {"BLOCK_P": 32, "BLOCK_A": 32, "num_warps": 4},
    256: {"BLOCK_P": 32, "BLOCK_A": 32, "num_warps": 8},
}


def forward(
    features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, temperature: float, normalize: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss (N, H, W), 0 where ignored, and softmax (N, H, W, K), float32, of features (N, A, H, W), any strides."""
    loss = features.new_empty(labels.shape, dtype=torch.float32)
    posterior = features.new_empty((*labels.shape, len(mean)), dtype=torch.float32)
    statistics = _statistics(mean, covariance, normalize)
    sizes, tile, grid = _plan(features, labels, mean)
    launch(
        _bound_forward, grid, features, labels, *statistics, loss, posterior, *sizes, ignore_index, temperature,
        *feature_strides(features), *pixel_strides(labels),
        **tile, COVARIANCE=covariance is not None, NORMALIZE=normalize, PRECISION=precision(features.device),
    )  # fmt: skip
    return loss, posterior


def backward(
    grad: Tensor, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, posterior: Tensor,
    temperature: float, normalize: bool, ignore_index: int,
) -> Tensor:  # fmt: skip
    """Gradient by the features, in their dtype, with ``grad`` (N, H, W) applied before the rounding."""
    slope = torch.empty_like(features)
    statistics = _statistics(mean, covariance, normalize)
    sizes, tile, grid = _plan(features, labels, mean)
    launch(
        _bound_backward, grid, features, labels, *statistics, grad, posterior.contiguous(), slope, *sizes, ignore_index,
        temperature, *feature_strides(features), *pixel_strides(labels), *pixel_strides(grad), *feature_strides(slope),
        **tile, COVARIANCE=covariance is not None, NORMALIZE=normalize, PRECISION=precision(features.device),
    )  # fmt: skip
    return slope


def _plan(features: Tensor, labels: Tensor, mean: Tensor):
    classes, channels = mean.shape
    if classes > MOST_CLASSES:
        raise ValueError(f"mean has {classes} classes, but the Triton kernel holds at most {MOST_CLASSES}")
    tile = next(tile for most, tile in TILES.items() if classes <= most)
    grid = (triton.cdiv(labels.numel(), tile["BLOCK_P"]),)
    return (labels.numel(), channels, classes), tile | {"BLOCK_K": block(classes, 16, MOST_CLASSES)}, grid


def _statistics(mean: Tensor, covariance: Tensor | None, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """mean and covariance in float32 and (2, K) factors that normalise them; placeholders for what is not used."""
    mean = mean.to(torch.float32).contiguous()
    spread = mean if covariance is None else covariance.to(torch.float32).contiguous()
    if not normalize:
        return mean, spread, mean
    scales = mean.new_empty(2, len(mean))
    size, options = block(mean.shape[1], 16, 1024), {"num_warps": 4}
    for i, rows in enumerate((mean, spread)):
        launch(_inverse_norms, (len(mean),), rows, scales[i], rows[0].numel(), BLOCK=size, **options)
    return mean, spread, scales


@triton.jit
def _inverse_norms(rows, out, size, BLOCK: tl.constexpr):
    """1 / |row|, or 0 for a row of zeros."""
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(rows + row.to(tl.int64) * size + i, mask=i < size, other=0.0)
        total += x * x
    tl.store(out + row, _inverse_root(tl.sum(total)))


@triton.jit
def _inverse_root(squared):
    return tl.where(squared > 0, 1.0 / tl.sqrt(tl.where(squared > 0, squared, 1.0)), 0.0)


@triton.jit
def _bound_forward(
    features, labels, mean, spread, scales, loss, posterior, pixels, channels, classes, ignore_index, temperature,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr,
    COVARIANCE: tl.constexpr, NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    first = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    second = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    squared = tl.zeros([BLOCK_P], tl.float32)
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        read = (p < pixels)[:, None] & (a < channels)[None, :]
        q = tl.load(rows[:, None] + (a.to(tl.int64) * channel_stride)[None, :], mask=read, other=0.0).to(tl.float32)
        known = (a < channels)[:, None] & (k < classes)[None, :]
        mu = tl.load(mean + k[None, :] * channels + a[:, None], mask=known, other=0.0)
        first = tl.dot(q, mu, first, input_precision=PRECISION)
        if COVARIANCE:
            sigma = tl.load(spread + k[None, :] * channels + a[:, None], mask=known, other=0.0)
            second = tl.dot(q * q, sigma, second, input_precision=PRECISION)
        if NORMALIZE:
            squared += tl.sum(q * q, 1)
    if NORMALIZE:
        inverse = _inverse_root(squared)[:, None]
        first = first * tl.load(scales + k, mask=k < classes, other=0.0)[None, :] * inverse
        second = second * tl.load(scales + classes + k, mask=k < classes, other=0.0)[None, :] * (inverse * inverse)
    first = first / temperature
    logits = first
    if COVARIANCE:
        logits = first + second / (2 * temperature * temperature)
    logits = tl.where((k < classes)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    share = tl.exp(logits - top[:, None])
    total = tl.sum(share, 1)
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    own = tl.sum(tl.where(k[None, :] == y[:, None], first, 0.0), 1)
    tl.store(loss + p, tl.where(y >= 0, top + tl.log(total) - own, 0.0), mask=p < pixels)
    at = posterior + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    tl.store(at, share / total[:, None], mask=(p < pixels)[:, None] & (k < classes)[None, :])


@triton.jit
def _slopes(rows, mean, spread, a, channel_stride, inside, k, channels, classes, first_weight, second_weight,
            COVARIANCE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """q, sum_k w_k mu_k and sum_k v_k Sigma_k of one block of channels."""
    read = inside[:, None] & (a < channels)[None, :]
    q = tl.load(rows[:, None] + (a.to(tl.int64) * channel_stride)[None, :], mask=read, other=0.0).to(tl.float32)
    known = (k < classes)[:, None] & (a < channels)[None, :]
    mu = tl.load(mean + k[:, None] * channels + a[None, :], mask=known, other=0.0)
    first = tl.dot(first_weight, mu, input_precision=PRECISION)
    second = tl.zeros_like(first)
    if COVARIANCE:
        sigma = tl.load(spread + k[:, None] * channels + a[None, :], mask=known, other=0.0)
        second = tl.dot(second_weight, sigma, input_precision=PRECISION)
    return q, first, second


@triton.jit
def _bound_backward(
    features, labels, mean, spread, scales, grad, posterior, slope, pixels, channels, classes, ignore_index,
    temperature, fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2, gd1, gd2, gs0, gs1, gs2,
    od1, od2, os0, os1, os2, out_stride,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr,
    COVARIANCE: tl.constexpr, NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    inside = p < pixels
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    at = posterior + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    share = tl.load(at, mask=inside[:, None] & (k < classes)[None, :], other=0.0)
    first_weight = (share - (k[None, :] == y[:, None]).to(tl.float32)) / temperature
    second_weight = share / (temperature * temperature)
    if NORMALIZE:
        first_weight *= tl.load(scales + k, mask=k < classes, other=0.0)[None, :]
        second_weight *= tl.load(scales + classes + k, mask=k < classes, other=0.0)[None, :]
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    inverse = tl.full([BLOCK_P], 1.0, tl.float32)
    along = tl.zeros([BLOCK_P], tl.float32)
    if NORMALIZE:  # the gradient's part along q, which is removed
        squared = tl.zeros([BLOCK_P], tl.float32)
        first_along = tl.zeros([BLOCK_P], tl.float32)
        second_along = tl.zeros([BLOCK_P], tl.float32)
        for start in range(0, channels, BLOCK_A):
            a = start + tl.arange(0, BLOCK_A)
            q, first, second = _slopes(
                rows, mean, spread, a, channel_stride, inside, k, channels, classes, first_weight, second_weight,
                COVARIANCE, PRECISION,
            )  # fmt: skip
            squared += tl.sum(q * q, 1)
            first_along += tl.sum(first * q, 1)
            second_along += tl.sum(second * q * q, 1)
        inverse = _inverse_root(squared)
        along = (first_along + second_along * inverse) * inverse * inverse
    weight = tl.load(grad + locate(p, gd1, gd2, gs0, gs1, gs2), mask=y >= 0, other=0.0).to(tl.float32)
    to = slope + locate(p, od1, od2, os0, os1, os2)
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        q, first, second = _slopes(
            rows, mean, spread, a, channel_stride, inside, k, channels, classes, first_weight, second_weight,
            COVARIANCE, PRECISION,
        )  # fmt: skip
        total = first + second * q * inverse[:, None]
        if NORMALIZE:
            total = (total - q * along[:, None]) * inverse[:, None]
        total = tl.where((y >= 0)[:, None], total * weight[:, None], 0.0)
        written = inside[:, None] & (a < channels)[None, :]
        tl.store(to[:, None] + (a.to(tl.int64) * out_stride)[None, :], total.to(slope.dtype.element_ty), mask=written)
