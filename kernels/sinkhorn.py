"""Optimal transport of rows to classes for a fixed number of rounds, any spread of the scores.

    v_k = r_k / sum_i exp(S_ik / eps) u_i        u_i = 1 / sum_k exp(S_ik / eps) v_k

Only log2 v is kept, in float64. One sweep a round reads the scores and forms t = S / (eps ln 2) + log2 v in float64, so
that no digit of a large exponent is lost; its whole part stays an integer and only 2^rest is a float32 number. Row sums
are scaled by the largest integer of the row, class sums by that of the class in the tile: nothing overflows, nothing
that counts underflows, and no spread needs a second path. As a row's share q of a class is exp(S / eps) u v, the sum of
q over the rows moves log2 v by log2 r - log2 sum q. Programs leave their sums as (integer, float64) pairs, which a
small kernel adds in a fixed order. Nothing of the size of the scores is stored: memory beyond inputs and outputs is
12 bytes for each class and program, at most 512 programs a problem, and 8 bytes a class.
"""

from __future__ import annotations

import ctypes
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES, block, cdiv, launch, one_is_none, spaced
from fastuda.kernels._launch import kernel

MOST_CLASSES = 256
TILE = 2048  # numbers that a program holds
LEAST_ROWS = TILE // MOST_CLASSES  # least rows of a program
MOST_PROGRAMS = 512  # most programs of a problem
ADDED_AT_ONCE = 64
SMALLEST_EPSILON = 1e-30  # whose inverse two float32 numbers can represent
LARGEST = tl.constexpr(2**29)  # of an integer exponent: differences of two, and of these, fit into 32 bits


def serves(scores: Tensor, marginal: Tensor, epsilon: float, iterations: int, current: int) -> bool:
    """Whether ``sinkhorn`` takes these arguments: scores of 32 or 16 bits, at most 256 classes."""
    problems, rows, classes = scores.shape
    sized = 1 <= classes <= MOST_CLASSES and rows < 2**31 - TILE and epsilon > SMALLEST_EPSILON
    sized = sized and problems * cdiv(rows, LEAST_ROWS) < 2**31
    return sized and scores.dtype in DTYPES and iterations >= 1


def sinkhorn(scores: Tensor, marginal: Tensor, epsilon: float, iterations: int, current: int) -> Tensor:
    """The last ``current`` rows of the assignment, (B, current, K) float32, of scores (B, N, K), any strides."""
    problems, rows, classes = scores.shape
    tile = {"BLOCK_K": block(classes, 2, MOST_CLASSES), "num_warps": 4 if classes <= 64 else 8}
    tile["BLOCK_N"] = TILE // tile["BLOCK_K"] if tile["BLOCK_K"] > 16 else 128
    tiles = cdiv(rows, tile["BLOCK_N"])
    at_once = max(1, cdiv(tiles, MOST_PROGRAMS)) * tile["BLOCK_N"]
    programs = cdiv(rows, at_once)
    top = scores.new_empty(problems, programs, classes, dtype=torch.int32)
    total = scores.new_empty(problems, programs, classes, dtype=torch.float64)
    log_v = scores.new_empty(problems, classes, dtype=torch.float64)
    result = scores.new_empty(problems, current, classes, dtype=torch.float32)
    scale = 1 / (epsilon * math.log(2))
    high = ctypes.c_float(scale).value
    given = scores, log_v, *scores.stride()[:2], one_is_none(scores.stride(2)), classes, high, scale - high
    columns = block(classes, 2, 32)
    for i in range(iterations):
        launch(_sweep, (problems, programs), *given, top, total, rows, at_once, FIRST=i == 0, **tile)
        launch(
            _scale_classes, (problems, cdiv(classes, columns)), top, total, marginal, log_v,
            *marginal.stride(), programs, classes,
            FIRST=i == 0, BLOCK_C=ADDED_AT_ONCE, BLOCK_K=columns, num_warps=4,
        )  # fmt: skip
    tiles = cdiv(current, tile["BLOCK_N"])
    launch(_assign, (problems * tiles,), *given, result, rows - current, rows, tiles, **tile)
    return result


