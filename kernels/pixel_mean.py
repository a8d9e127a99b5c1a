"""Means or sums of one or two losses over the pixels that count, and their number.

Two launches: a program adds up a stretch of pixels, one program adds the stretches. Sums are float64, in an order that
depends on the number of pixels alone. Traffic: losses and labels once; memory beyond the results: 24 bytes a stretch.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import cdiv, launch, locate, pixel_strides, read_labels
from fastuda.kernels._launch import kernel

BLOCK = 1024  # pixels at a time
STRETCH = 2048  # pixels for which another program is started
MOST_PROGRAMS = 256


def serves(
    losses: Tensor, others: Tensor | None, labels: Tensor, num_classes: int, ignore_index: int, mean: bool
) -> bool:
    """Whether ``pixel_mean`` takes these arguments: losses in float32."""
    return losses.dtype == torch.float32 and num_classes < 2**31 and labels.numel() < 2**31 - MOST_PROGRAMS * BLOCK


def pixel_mean(
    losses: Tensor, others: Tensor | None, labels: Tensor, num_classes: int, ignore_index: int, mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, other value, divisor) as fastuda.reference.pixel_mean; of (P,) or (N, H, W), any strides."""
    pixels, two = labels.numel(), others is not None
    programs = min(max(cdiv(pixels, STRETCH), 1), MOST_PROGRAMS)
    sums = losses.new_empty(2, programs, dtype=torch.float64)
    counts = losses.new_empty(programs, dtype=torch.int64)
    value, divisor = losses.new_empty(()), losses.new_empty((), dtype=torch.int64)
    other_value = losses.new_empty(() if two else 0)
    strides = (pixel_strides(t) for t in (losses, others if two else losses, labels))
    launch(
        _sum_pixels, (programs,), losses, others if two else losses, labels, sums, counts, pixels,
        cdiv(pixels, programs), num_classes, ignore_index, *(s for of in strides for s in of),
        TWO=two, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    launch(
        _divide_sums, (1,), sums, counts, value, other_value, divisor, programs,
        TWO=two, MEAN=mean, BLOCK=MOST_PROGRAMS, num_warps=4,
    )  # fmt: skip
    return value, other_value, divisor


@kernel()
def _sum_pixels(
    losses, others, labels, sums, counts, pixels, stretch, classes, ignore_index,
    fd1, fd2, fs0, fs1, fs2, od1, od2, os0, os1, os2, ld1, ld2, ls0, ls1, ls2,
    TWO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    end = tl.minimum((program + 1) * stretch, pixels)
    first = tl.zeros([BLOCK], tl.float64)
    second = tl.zeros([BLOCK], tl.float64)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(program * stretch, end, BLOCK):
        p = start + tl.arange(0, BLOCK)
        # The values of ignored pixels, which may be NaN, are not read.
        valid = read_labels(labels, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2) >= 0
        first += tl.load(losses + locate(p, fd1, fd2, fs0, fs1, fs2), mask=valid, other=0.0).to(tl.float64)
        if TWO:
            second += tl.load(others + locate(p, od1, od2, os0, os1, os2), mask=valid, other=0.0).to(tl.float64)
        count += valid.to(tl.int32)
    tl.store(sums + program, tl.sum(first))
    tl.store(sums + tl.num_programs(0) + program, tl.sum(second))
    tl.store(counts + program, tl.sum(count).to(tl.int64))


@kernel()
def _divide_sums(
    sums, counts, value, other_value, divisor, programs, TWO: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(counts + i, mask=i < programs, other=0))
    first = tl.sum(tl.load(sums + i, mask=i < programs, other=0.0))
    second = tl.sum(tl.load(sums + programs + i, mask=i < programs, other=0.0))
    if MEAN:
        total = tl.maximum(total, 1)
        first /= total.to(tl.float64)
        second /= total.to(tl.float64)
    tl.store(divisor, total)
    tl.store(value, first.to(tl.float32))
    if TWO:
        tl.store(other_value, second.to(tl.float32))
