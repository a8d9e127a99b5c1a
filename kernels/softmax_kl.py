"""Kullback-Leibler divergences between two softmaxes, pixel by pixel, and their gradients.

With x = (a - max a) / T, y the same of b and d = x - y, the normalisers' logarithms cancel in nearly all that is
wanted:

    KL(p || q) + KL(q || p) = sum_c (p_c - q_c)(d_c - sum_i p_i d_i)
    KL(q || p) = log(sum_c e^x_c / sum_c e^y_c) - sum_c q_c d_c

A program owns a tile of pixels with all of their classes in registers, so both logits are read once and nothing but
results is written. Products and sums are rounded one by one: of equal logits everything is exactly 0. One launch each
way; no memory beyond inputs and outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES, block, cdiv, feature_strides, launch, locate, pixel_strides, spaced
from fastuda.kernels._launch import kernel

MOST_CLASSES = 256
TILE = 2048  # numbers that a program holds
REGISTERS = {"forward": 128, "backward": 255}  # limits; without them some are spilled to fit more warps


def serves(logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float, symmetric: bool) -> bool:
    """Whether ``forward`` takes these arguments: logits of 32 or 16 bits, at most 256 classes."""
    classes = logits.shape[1]
    sized = 1 <= classes <= MOST_CLASSES and logits.numel() // classes < 2**31 - TILE
    return sized and logits.dtype in DTYPES and other.dtype in DTYPES


def serves_backward(grad: Tensor, *others) -> bool:
    """Whether ``backward`` takes these arguments."""
    return serves(*others)


def forward(logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float, symmetric: bool) -> Tensor:
    """The divergence of each pixel, float32, 0 where ``mask`` is False; any strides."""
    loss = logits.new_empty(logits.shape[:1] + logits.shape[2:], dtype=torch.float32)
    grid, given, options = _problem(logits, other, mask, temperature)
    launch(
        _divergences, grid, *given, loss, temperature * temperature,
        SYMMETRIC=symmetric, maxnreg=REGISTERS["forward"], **options,
    )  # fmt: skip
    return loss


def backward(
    grad: Tensor, logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of logits and, if symmetric, of other (else empty), each with the strides of its tensor."""
    slope = torch.empty_like(logits)
    other_slope = torch.empty_like(other) if symmetric else other.new_empty(0)
    grid, given, options = _problem(logits, other, mask, temperature)
    second = feature_strides(other_slope if symmetric else slope)
    launch(
        _divergence_slopes, grid, *given, grad, slope, other_slope, temperature,
        *pixel_strides(grad), *feature_strides(slope), *second,
        SYMMETRIC=symmetric, maxnreg=REGISTERS["backward"], **options,
    )  # fmt: skip
    return slope, other_slope


