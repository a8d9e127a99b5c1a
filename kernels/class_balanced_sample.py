"""Pixels drawn without replacement by class: the ones of each image and class with the smallest random numbers.

A pixel's key is 31 random bits, a function of the seed and its number in the batch, and then its place in the image.
The largest key that is drawn of each image and class is found digit by digit, of 11, 10 and 10 bits: one kernel counts
the pixels whose bits so far agree with it, by their next digit, and one program for each class chooses the digit. The
generator is a bijection, so 31 bits are shared by two pixels at most; the last count also keeps the smaller of their
places. Numbers are made anew in each pass, so nothing is kept of a pixel.

Of ``class_balanced_sample`` at most K - 1 pixels are then missing: each block of pixels lists as many of its keys of a
second stream, in order, and one program an image picks the smallest of them all. Each block writes what it drew behind
that of the earlier ones. All counts are integers, so their order does not matter. One fill and nine launches, none
waits for the device. Memory beyond inputs and outputs: 8 KiB for each image and class; for each block of 1024 pixels 8
bytes, times K for ``sample_per_class``, and 8 (K - 1) more for ``class_balanced_sample``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import cdiv, launch, next_power_of_2, pixel_strides, random_bits, read_labels
from fastuda.kernels._launch import kernel

DIGITS = ((20, 11), (10, 10), (0, 10))  # lowest bit and number of bits, of 31
BINS = 2048  # counters of an image and class: one a digit; for the last digit 1024 and the pixels' places
BLOCK = 1024  # pixels
MOST_CLASSES = 256
LISTED = 4096  # numbers of several blocks that a program lists at a time
LARGEST = tl.constexpr(0x7FFFFFFFFFFFFFFF)


def serves(labels: Tensor, seed: Tensor, num_classes: int, count: int, ignore_index: int) -> bool:
    """Whether ``class_balanced_sample`` takes these arguments: at most 256 classes, images and pixels of 31 bits."""
    images = labels.shape[0]
    sized = images < 2**16 and images * num_classes * BINS < 2**31 and labels.numel() < 2**31 - BLOCK
    return sized and num_classes <= MOST_CLASSES and count < 2**31 - LISTED


def serves_per_class(labels: Tensor, seed: Tensor, num_classes: int, per_class: int, ignore_index: int) -> bool:
    """Whether ``sample_per_class`` takes these arguments."""
    return serves(labels, seed, num_classes, per_class, ignore_index)


def class_balanced_sample(labels: Tensor, seed: Tensor, num_classes: int, count: int, ignore_index: int) -> Tensor:
    """(B, count) int64 as fastuda.reference.class_balanced_sample; labels (B, P) of any strides."""
    return _sample(labels, seed, num_classes, count, ignore_index, True).view(labels.shape[0], count)


def sample_per_class(labels: Tensor, seed: Tensor, num_classes: int, per_class: int, ignore_index: int) -> Tensor:
    """(B, K, per_class) int64 as fastuda.reference.sample_per_class; labels (B, P) of any strides."""
    return _sample(labels, seed, num_classes, per_class, ignore_index, False)


def _sample(labels: Tensor, seed: Tensor, classes: int, wanted: int, ignore_index: int, share: bool) -> Tensor:
    images, pixels = labels.shape
    groups, most, chunks = (1 if share else classes), max(classes - 1, 1), cdiv(pixels, BLOCK)
    empty = {"dtype": torch.int32, "device": labels.device}
    long = empty | {"dtype": torch.int64}
    sizes = images * classes * BINS, cdiv(images, 2) * 4, images * groups * chunks
    bins, totals, counts = torch.zeros(sum(sizes), **empty).split(sizes)
    before = torch.empty(images * groups * chunks, **empty)
    prefix, need = torch.empty(2, images * classes, **empty)
    threshold = torch.empty(images * classes, **long)
    candidates, tops = torch.empty(images * chunks * most if share else 0, **long), torch.empty(images, **long)
    result = torch.empty(images, groups, wanted, **long)
    grid, options = (chunks, images), {"BLOCK": BLOCK, "num_warps": 4}
    given = labels, seed.contiguous()
    layout = pixels, classes, ignore_index, *pixel_strides(labels)
    for shift, width in DIGITS:
        digit = {"SHIFT": shift, "WIDTH": width, "BINS": BINS}
        launch(_count_digits, grid, *given, prefix, bins, totals, *layout, **digit, **options)
        launch(
            _choose_digit, (images * classes,), bins, totals, prefix, need, threshold, pixels, classes, wanted,
            SHARE=share, **digit, num_warps=4,
        )  # fmt: skip
    launch(
        _count_chosen, grid, *given, threshold, totals, counts, candidates, groups, most, wanted, *layout,
        SHARE=share, **options,
    )  # fmt: skip
    columns = next_power_of_2(most) if share else 1
    launch(
        _scan_chosen, (images * groups,), totals, counts, candidates, before, tops, result, chunks, most, wanted,
        SHARE=share, BLOCK_C=LISTED // columns, BLOCK_M=columns, num_warps=8,
    )  # fmt: skip
    launch(
        _place_chosen, grid, *given, threshold, tops, before, result, groups, wanted, *layout, SHARE=share, **options
    )
    return result


@triton.jit
def _missing(totals, image, wanted):
    """How many pixels of an image its classes' parts leave to be drawn."""
    return tl.minimum(tl.load(totals + 2 * image), wanted) - tl.load(totals + 2 * image + 1)


