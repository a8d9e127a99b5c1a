"""Distances to the modes of each class: triplet hinge and posterior cross entropy, and their gradients.

    D_c = min_m |e - V_cm|^2 = |e|^2 + min_m (|V_cm|^2 - 2 e.V_cm)        d e = sum_c 2 g_c (e - V_c*)

A program owns a tile of pixels and a block of modes of every class; e.V is one product, on tensor cores of bfloat16
parts that hold all 24 bits (``_product``). The centre of the modes is subtracted from both sides first, so what cancels
is of the size of the distances between modes. Equal modes give equal bits, and ties go to the lowest index. The rest -
nearest modes, rival, hinge, softmax - happens in registers: one read of the features forward, and from cache another
one for each 64 / K modes more. Backward the slopes of the features read them once more; a second kernel sums the modes'
slopes over chunks of pixels, a third one adds the chunks in a fixed order, in float64. Memory beyond inputs and
outputs: K x M x d float32 for the centred modes and, backward, as much for each chunk of 4096 pixels (at K M = 57,
1.4 % of float32 features).
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

MOST_CLASSES = 64
MOST_MODES = 256  # modes of a class: the index of the nearest one is saved in a byte
COLUMNS = 64  # classes x modes of a tile: twice as many do not fit into the tensor memory of sm_100
FORWARD = {
    "bf16": {"BLOCK_P": 64, "BLOCK_A": 16, "num_warps": 8},
    "fma": {"BLOCK_P": 32, "BLOCK_A": 32, "num_warps": 8},
}
SLOPES = {
    "bf16": {"BLOCK_P": 64, "BLOCK_A": 16, "num_warps": 8},
    "fma": {"BLOCK_P": 32, "BLOCK_A": 32, "num_warps": 8},
}
SUMS = {
    "bf16": {"BLOCK_P": 32, "BLOCK_A": 32, "num_warps": 8},
    "fma": {"BLOCK_P": 16, "BLOCK_A": 32, "num_warps": 8},
}
CHUNK = 4096  # pixels whose share of the modes' gradient is one partial sum


def serves(features: Tensor, labels: Tensor, modes: Tensor, *options) -> bool:
    """Whether ``forward`` takes these arguments: features of 32 or 16 bits, at most 64 classes of 256 modes."""
    sized = len(modes) <= MOST_CLASSES and modes.shape[1] <= MOST_MODES and modes.numel() < 2**31
    return sized and features.dtype in DTYPES and labels.numel() < 2**31 - CHUNK


def serves_backward(
    grad_triplet: Tensor, grad_cross_entropy: Tensor, features: Tensor, labels: Tensor, modes: Tensor, *others
) -> bool:
    """Whether ``backward`` takes these arguments."""
    return serves(features, labels, modes)


def forward(
    features: Tensor, labels: Tensor, modes: Tensor, sigma2: float, margin: float, square: bool, ignore_index: int
) -> tuple[Tensor, ...]:
    """(triplet, cross_entropy, own_mode, rival, weight, nearest) as fastuda.reference.mode_losses; float32."""
    classes, per_class, channels = modes.shape
    triplet, cross_entropy = (features.new_empty(labels.shape, dtype=torch.float32) for _ in range(2))
    own_mode, rival = (labels.new_empty(labels.shape, dtype=torch.int64) for _ in range(2))
    weight = features.new_empty((*labels.shape, classes), dtype=torch.float32)
    nearest = labels.new_empty((*labels.shape, classes), dtype=torch.uint8)
    product = exact_product(features.device)
    tile = FORWARD[product] | _columns(classes, per_class)
    pixels = labels.numel()
    launch(
        _mode_losses, (cdiv(pixels, tile["BLOCK_P"]),), features, labels, *_centred(modes),
        triplet, cross_entropy, own_mode, rival, weight, nearest, pixels, channels, classes, per_class, ignore_index,
        sigma2, margin, *feature_strides(features), *pixel_strides(labels), SQUARE=square, PRODUCT=product, **tile,
    )  # fmt: skip
    return triplet, cross_entropy, own_mode, rival, weight, nearest


def backward(
    grad_triplet: Tensor, grad_cross_entropy: Tensor, features: Tensor, labels: Tensor, modes: Tensor,
    triplet: Tensor, rival: Tensor, weight: Tensor, nearest: Tensor, ignore_index: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of features, in their dtype and strides, and of modes (K, M, d), float32."""
    classes, per_class, channels = modes.shape
    slope, pixels = torch.empty_like(features), labels.numel()
    chunks = cdiv(pixels, CHUNK)
    partials = features.new_empty(chunks, *modes.shape, dtype=torch.float32)
    total = features.new_empty(modes.shape, dtype=torch.float32)
    product, columns = exact_product(features.device), _columns(classes, per_class)
    given = (
        features, labels, *_centred(modes), grad_triplet, grad_cross_entropy,
        *(saved.contiguous() for saved in (triplet, rival, weight, nearest)),
    )  # fmt: skip
    sizes = pixels, channels, classes, per_class, ignore_index
    strides = (t for grad in (grad_triplet, grad_cross_entropy) for t in pixel_strides(grad))
    strides = *feature_strides(features), *pixel_strides(labels), *strides
    tile = SLOPES[product] | {"BLOCK_K": columns["BLOCK_K"], "PRODUCT": product}
    grid = (cdiv(pixels, tile["BLOCK_P"]),)
    launch(_feature_slopes, grid, *given, slope, *sizes, *strides, *feature_strides(slope), **tile)
    tile = SUMS[product] | columns | {"PRODUCT": product}
    grid = chunks, cdiv(channels, tile["BLOCK_A"]), cdiv(per_class, tile["BLOCK_M"])
    launch(_sum_modes, grid, *given, partials, *sizes, CHUNK, *strides, **tile)
    grid = (cdiv(modes.numel(), 256),)
    launch(_add_chunks, grid, partials, total, chunks, modes.numel(), BLOCK=256, num_warps=4)
    return slope, total