def _problem(logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float) -> tuple[tuple, tuple, dict]:
    """Grid, first arguments and constants of both kernels."""
    classes = logits.shape[1]
    tile = {"BLOCK_K": block(classes, 2, MOST_CLASSES)}
    tile["BLOCK_P"] = TILE // tile["BLOCK_K"]
    pixels = logits.numel() // classes
    masked = (0,) * 5 if mask is None else pixel_strides(mask)
    strides = *feature_strides(logits), *feature_strides(other), *masked
    given = logits, other, mask, pixels, classes, 1 / temperature, *strides
    return (cdiv(pixels, tile["BLOCK_P"]),), given, tile | {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _read(logits, at, k, class_stride, classes, counted, scale):
    """Logits of a tile over the temperature, counted from the largest of each pixel: 0 where a pixel does not count."""
    at = logits + at[:, None] + spaced(k, class_stride)[None, :]
    x = tl.load(at, mask=counted[:, None] & (k < classes)[None, :], other=0.0).to(tl.float32)
    x = tl.where((k < classes)[None, :], x, float("-inf"))
    return (x - tl.max(x, 1)[:, None]) * scale


@triton.jit
def _softmaxes(
    logits, other, mask, pixels, classes, scale, ad1, ad2, as0, as1, as2, ac, bd1, bd2, bs0, bs1, bs2, bc,
    md1, md2, ms0, ms1, ms2, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Pixels, whether they count, classes; both exponentials with their sums; and the differences of the logits."""
    i = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    counted = i < pixels
    if mask is not None:
        counted = counted & (tl.load(mask + locate(i, md1, md2, ms0, ms1, ms2), mask=counted, other=0) != 0)
    x = _read(logits, locate(i, ad1, ad2, as0, as1, as2), k, ac, classes, counted, scale)
    y = _read(other, locate(i, bd1, bd2, bs0, bs1, bs2), k, bc, classes, counted, scale)
    d = tl.where((k < classes)[None, :], x - y, 0.0)
    x = tl.exp(x)
    y = tl.exp(y)
    return i, counted, k, x, tl.sum(x, 1), y, tl.sum(y, 1), d


@kernel()
def _divergences(
    logits, other, mask, pixels, classes, scale, ad1, ad2, as0, as1, as2, ac, bd1, bd2, bs0, bs1, bs2, bc,
    md1, md2, ms0, ms1, ms2, loss, factor,
    SYMMETRIC: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    i, counted, _, x, x_total, y, y_total, d = _softmaxes(
        logits, other, mask, pixels, classes, scale, ad1, ad2, as0, as1, as2, ac, bd1, bd2, bs0, bs1, bs2, bc,
        md1, md2, ms0, ms1, ms2, BLOCK_P, BLOCK_K,
    )  # fmt: skip
    if SYMMETRIC:
        mean = tl.sum(x * d, 1) / x_total
        gap = x / x_total[:, None] - y / y_total[:, None]
        value = tl.sum(gap * (d - mean[:, None]), 1)
    else:
        value = tl.log(x_total / y_total) - tl.sum(y * d, 1) / y_total
    tl.store(loss + i, tl.where(counted, value * factor, 0.0), mask=i < pixels)


@kernel()
def _divergence_slopes(
    logits, other, mask, pixels, classes, scale, ad1, ad2, as0, as1, as2, ac, bd1, bd2, bs0, bs1, bs2, bc,
    md1, md2, ms0, ms1, ms2, grad, slope, other_slope, temperature,
    gd1, gd2, gs0, gs1, gs2, cd1, cd2, cs0, cs1, cs2, cc, dd1, dd2, ds0, ds1, ds2, dc,
    SYMMETRIC: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    i, counted, k, x, x_total, y, y_total, d = _softmaxes(
        logits, other, mask, pixels, classes, scale, ad1, ad2, as0, as1, as2, ac, bd1, bd2, bs0, bs1, bs2, bc,
        md1, md2, ms0, ms1, ms2, BLOCK_P, BLOCK_K,
    )  # fmt: skip
    written = (i < pixels)[:, None] & (k < classes)[None, :]
    weight = tl.load(grad + locate(i, gd1, gd2, gs0, gs1, gs2), mask=counted, other=0.0) * temperature
    x_mean = tl.sum(x * d, 1) / x_total
    y_mean = tl.sum(y * d, 1) / y_total
    x = x * (1 / x_total)[:, None]
    y = y * (1 / y_total)[:, None]
    first = x - y
    if SYMMETRIC:
        second = (y * (y_mean[:, None] - d) - first) * weight[:, None]
        to = other_slope + locate(i, dd1, dd2, ds0, ds1, ds2)[:, None] + spaced(k, dc)[None, :]
        tl.store(to, second.to(other_slope.dtype.element_ty), mask=written)
        first = x * (d - x_mean[:, None]) + first
    to = slope + locate(i, cd1, cd2, cs0, cs1, cs2)[:, None] + spaced(k, cc)[None, :]
    tl.store(to, (first * weight[:, None]).to(slope.dtype.element_ty), mask=written)
