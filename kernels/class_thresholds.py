"""Thresholds of confidence by class: of each class the confidence of a certain rank, exact.

A confidence's key is its bits, changed so that keys are ordered like confidences. The key of the wanted rank of each
class is found digit by digit from the highest: a launch counts, for every class, the pixels whose key agrees with the
digits known so far by their next digit. Programs count in shared memory, in a histogram of all classes at once, and add
theirs up by integer atomics, whose order does not matter; the next launch begins by choosing the digit from the sums.
The fewer the classes, the longer the digits: 4 bits and 9 launches for 17 to 32 classes, at least 2 bits and at most 17
launches. None waits for the device. Memory beyond inputs and outputs: at most 4 KiB a launch.
"""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES, block, cdiv, launch, locate, pixel_strides, read_labels
from fastuda.kernels._launch import kernel

MOST_CLASSES = 256
BINS = 512  # bins of a histogram, at least 4 for each class
BLOCK = 2048  # pixels
MOST_PROGRAMS = 512


def serves(
    confidence: Tensor, label: Tensor, num_classes: int, portion: float, from_top: bool, ignore_index: int
) -> bool:
    """Whether ``class_thresholds`` takes these arguments: at most 256 classes, pixels that 31 bits count."""
    readable = confidence.dtype in (*DTYPES, torch.float64)
    return readable and num_classes <= MOST_CLASSES and label.numel() < 2**31 - BLOCK * MOST_PROGRAMS


def class_thresholds(
    confidence: Tensor, label: Tensor, num_classes: int, portion: float, from_top: bool, ignore_index: int
) -> Tensor:
    """(K,) float32 as fastuda.reference.class_thresholds; (N, H, W) or (P,) of any strides."""
    pixels = label.numel()
    programs = max(1, min(cdiv(pixels, BLOCK), MOST_PROGRAMS))
    per_program = cdiv(cdiv(pixels, BLOCK), programs) * BLOCK
    columns = block(num_classes, 2, MOST_CLASSES)
    width = max(BINS // columns, 4).bit_length() - 1
    rounds = cdiv(32, width)
    empty = {"dtype": torch.int32, "device": label.device}
    counts, known = torch.zeros(rounds, columns << width, **empty), torch.empty(rounds, 2, columns, **empty)
    result = torch.empty(num_classes, dtype=torch.float32, device=label.device)
    share = struct.unpack("q", struct.pack("d", portion))[0]
    options = {"FROM_TOP": from_top, "BLOCK_K": columns, "WIDTH": width, "num_warps": 4, "maxnreg": 255}
    for i in range(rounds):
        launch(
            _count_keys, (programs,), confidence, label, counts, known, pixels, num_classes, ignore_index,
            per_program, i, share, *pixel_strides(confidence), *pixel_strides(label),
            ROUND=min(i, 2), BLOCK=BLOCK, **options,
        )  # fmt: skip
    launch(_write_thresholds, (1,), counts, known, result, num_classes, rounds, share, ROUND=2, **options)
    return result


@triton.jit
def _shift(i, WIDTH: tl.constexpr):
    """The lowest bit of the digit of round i."""
    return tl.maximum(32 - (i + 1) * WIDTH, 0)


@triton.jit
def _choose_key(
    counts, known, i, share,
    ROUND: tl.constexpr, FROM_TOP: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Each class's threshold as a key, as far as round i - 1 found its digits, and its rank among keys that share them.

    The rank is -1 for a class without confidences. share: the bits of the portion, which is float64.
    """
    k = tl.arange(0, BLOCK_K)
    digits = tl.arange(0, 1 << WIDTH)
    number = tl.load(counts + (((i - 1) * BLOCK_K + k) << WIDTH)[:, None] + digits[None, :])
    if ROUND == 1:
        size = tl.sum(number, 1)
        part = size.to(tl.float64) * tl.full([BLOCK_K], share, tl.int64).to(tl.float64, bitcast=True)
        if FROM_TOP:
            rank = size - tl.maximum(tl.floor(part).to(tl.int32), 1)
        else:
            rank = tl.maximum(tl.ceil(part).to(tl.int32), 1) - 1
        rank = tl.where(size > 0, rank, -1)
        key = tl.zeros([BLOCK_K], tl.int32)
    else:
        before = known + (i - 2) * 2 * BLOCK_K + k
        key = tl.load(before)
        rank = tl.load(before + BLOCK_K)
    below = tl.cumsum(number, 1) <= rank[:, None]
    digit = tl.sum(below.to(tl.int32), 1)
    return key | (digit << _shift(i - 1, WIDTH)), rank - tl.sum(tl.where(below, number, 0), 1)


@kernel()
def _count_keys(
    confidence, label, counts, known, pixels, classes, ignore_index, per_program, i, share,
    cd1, cd2, cs0, cs1, cs2, ld1, ld2, ls0, ls1, ls2,
    ROUND: tl.constexpr, FROM_TOP: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Round i; ROUND is i, but at most 2. Digits may share bits, which are equal in all keys that are still counted."""
    program = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    if ROUND > 0:
        wanted, rank = _choose_key(counts, known, i, share, ROUND, FROM_TOP, BLOCK_K, WIDTH)
        if program == 0:
            to = known + (i - 1) * 2 * BLOCK_K + k
            tl.store(to, wanted)
            tl.store(to + BLOCK_K, rank)
    total = tl.zeros([BLOCK_K << WIDTH], tl.int32)
    end = tl.minimum((program + 1) * per_program, pixels)
    for start in range(program * per_program, end, BLOCK):
        p = start + tl.arange(0, BLOCK)
        y = read_labels(label, p, end, classes, ignore_index, ld1, ld2, ls0, ls1, ls2)
        value = tl.load(confidence + locate(p, cd1, cd2, cs0, cs1, cs2), mask=y >= 0, other=0.0).to(tl.float32)
        counted = (y >= 0) & (value == value)
        y = tl.maximum(y, 0)
        bits = value.to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) | -0x80000000)
        if ROUND > 0:
            apart = (key ^ tl.gather(wanted, y, 0)).to(tl.uint32, bitcast=True) >> _shift(i - 1, WIDTH)
            counted = counted & (apart == 0)
        digit = (key.to(tl.uint32, bitcast=True) >> _shift(i, WIDTH)).to(tl.int32) & ((1 << WIDTH) - 1)
        total += tl.histogram((y << WIDTH) + digit, BLOCK_K << WIDTH, counted)
    to = counts + i * (BLOCK_K << WIDTH) + tl.arange(0, BLOCK_K << WIDTH)
    tl.atomic_add(to, total, mask=total > 0, sem="relaxed")


@kernel()
def _write_thresholds(
    counts, known, result, classes, i, share,
    ROUND: tl.constexpr, FROM_TOP: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    key, rank = _choose_key(counts, known, i, share, ROUND, FROM_TOP, BLOCK_K, WIDTH)
    bits = key ^ (~(key >> 31) | -0x80000000)
    tl.store(result + k, tl.where(rank >= 0, bits.to(tl.float32, bitcast=True), 1.0), mask=k < classes)
