"""The contrastive bound with full covariances: loss and softmax forward, gradient backward.

    a_k = q.mu_k / tau + q^T Sigma_k q / (2 tau^2)        loss = logsumexp_k(a_k) - q.mu_y / tau
    d loss / d q = sum_k (p_k - [k = y]) mu_k / tau + sum_k p_k Sigma_k q / tau^2

Forward: a program owns a tile of pixels and one class. It needs the lower triangle of Sigma_k only, streamed from the
L2 cache by tiles; blocks below the diagonal count twice. The forms q^T Sigma_k q go where the softmax will be, and a
second kernel turns them into it. Backward: a program owns a tile of pixels and of channels, into which the products
Sigma_k q of all classes go, times p_k. Features of 16 bits enter the products as they are: exact, at half the cost.
Norms scale the finished forms and sums, so normalisation costs no precision; the gradient's part along q is removed
in a second pass, for which chunks of pixels wait in float32.

Memory beyond inputs and outputs: under ``normalize`` a chunk of 2^22 floats (of one tile of pixels, if that is more); a
copy of statistics that are not float32 and contiguous.
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
    feature_strides,
    launch,
    locate,
    pixel_strides,
    precision,
    read_labels,
    spaced,
)
from fastuda.kernels._launch import kernel

MOST_CLASSES = 256
CHUNK = 1 << 22
MOST_TILES = 2**16 - 1  # of pixels in a launch of ``_slopes``: a grid has no more along its second dimension
NORM_PART = 1 << 16
# Covariances of at most this size stay in the L2 cache: then programs of one tile of pixels and all classes are
# neighbours, otherwise programs of one class and all tiles.
CACHED = 24 << 20
TILES = {  # (matrix unit, bytes of a feature): pixels x channels of a sum, channels of a step; larger ones spill
    ("fma", 4): {"BLOCK_P": 64, "BLOCK_I": 64, "BLOCK_J": 16, "num_warps": 8},
    ("fma", 2): {"BLOCK_P": 64, "BLOCK_I": 64, "BLOCK_J": 16, "num_warps": 8},
    ("ampere", 4): {"BLOCK_P": 128, "BLOCK_I": 64, "BLOCK_J": 16, "num_warps": 8},
    ("ampere", 2): {"BLOCK_P": 128, "BLOCK_I": 64, "BLOCK_J": 32, "num_warps": 8},
    ("hopper", 4): {"BLOCK_P": 128, "BLOCK_I": 64, "BLOCK_J": 32, "num_warps": 8},
    ("hopper", 2): {"BLOCK_P": 128, "BLOCK_I": 128, "BLOCK_J": 32, "num_warps": 8},
    ("blackwell", 4): {"BLOCK_P": 128, "BLOCK_I": 64, "BLOCK_J": 32, "num_warps": 8},
    ("blackwell", 2): {"BLOCK_P": 128, "BLOCK_I": 64, "BLOCK_J": 32, "num_warps": 8},
}
UNITS = {90: "hopper", 100: "blackwell", 103: "blackwell"}  # other cards multiply as sm_80 does
LOSS_TILES = {32: (64, 4), 64: (32, 4), 256: (32, 8)}  # largest number of classes: (pixels, warps)


def serves(features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, *options) -> bool:
    """Whether ``forward`` takes these arguments: 32 or 16 bits, at most 256 classes, a full covariance."""
    full = covariance is not None and covariance.dim() == 3
    return full and features.dtype in DTYPES and len(mean) <= MOST_CLASSES and labels.numel() < 2**30


def serves_backward(
    grad: Tensor, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, *others
) -> bool:
    """Whether ``backward`` takes these arguments."""
    return serves(features, labels, mean, covariance)


def forward(
    features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor, temperature: float, normalize: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss (N, H, W), 0 where ignored, and softmax (N, H, W, K), float32, of features (N, A, H, W), any strides.

    covariance: (K, A, A), symmetric; at and below the diagonal blocks it is read, above them it is not.
    """
    loss = features.new_empty(labels.shape, dtype=torch.float32)
    posterior = features.new_empty((*labels.shape, len(mean)), dtype=torch.float32)
    mean, covariance, scales = _statistics(mean, covariance, normalize)
    classes, channels = mean.shape
    pixels, strides = labels.numel(), feature_strides(features)
    tile = _tile(features, channels)
    tiles = cdiv(pixels, tile["BLOCK_P"])
    launch(
        _quadratic_forms, (tiles * classes,), features, covariance, posterior, pixels, channels, classes, tiles,
        *strides, **tile, CLASSES_FIRST=covariance.numel() * 4 <= CACHED,
    )  # fmt: skip
    size, warps = next(tile for most, tile in LOSS_TILES.items() if classes <= most)
    launch(
        _losses, (cdiv(pixels, size),), features, labels, mean, scales, loss, posterior, pixels, channels,
        classes, ignore_index, temperature, *strides, *pixel_strides(labels), BLOCK_P=size, BLOCK_A=32,
        BLOCK_K=block(classes, 16, MOST_CLASSES), NORMALIZE=normalize, PRECISION=precision(features.device),
        num_warps=warps,
    )  # fmt: skip
    return loss, posterior