@triton.jit
def _power(n):
    """2^n for n <= 0, and 0 below the range of float32."""
    return (tl.maximum(n + 127, 0) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _read(scores, i, inside, k, classes, row_stride, class_stride, scale_high, scale_low, log_v):
    """S / (eps ln 2) + log2 v of a tile as an integer and 2^rest; 0 outside of the rows and classes."""
    at = scores + (i.to(tl.int64) * row_stride)[:, None] + spaced(k, class_stride)[None, :]
    s = tl.load(at, mask=inside[:, None] & (k < classes)[None, :], other=float("-inf")).to(tl.float64)
    scale = tl.full([1, 1], scale_high, tl.float64) + scale_low
    t = s * scale + log_v[None, :]
    whole = tl.minimum(tl.maximum(t, -1.0 * LARGEST), 1.0 * LARGEST).to(tl.int32)
    return whole, tl.exp2((t - whole.to(tl.float64)).to(tl.float32))


@triton.jit
def _over_rows(whole):
    """Integers relative to the largest of their row."""
    return whole - tl.max(whole, 1)[:, None]


@triton.jit
def _inverse(total):
    """1 / total, and 0 for a row that no class may take."""
    return tl.where(total == 0, 0.0, 1 / total)


@kernel(fixed=("scores", "row_stride"))
def _sweep(
    scores, log_v, problem_stride, row_stride, class_stride, classes, scale_high, scale_low,
    top, total, rows, at_once,
    FIRST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Each class's sum of the rows' shares (FIRST: of exp(S / eps)) over the rows of a program."""
    problem = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    scores += problem * problem_stride
    scaling = tl.zeros([BLOCK_K], tl.float64)
    if not FIRST:
        scaling = tl.load(log_v + problem * classes + k, mask=k < classes, other=0.0)
    begin = tl.program_id(1) * at_once
    end = tl.minimum(begin + at_once, rows)
    largest = tl.full([BLOCK_K], -2 * LARGEST, tl.int32)
    mass = tl.zeros([BLOCK_K], tl.float64)
    for start in range(begin, end, BLOCK_N):
        i = start + tl.arange(0, BLOCK_N)
        whole, part = _read(
            scores, i, i < end, k, classes, row_stride, class_stride, scale_high, scale_low, scaling
        )  # fmt: skip
        if not FIRST:
            whole = _over_rows(whole)
            part *= _inverse(tl.sum(part * _power(whole), 1))[:, None]
        here = tl.max(whole, 0)
        own = tl.sum(part * _power(whole - here[None, :]), 0)
        larger = tl.maximum(largest, here)
        mass = mass * _power(largest - larger).to(tl.float64) + own.to(tl.float64) * _power(here - larger)
        largest = larger
    to = (problem * tl.num_programs(1) + tl.program_id(1)) * classes + k
    tl.store(top + to, largest, mask=k < classes)
    tl.store(total + to, mass, mask=k < classes)


@kernel()
def _scale_classes(
    top, total, marginal, log_v, marginal_stride, share_stride, programs, classes,
    FIRST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """log2 v of a block of classes of a problem; minus infinity for a class without a share or without mass."""
    problem = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    top += problem * programs * classes
    total += problem * programs * classes
    largest = tl.full([BLOCK_K], -2 * LARGEST, tl.int32)
    for start in range(0, programs, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        known = (c < programs)[:, None] & (k < classes)[None, :]
        here = tl.load(top + (c * classes)[:, None] + k[None, :], mask=known, other=-2 * LARGEST)
        largest = tl.maximum(largest, tl.max(here, 0))
    mass = tl.zeros([BLOCK_K], tl.float64)
    for start in range(0, programs, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        known = (c < programs)[:, None] & (k < classes)[None, :]
        at = (c * classes)[:, None] + k[None, :]
        here = tl.load(top + at, mask=known, other=-2 * LARGEST)
        own = tl.load(total + at, mask=known, other=0.0)
        mass += tl.sum(own * _power(here - largest[None, :]).to(tl.float64), 0)
    share = tl.load(marginal + problem * marginal_stride + k * share_stride, mask=k < classes, other=0.0)
    moved = tl.log2(share.to(tl.float64)) - (largest.to(tl.float64) + tl.log2(mass))
    to = log_v + problem * classes + k
    if not FIRST:
        moved += tl.load(to, mask=k < classes, other=0.0)
    tl.store(to, tl.where(mass == 0, float("-inf"), moved), mask=k < classes)


@kernel(fixed=("scores", "row_stride"))
def _assign(
    scores, log_v, problem_stride, row_stride, class_stride, classes, scale_high, scale_low,
    result, first, rows, tiles,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The shares of the rows from ``first`` on."""
    problem = (tl.program_id(0) // tiles).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    scaling = tl.load(log_v + problem * classes + k, mask=k < classes, other=0.0)
    i = first + (tl.program_id(0) - problem * tiles).to(tl.int32) * BLOCK_N + tl.arange(0, BLOCK_N)
    whole, part = _read(
        scores + problem * problem_stride, i, i < rows, k, classes, row_stride, class_stride,
        scale_high, scale_low, scaling,
    )  # fmt: skip
    part *= _power(_over_rows(whole))
    share = part * _inverse(tl.sum(part, 1))[:, None]
    to = result + (problem * (rows - first) + i - first)[:, None] * classes + k[None, :]
    tl.store(to, share, mask=(i < rows)[:, None] & (k < classes)[None, :])
