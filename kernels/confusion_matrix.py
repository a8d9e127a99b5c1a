"""Counts of (truth, prediction) pairs: by program in shared memory, then added by integer atomics.

With few classes a program counts all pairs in shared memory. With more of them it counts those on the diagonal there,
where most pixels fall, and adds the others one by one.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import cdiv, launch, locate, next_power_of_2, pixel_strides
from fastuda.kernels._launch import kernel

MOST_CLASSES = 1023
MOST_BINS = 1024  # bins counted in one pass; each takes a register of every 32nd thread
BLOCK = 1024  # pixels
MOST_PROGRAMS = 512


def serves(prediction: Tensor, truth: Tensor, num_classes: int) -> bool:
    """Whether ``confusion_matrix`` takes these arguments: at most 1023 classes."""
    return num_classes <= MOST_CLASSES and truth.numel() < 2**31 - BLOCK


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64 as fastuda.reference.confusion_matrix; both of (P,) or (N, H, W), any strides."""
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=truth.device)
    pixels = truth.numel()
    all_pairs = num_classes**2 < MOST_BINS
    bins = next_power_of_2((num_classes**2 if all_pairs else num_classes) + 1)
    blocks = cdiv(cdiv(pixels, BLOCK), MOST_PROGRAMS)
    launch(
        _count_pairs, (cdiv(pixels, max(blocks, 1) * BLOCK),), prediction, truth, counts, pixels, num_classes,
        blocks * BLOCK, *pixel_strides(prediction), *pixel_strides(truth),
        ALL_PAIRS=all_pairs, BINS=max(bins, 32), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return counts


@kernel()
def _count_pairs(
    prediction, truth, counts, pixels, classes, at_once, pd1, pd2, ps0, ps1, ps2, td1, td2, ts0, ts1, ts2,
    ALL_PAIRS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin = tl.program_id(0) * at_once
    end = tl.minimum(begin + at_once, pixels)
    number = tl.zeros([BINS], tl.int32)
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = i < end
        p = tl.load(prediction + locate(i, pd1, pd2, ps0, ps1, ps2), mask=inside, other=0).to(tl.int64)
        t = tl.load(truth + locate(i, td1, td2, ts0, ts1, ts2), mask=inside, other=0).to(tl.int64)
        valid = inside & (p >= 0) & (p < classes) & (t >= 0) & (t < classes)
        pair = tl.where(valid, t * classes + p, 0).to(tl.int32)
        if ALL_PAIRS:
            number += tl.histogram(tl.where(valid, pair, BINS - 1), BINS)
        else:
            right = valid & (t == p)
            number += tl.histogram(tl.where(right, t.to(tl.int32), BINS - 1), BINS)
            tl.atomic_add(counts + pair, tl.full([BLOCK], 1, tl.int64), mask=valid & ~right, sem="relaxed")
    b = tl.arange(0, BINS)
    known = b < classes
    to = counts + b * (classes + 1)
    if ALL_PAIRS:
        known = b < classes * classes
        to = counts + b
    tl.atomic_add(to, number.to(tl.int64), mask=known & (number > 0), sem="relaxed")