@triton.jit
def _keys(seed, STREAM: tl.constexpr, number, place):
    return ((random_bits(seed, STREAM, number) >> 1).to(tl.int64) << 32) | place


@triton.jit
def _pixels(labels, pixels, classes, ignore_index, d1, d2, s0, s1, s2, BLOCK: tl.constexpr):
    """This program's pixels: their places in the image, numbers in the batch, and classes or -1."""
    image = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    number = image * pixels + place
    y = read_labels(labels, number, (image + 1) * pixels, classes, ignore_index, d1, d2, s0, s1, s2)
    return place, number, y


@kernel()
def _count_digits(
    labels, seed, prefix, bins, totals, pixels, classes, ignore_index, d1, d2, s0, s1, s2,
    SHIFT: tl.constexpr, WIDTH: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    place, number, y = _pixels(labels, pixels, classes, ignore_index, d1, d2, s0, s1, s2, BLOCK)
    bits = (random_bits(seed, 0, number) >> 1).to(tl.int32)
    counted = y >= 0
    row = image * classes + y
    if SHIFT + WIDTH == 31:
        tl.atomic_add(totals + 2 * image, tl.sum(counted.to(tl.int32), 0), sem="relaxed")
    else:
        counted &= tl.load(prefix + row, mask=counted, other=-1) == bits >> (SHIFT + WIDTH)
    at = bins + row * BINS + ((bits >> SHIFT) & ((1 << WIDTH) - 1))
    tl.atomic_add(at, 1, mask=counted, sem="relaxed")
    if SHIFT == 0:  # pixels - place is positive and larger for smaller places
        tl.atomic_max(at + BINS // 2, pixels - place, mask=counted, sem="relaxed")


@kernel()
def _choose_digit(
    bins, totals, prefix, need, threshold, pixels, classes, wanted,
    SHARE: tl.constexpr, SHIFT: tl.constexpr, WIDTH: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """need: how many pixels are drawn of those whose bits so far are prefix; threshold: -1 where none is."""
    row = tl.program_id(0)
    image = row // classes
    digits = tl.arange(0, 1 << WIDTH)
    at = bins + row * BINS + digits
    number = tl.load(at)
    value = 0
    if SHIFT + WIDTH == 31:
        size = tl.sum(number, 0)
        left = tl.minimum(size, wanted)
        if SHARE:
            whole = tl.maximum(tl.load(totals + 2 * image), 1)
            left = tl.minimum(size, wanted * size.to(tl.int64) // whole).to(tl.int32)
            tl.atomic_add(totals + 2 * image + 1, left, sem="relaxed")
    else:
        left = tl.load(need + row)
        value = tl.load(prefix + row) << WIDTH
    below = tl.cumsum(number, 0) < left
    digit = tl.sum(below.to(tl.int32), 0)
    left -= tl.sum(tl.where(below, number, 0), 0)
    value |= digit
    if SHIFT == 0:
        alike = tl.sum(tl.where(digits == digit, number, 0), 0)
        first = pixels - tl.load(bins + row * BINS + BINS // 2 + digit)
        last = tl.where(left < alike, first, 0x7FFFFFFF)
        tl.store(threshold + row, tl.where(left > 0, (value.to(tl.int64) << 32) | last, -1))
    else:
        tl.store(prefix + row, value)
        tl.store(need + row, left)
        tl.debug_barrier()  # the counts were read above
        tl.store(at, tl.zeros_like(number))


@triton.jit
def _drawn(seed, threshold, image, place, number, y, classes):
    """Whether a pixel is drawn for its class."""
    most = tl.load(threshold + image * classes + y, mask=y >= 0, other=-1)
    return _keys(seed, 0, number, place) <= most


@kernel()
def _count_chosen(
    labels, seed, threshold, totals, counts, candidates, groups, most, wanted, pixels, classes, ignore_index,
    d1, d2, s0, s1, s2, SHARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pixels drawn of each group in a block, and the block's smallest keys of the second stream of those left over."""
    image = tl.program_id(1)
    chunks = tl.num_programs(0)
    place, number, y = _pixels(labels, pixels, classes, ignore_index, d1, d2, s0, s1, s2, BLOCK)
    chosen = _drawn(seed, threshold, image, place, number, y, classes)
    if not SHARE:
        tl.atomic_add(counts + (image * groups + y) * chunks + tl.program_id(0), 1, mask=chosen, sem="relaxed")
    else:
        tl.store(counts + image * chunks + tl.program_id(0), tl.sum(chosen.to(tl.int32), 0))
        key = tl.where((y >= 0) & ~chosen, _keys(seed, 1, number, place), LARGEST)
        to = candidates + (image * chunks + tl.program_id(0)).to(tl.int64) * most
        last = tl.full([], -1, tl.int64)
        for i in range(_missing(totals, image, wanted)):
            last = tl.min(tl.where(key > last, key, LARGEST), 0)
            tl.store(to + i, last)


@triton.jit
def _listed(candidates, row, c, m, chunks, most, missing):
    at = (row.to(tl.int64) * chunks + c)[:, None] * most + m[None, :]
    return tl.load(candidates + at, mask=(c < chunks)[:, None] & (m < missing)[None, :], other=LARGEST)


@kernel()
def _scan_chosen(
    totals, counts, candidates, before, tops, result, chunks, most, wanted,
    SHARE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """tops: the largest key drawn from all of an image's candidates; before: pixels drawn in earlier blocks."""
    row = tl.program_id(0)
    m = tl.arange(0, BLOCK_M)
    last = tl.full([], -1, tl.int64)
    missing = 0
    if SHARE:
        missing = _missing(totals, row, wanted)
        for _ in range(missing):
            least = tl.full([], LARGEST, tl.int64)
            for start in range(0, chunks, BLOCK_C):
                key = _listed(candidates, row, start + tl.arange(0, BLOCK_C), m, chunks, most, missing)
                least = tl.minimum(least, tl.min(tl.where(key > last, key, LARGEST)))
            last = least
        tl.store(tops + row, last)
    total = 0
    for start in range(0, chunks, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        at = row * chunks + c
        number = tl.load(counts + at, mask=c < chunks, other=0)
        if SHARE:
            key = _listed(candidates, row, c, m, chunks, most, missing)
            number += tl.sum((key <= last).to(tl.int32), 1)
        tl.store(before + at, total + tl.cumsum(number, 0) - number, mask=c < chunks)
        total += tl.sum(number, 0)
    for start in range(total, wanted, BLOCK_C):
        w = start + tl.arange(0, BLOCK_C)
        tl.store(result + row.to(tl.int64) * wanted + w, tl.full([BLOCK_C], -1, tl.int64), mask=w < wanted)


@kernel()
def _place_chosen(
    labels, seed, threshold, tops, before, result, groups, wanted, pixels, classes, ignore_index, d1, d2, s0, s1, s2,
    SHARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    chunks = tl.num_programs(0)
    place, number, y = _pixels(labels, pixels, classes, ignore_index, d1, d2, s0, s1, s2, BLOCK)
    chosen = _drawn(seed, threshold, image, place, number, y, classes)
    if SHARE:
        more = (y >= 0) & (_keys(seed, 1, number, place) <= tl.load(tops + image))
        _write(chosen | more, before, result, image, chunks, wanted, place)
    else:
        for c in range(groups):
            _write(chosen & (y == c), before, result, image * groups + c, chunks, wanted, place)


@triton.jit
def _write(chosen, before, result, group, chunks, wanted, place):
    to = tl.load(before + group * chunks + tl.program_id(0)) + tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(result + group.to(tl.int64) * wanted + to, place.to(tl.int64), mask=chosen)