def _columns(classes: int, per_class: int) -> dict[str, int]:
    """The number of classes, and of modes of each, that a tile holds."""
    lanes = block(classes, 16, MOST_CLASSES)
    return {"BLOCK_K": lanes, "BLOCK_M": block(per_class, 1, COLUMNS // lanes)}


def _centred(modes: Tensor) -> tuple[Tensor, Tensor]:
    """Modes (K, M, d) less their centre, in float32, and the centre (d,)."""
    channels = modes.shape[2]
    centred = modes.new_empty(modes.shape, dtype=torch.float32)
    centre = modes.new_empty(channels, dtype=torch.float32)
    launch(
        _subtract_centre, (cdiv(channels, 32),), modes.contiguous(), centred, centre,
        modes.shape[0] * modes.shape[1], channels, BLOCK_R=32, BLOCK_A=32, num_warps=4,
    )  # fmt: skip
    return centred, centre


@kernel(fixed=("modes",))
def _subtract_centre(modes, centred, centre, rows, channels, BLOCK_R: tl.constexpr, BLOCK_A: tl.constexpr):
    a = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    total = tl.zeros([BLOCK_A], tl.float32)
    for start in range(0, rows, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        known = (r < rows)[:, None] & (a < channels)[None, :]
        total += tl.sum(tl.load(modes + (r * channels)[:, None] + a[None, :], mask=known, other=0.0).to(tl.float32), 0)
    middle = total / rows
    tl.store(centre + a, middle, mask=a < channels)
    for start in range(0, rows, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        known = (r < rows)[:, None] & (a < channels)[None, :]
        at = (r * channels)[:, None] + a[None, :]
        v = tl.load(modes + at, mask=known, other=0.0).to(tl.float32)
        tl.store(centred + at, v - middle[None, :], mask=known)


@triton.jit
def _product(x, y, PRODUCT: tl.constexpr):
    """x @ y, exact to float32: of three bfloat16 parts each, the six products above 2^-24 of the whole, small first.

    The sum starts at zero for each block and is added outside, where additions round to nearest.
    """
    if PRODUCT == "fma":
        total = tl.dot(x, y, input_precision="ieee")
    else:
        high, middle, low = split(x)
        first, second, third = split(y)
        total = tl.dot(low, first)
        total = tl.dot(middle, second, total)
        total = tl.dot(high, third, total)
        total = tl.dot(middle, first, total)
        total = tl.dot(high, second, total)
        total = tl.dot(high, first, total)
    return total


@triton.jit
def _embeddings(rows, y, a, centre, channels, channel_stride):
    """A block of channels of the pixels at ``rows``, less the centre; 0 where ignored."""
    read = (y >= 0)[:, None] & (a < channels)[None, :]
    e = tl.load(rows[:, None] + spaced(a, channel_stride)[None, :], mask=read, other=0.0).to(tl.float32)
    return tl.where(read, e - tl.load(centre + a, mask=a < channels, other=0.0)[None, :], 0.0)


@kernel(fixed=("modes", "weight"))
def _mode_losses(
    features, labels, modes, centre, triplet, cross_entropy, own_mode, rival, weight, nearest,
    pixels, channels, classes, per_class, ignore_index, sigma2, margin,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    SQUARE: tl.constexpr, PRODUCT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    distance = tl.full([BLOCK_P, BLOCK_K], float("inf"), tl.float32)
    mode = tl.zeros([BLOCK_P, BLOCK_K], tl.int32)
    squared = tl.zeros([BLOCK_P], tl.float32)
    column = tl.arange(0, BLOCK_M * BLOCK_K)
    label = column % BLOCK_K
    for first in range(0, per_class, BLOCK_M):
        m = first + column // BLOCK_K
        known = (label < classes) & (m < per_class)
        at = modes + (label * per_class + m) * channels
        total = tl.zeros([BLOCK_P, BLOCK_M * BLOCK_K], tl.float32)
        norm = tl.zeros([BLOCK_M * BLOCK_K], tl.float32)
        squared = tl.zeros([BLOCK_P], tl.float32)
        for start in range(0, channels, BLOCK_A):
            a = start + tl.arange(0, BLOCK_A)
            e = _embeddings(rows, y, a, centre, channels, channel_stride)
            v = tl.load(at[None, :] + a[:, None], mask=known[None, :] & (a < channels)[:, None], other=0.0)
            total += _product(e, v, PRODUCT)
            norm += tl.sum(v * v, 0)
            squared += tl.sum(e * e, 1)
        part = tl.where(known[None, :], norm[None, :] - 2 * total, float("inf"))
        least, which = tl.min(tl.reshape(part, [BLOCK_P, BLOCK_M, BLOCK_K]), 1, return_indices=True)
        nearer = least < distance
        distance = tl.where(nearer, least, distance)
        mode = tl.where(nearer, first + which, mode)
    distance += squared[:, None]
    distance = tl.where(distance < 0, 0.0, distance)  # keeps NaN

    own = k[None, :] == y[:, None]
    mine = tl.sum(tl.where(own, distance, 0.0), 1)
    others = tl.where(own | (k >= classes)[None, :], float("inf"), distance)
    best, other = tl.min(others, 1, return_indices=True)
    hinge = mine - best + margin
    inside = p < pixels
    tl.store(triplet + p, tl.where((y < 0) | (hinge < 0), 0.0, hinge), mask=inside)
    tl.store(own_mode + p, tl.where(y >= 0, tl.sum(tl.where(own, mode, 0), 1), -1), mask=inside)
    tl.store(rival + p, tl.where((y >= 0) & (best < float("inf")), other, -1), mask=inside)

    exponent = distance
    slope = 1 / (2 * sigma2)
    if SQUARE:
        exponent = distance * distance
    logits = tl.where((k < classes)[None, :], -exponent * slope, float("-inf"))
    top = tl.max(logits, 1)
    share = tl.exp(logits - top[:, None])
    whole = tl.sum(share, 1)
    loss = top - tl.sum(tl.where(own, logits, 0.0), 1) + tl.log(whole)
    tl.store(cross_entropy + p, tl.where(y >= 0, loss, 0.0), mask=inside)
    pull = (own.to(tl.float32) - share / whole[:, None]) * slope
    if SQUARE:
        pull *= 2 * distance
    valid = (y >= 0)[:, None]
    to = (p.to(tl.int64) * classes)[:, None] + k[None, :]
    written = inside[:, None] & (k < classes)[None, :]
    tl.store(weight + to, tl.where(valid, pull, 0.0), mask=written)
    tl.store(nearest + to, tl.where(valid, mode, 0).to(tl.uint8), mask=written)


@triton.jit
def _pulls(
    grad_triplet, grad_cross_entropy, triplet, rival, weight, p, y, k, classes,
    td1, td2, ts0, ts1, ts2, cd1, cd2, cs0, cs1, cs2,
):  # fmt: skip
    """2 g_c, twice the slope by the distance of each class (pixels, classes); 0 where ignored."""
    valid = y >= 0
    hinge = tl.load(grad_triplet + locate(p, td1, td2, ts0, ts1, ts2), mask=valid, other=0.0).to(tl.float32)
    hinge = tl.where(tl.load(triplet + p, mask=valid, other=0.0) > 0, hinge, 0.0)
    scale = tl.load(grad_cross_entropy + locate(p, cd1, cd2, cs0, cs1, cs2), mask=valid, other=0.0).to(tl.float32)
    other = tl.load(rival + p, mask=valid, other=-1)
    sign = (k[None, :] == y[:, None]).to(tl.float32) - (k[None, :] == other[:, None]).to(tl.float32)
    at = weight + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    g = tl.load(at, mask=valid[:, None] & (k < classes)[None, :], other=0.0)
    return 2 * (g * scale[:, None] + sign * hinge[:, None])


@kernel(fixed=("modes", "weight"))
def _feature_slopes(
    features, labels, modes, centre, grad_triplet, grad_cross_entropy, triplet, rival, weight, nearest, slope,
    pixels, channels, classes, per_class, ignore_index,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    td1, td2, ts0, ts1, ts2, cd1, cd2, cs0, cs1, cs2, od1, od2, os0, os1, os2, out_stride,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    y = read_labels(labels, p, pixels, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
    g = _pulls(
        grad_triplet, grad_cross_entropy, triplet, rival, weight, p, y, k, classes,
        td1, td2, ts0, ts1, ts2, cd1, cd2, cs0, cs1, cs2,
    )  # fmt: skip
    at = nearest + (p.to(tl.int64) * classes)[:, None] + k[None, :]
    mode = tl.load(at, mask=(y >= 0)[:, None] & (k < classes)[None, :], other=0).to(tl.int32)
    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)
    to = slope + locate(p, od1, od2, os0, os1, os2)
    whole = tl.sum(g, 1)[:, None]
    for start in range(0, channels, BLOCK_A):
        a = start + tl.arange(0, BLOCK_A)
        total = _embeddings(rows, y, a, centre, channels, channel_stride) * whole
        for m in range(per_class):
            known = (k < classes)[:, None] & (a < channels)[None, :]
            v = tl.load(modes + ((k * per_class + m) * channels)[:, None] + a[None, :], mask=known, other=0.0)
            total -= _product(tl.where(mode == m, g, 0.0), v, PRODUCT)
        written = (p < pixels)[:, None] & (a < channels)[None, :]
        total = tl.where((y >= 0)[:, None], total, 0.0).to(slope.dtype.element_ty)
        tl.store(to[:, None] + spaced(a, out_stride)[None, :], total, mask=written)


@kernel(fixed=("modes", "weight"))
def _sum_modes(
    features, labels, modes, centre, grad_triplet, grad_cross_entropy, triplet, rival, weight, nearest, partials,
    pixels, channels, classes, per_class, ignore_index, chunk_rows,
    fd1, fd2, fs0, fs1, fs2, channel_stride, ld1, ld2, ls0, ls1, ls2,
    td1, td2, ts0, ts1, ts2, cd1, cd2, cs0, cs1, cs2,
    BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
    PRODUCT: tl.constexpr,
):  # fmt: skip
    """The modes' slopes over a chunk of pixels: V_cm sum 2 g_c - sum 2 g_c e over the pixels nearest to the mode."""
    chunk = tl.program_id(0)
    a = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)
    first = tl.program_id(2) * BLOCK_M
    m = first + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_M * BLOCK_K, BLOCK_A], tl.float32)
    weights = tl.zeros([BLOCK_M * BLOCK_K], tl.float32)
    end = tl.minimum((chunk + 1) * chunk_rows, pixels)
    for start in range(chunk * chunk_rows, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        y = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
        g = _pulls(
            grad_triplet, grad_cross_entropy, triplet, rival, weight, p, y, k, classes,
            td1, td2, ts0, ts1, ts2, cd1, cd2, cs0, cs1, cs2,
        )  # fmt: skip
        at = nearest + (p.to(tl.int64) * classes)[:, None] + k[None, :]
        mode = tl.load(at, mask=(y >= 0)[:, None] & (k < classes)[None, :], other=0).to(tl.int32)
        spread = tl.where(mode[:, None, :] == m[None, :, None], g[:, None, :], 0.0)
        spread = tl.reshape(spread, [BLOCK_P, BLOCK_M * BLOCK_K])
        e = _embeddings(features + locate(p, fd1, fd2, fs0, fs1, fs2), y, a, centre, channels, channel_stride)
        total += _product(tl.trans(spread), e, PRODUCT)
        weights += tl.sum(spread, 0)
    column = tl.arange(0, BLOCK_M * BLOCK_K)
    label = column % BLOCK_K
    mine = first + column // BLOCK_K
    known = ((label < classes) & (mine < per_class))[:, None] & (a < channels)[None, :]
    at = ((label * per_class + mine) * channels)[:, None] + a[None, :]
    v = tl.load(modes + at, mask=known, other=0.0)
    to = partials + chunk.to(tl.int64) * classes * per_class * channels + at
    tl.store(to, weights[:, None] * v - total, mask=known)


@kernel()
def _add_chunks(partials, total, chunks, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    whole = tl.zeros([BLOCK], tl.float64)
    for _ in range(chunks):
        whole += tl.load(partials + i, mask=i < size, other=0.0).to(tl.float64)
        partials += size
    tl.store(total + i, whole.to(tl.float32), mask=i < size)