def backward(
    grad: Tensor, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor, posterior: Tensor,
    temperature: float, normalize: bool, ignore_index: int,
) -> Tensor:  # fmt: skip
    """Gradient by the features, in their dtype, with ``grad`` (N, H, W) applied before the rounding."""
    slope = torch.empty_like(features)
    mean, covariance, scales = _statistics(mean, covariance, normalize)
    classes, channels = mean.shape
    pixels, tile = labels.numel(), _tile(features, channels)
    most = max(1, CHUNK // (channels * tile["BLOCK_P"])) if normalize else MOST_TILES
    chunk = min(most, MOST_TILES) * tile["BLOCK_P"]
    strides, label_strides = feature_strides(features), pixel_strides(labels)
    out_strides = *pixel_strides(grad), *feature_strides(slope)
    waiting = mean.new_empty(min(chunk, pixels) if normalize else 0, channels)
    for start in range(0, pixels, chunk):
        end = min(start + chunk, pixels)
        span = start, end, channels, classes, ignore_index
        grid = cdiv(channels, tile["BLOCK_I"]), cdiv(end - start, tile["BLOCK_P"])
        launch(
            _slopes, grid, features, labels, mean, covariance, scales, grad, posterior.contiguous(), waiting, slope,
            *span, temperature, *strides, *label_strides, *out_strides,
            **tile, BLOCK_K=16, NORMALIZE=normalize, PRECISION=precision(features.device),
        )  # fmt: skip
        if normalize:
            launch(
                _remove_along, (cdiv(end - start, 32),), features, labels, grad, waiting, slope, *span,
                *strides, *label_strides, *out_strides, BLOCK_P=32, BLOCK_A=64, num_warps=4,
            )  # fmt: skip
    return slope


def _tile(features: Tensor, channels: int) -> dict[str, object]:
    """Sizes, and how features times covariance are multiplied: PRODUCT of ``_multiply``."""
    cores = _common.has_tensor_cores(features.device)
    unit = UNITS.get(_common.capability(features.device), "ampere") if cores else "fma"
    tile = TILES[unit, features.element_size()]
    exact = {torch.float32: "tf32x3", torch.float16: "float16", torch.bfloat16: "bfloat16"}[features.dtype]
    wide = {name: block(channels, 16, tile[name]) for name in ("BLOCK_I", "BLOCK_J")}
    return tile | wide | {"PRODUCT": exact if cores else "ieee"}


def _statistics(mean: Tensor, covariance: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """mean and covariance in float32 and (2, K) factors that normalise them, or a placeholder."""
    mean, covariance = mean.to(torch.float32).contiguous(), covariance.to(torch.float32).contiguous()
    if not normalize:
        return mean, covariance, mean
    classes, channels = mean.shape
    scales = mean.new_empty(2, classes)
    size = block(channels * channels, 16, 4096)
    launch(_inverse_lengths, (classes, 2), mean, covariance, scales, channels, classes, BLOCK=size, num_warps=8)
    return mean, covariance, scales


@kernel()
def _inverse_lengths(mean, covariance, out, channels, classes, BLOCK: tl.constexpr):
    """1 / |row|, or 0 for a row of zeros, of the means and then of the covariances."""
    row = tl.program_id(0)
    rows = mean
    size = channels
    if tl.program_id(1) == 1:
        rows = covariance
        size = channels * channels
        out += classes
    rows += row.to(tl.int64) * size
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(rows + i, mask=i < size, other=0.0)
        total += x * x
    tl.store(out + row, _inverse_root(tl.sum(total)))


@triton.jit
def _inverse_root(squared):
    return tl.where(squared > 0, 1.0 / tl.sqrt(tl.where(squared > 0, squared, 1.0)), 0.0)


@triton.jit
def _read(rows, inside, a, channels, channel_stride):
    """A block of channels of the pixels at ``rows``, in the type that the features have."""
    read = inside[:, None] & (a < channels)[None, :]
    return tl.load(rows[:, None] + spaced(a, channel_stride)[None, :], mask=read, other=0.0)


@triton.jit
def _multiply(q, sigma, total, PRODUCT: tl.constexpr):
    """total + q @ sigma in 22 bits and more. q of 16 bits is exact as it is, and only sigma is taken apart."""
    if PRODUCT == "bfloat16":
        high = sigma.to(tl.bfloat16)
        rest = sigma - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        own = tl.dot(q, high, tl.dot(q, middle, tl.dot(q, low)))
    elif PRODUCT == "float16":
        q = q.to(tl.float32)
        high = (sigma.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # the 11 bits that tf32 holds
        own = tl.dot(q, high, tl.dot(q, sigma - high, input_precision="tf32"), input_precision="tf32")
    else:
        own = tl.dot(q.to(tl.float32), sigma, input_precision=PRODUCT)
    return total + own


@triton.jit
def _read_covariance(sigma, a, b, channels):
    """sigma[b, a] for a block of rows a and columns b: columns of the triangle below the diagonal, by symmetry."""
    known = (a < channels)[:, None] & (b < channels)[None, :]
    return tl.trans(tl.load(sigma + a[:, None] * channels + b[None, :], mask=known, other=0.0))


@kernel(fixed=("s0", "s1"))
def _quadratic_forms(
    features, covariance, forms, pixels, channels, classes, tiles, d1, d2, s0, s1, s2, channel_stride,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    PRODUCT: tl.constexpr, CLASSES_FIRST: tl.constexpr,
):  # fmt: skip
    if CLASSES_FIRST:
        label = tl.program_id(0) % classes
        tile = tl.program_id(0) // classes
    else:
        label = tl.program_id(0) // tiles
        tile = tl.program_id(0) % tiles
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < pixels
    rows = features + locate(p, d1, d2, s0, s1, s2)
    sigma = covariance + label.to(tl.int64) * channels * channels
    form = tl.zeros([BLOCK_P], tl.float32)
    for i in range(0, channels, BLOCK_I):
        a = i + tl.arange(0, BLOCK_I)
        total = tl.zeros([BLOCK_P, BLOCK_I], tl.float32)
        for j in range(0, i, BLOCK_J):
            b = j + tl.arange(0, BLOCK_J)
            q = _read(rows, inside, b, channels, channel_stride)
            total = _multiply(q, _read_covariance(sigma, a, b, channels), total, PRODUCT)
        total += total
        for j in range(i, tl.minimum(i + BLOCK_I, channels), BLOCK_J):
            b = j + tl.arange(0, BLOCK_J)
            q = _read(rows, inside, b, channels, channel_stride)
            total = _multiply(q, _read_covariance(sigma, a, b, channels), total, PRODUCT)
        form += tl.sum(total * _read(rows, inside, a, channels, channel_stride).to(tl.float32), 1)
    tl.store(forms + p.to(tl.int64) * classes + label, form, mask=inside)


@kernel()
def _losses(
    features, labels, mean, scales, loss, posterior, pixels, channels, classes, ignore_index, temperature,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``posterior`` holds q^T Sigma_k q and becomes the softmax."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    inside = p < pixels
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    first = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    squared = tl.zeros([BLOCK_P], tl.float32)
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        q = _read(rows, inside, a, channels, channel_stride).to(tl.float32)
        known = (a < channels)[:, None] & (k < classes)[None, :]
        mu = tl.load(mean + k[None, :] * channels + a[:, None], mask=known, other=0.0)
        first += tl.dot(q, mu, input_precision=PRECISION)
        if NORMALIZE:
            squared += tl.sum(q * q, 1)
    at = posterior + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    written = inside[:, None] & (k < classes)[None, :]
    second = tl.load(at, mask=written, other=0.0)
    tl.debug_barrier()  # other threads write these below
    if NORMALIZE:
        inverse = _inverse_root(squared)[:, None]
        first = first * tl.load(scales + k, mask=k < classes, other=0.0)[None, :] * inverse
        second = second * tl.load(scales + classes + k, mask=k < classes, other=0.0)[None, :] * (inverse * inverse)
    first = first / temperature
    logits = first + second / (2 * temperature * temperature)
    logits = tl.where((k < classes)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    share = tl.exp(logits - top[:, None])
    total = tl.sum(share, 1)
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    own = tl.sum(tl.where(k[None, :] == y[:, None], first, 0.0), 1)
    tl.store(loss + p, tl.where(y >= 0, top + tl.log(total) - own, 0.0), mask=inside)
    tl.store(at, share / total[:, None], mask=written)


@triton.jit
def _first_slopes(
    mean, scales, posterior, p, inside, y, a, channels, classes, temperature,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sum_k (p_k - [k = y]) mu_k / tau"""
    total = tl.zeros([BLOCK_P, BLOCK_I], tl.float32)
    for start in range(0, classes, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        at = posterior + (p.to(tl.int64) * classes)[:, None] + k[None, :]
        weight = tl.load(at, mask=inside[:, None] & (k < classes)[None, :], other=0.0)
        weight = (weight - (k[None, :] == y[:, None]).to(tl.float32)) / temperature
        if NORMALIZE:
            weight *= tl.load(scales + k, mask=k < classes, other=0.0)[None, :]
        known = (k < classes)[:, None] & (a < channels)[None, :]
        mu = tl.load(mean + k[:, None] * channels + a[None, :], mask=known, other=0.0)
        total += tl.dot(weight, mu, input_precision=PRECISION)
    return total


@kernel()
def _slopes(
    features, labels, mean, covariance, scales, grad, posterior, waiting, slope,
    begin, end, channels, classes, ignore_index, temperature,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2, gd1, gd2, gs0, gs1, gs2,
    od1, od2, os0, os1, os2, out_stride,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr, NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient; with NORMALIZE the gradient of q / |q| in float32, which ``_remove_along`` turns into that of q."""
    a = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    p = begin + tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < end
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    y = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    total = _first_slopes(
        mean, scales, posterior, p, inside, y, a, channels, classes, temperature,
        BLOCK_P, BLOCK_I, BLOCK_K, NORMALIZE, PRECISION,
    )  # fmt: skip
    factor = tl.full([BLOCK_P], 1.0, tl.float32)
    if NORMALIZE:
        squared = tl.zeros([BLOCK_P], tl.float32)
        for j in range(0, channels, BLOCK_J):
            q = _read(rows, inside, j + tl.arange(0, BLOCK_J), channels, channel_stride).to(tl.float32)
            squared += tl.sum(q * q, 1)
        factor = _inverse_root(squared)
    factor = factor / (temperature * temperature)
    sigma = covariance
    for label in range(classes):
        weight = tl.load(posterior + p.to(tl.int64) * classes + label, mask=inside, other=0.0) * factor
        if NORMALIZE:
            weight *= tl.load(scales + classes + label)
        own = tl.zeros([BLOCK_P, BLOCK_I], tl.float32)
        for j in range(0, channels, BLOCK_J):
            b = j + tl.arange(0, BLOCK_J)
            q = _read(rows, inside, b, channels, channel_stride)
            own = _multiply(q, _read_covariance(sigma, a, b, channels), own, PRODUCT)
        total += own * weight[:, None]
        sigma += channels * channels

    written = inside[:, None] & (a < channels)[None, :]
    if NORMALIZE:
        tl.store(waiting + (p - begin).to(tl.int64)[:, None] * channels + a[None, :], total, mask=written)
    else:
        weight = tl.load(grad + locate(p, gd1, gd2, gs0, gs1, gs2), mask=y >= 0, other=0.0).to(tl.float32)
        total = tl.where((y >= 0)[:, None], total * weight[:, None], 0.0)
        to = (slope + locate(p, od1, od2, os0, os1, os2))[:, None] + spaced(a, out_stride)[None, :]
        tl.store(to, total.to(slope.dtype.element_ty), mask=written)


@kernel()
def _remove_along(
    features, labels, grad, waiting, slope, begin, end, channels, classes, ignore_index,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2, gd1, gd2, gs0, gs1, gs2,
    od1, od2, os0, os1, os2, out_stride,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr,
):  # fmt: skip
    """The chain rule of q / |q|: the component along q is removed, the rest is divided by |q|."""
    p = begin + tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < end
    y = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    from_rows = waiting + (p - begin).to(tl.int64) * channels
    product = tl.zeros([BLOCK_P], tl.float32)
    squared = tl.zeros([BLOCK_P], tl.float32)
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        q = _read(rows, inside, a, channels, channel_stride).to(tl.float32)
        product += tl.sum(q * _read(from_rows, inside, a, channels, 1), 1)
        squared += tl.sum(q * q, 1)
    inverse = _inverse_root(squared)
    along = product * inverse * inverse
    weight = tl.load(grad + locate(p, gd1, gd2, gs0, gs1, gs2), mask=y >= 0, other=0.0).to(tl.float32)
    to = slope + locate(p, od1, od2, os0, os1, os2)
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        q = _read(rows, inside, a, channels, channel_stride).to(tl.float32)
        total = (_read(from_rows, inside, a, channels, 1) - q * along[:, None]) * (inverse * weight)[:, None]
        total = tl.where((y >= 0)[:, None], total, 0.0)
        written = inside[:, None] & (a < channels)[None, :]
        tl.store(to[:, None] + spaced(a, out_stride)[None, :], total.to(slope.dtype.element_ty), mask=written)
