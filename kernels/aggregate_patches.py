"""Overlapping patches of scores averaged into labels of whole images: each pixel gathers its votes.

A program takes a block of columns of an output row and holds its votes of all classes. It looks for the patches that
lie there, some at once, and adds their votes in the patches' order: the scores between two rows and columns, and the
softmax of those. Nothing is stored but the results.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import DTYPES, block, cdiv, launch
from fastuda.kernels._launch import kernel
from fastuda.kernels._upsample import read, readable, strides, taps
from fastuda.kernels.confidence_histogram import MOST_BINS, add_last_bins, count_pixels, label_bins
from fastuda.kernels.pseudo_labels import IGNORED, MOST_CLASSES

VOTES = 2048  # classes times columns of a program of four warps
COLUMNS = (16, 128)  # least and most columns of a program
LISTED = 64  # patches that a program tests at a time for overlap
MOST_WIDTH = 2**20  # pixels: a grid has at most 2^16 - 1 blocks of columns
MOST_REGISTERS = 255  # set explicitly: otherwise the assembler spills registers to fit more warps


def serves(
    scores: Tensor, offsets: Tensor, full: Tensor | None, height: int, width: int, patch_height: int, patch_width: int,
    probabilities: bool, align_corners: bool, bins: int, with_volume: bool,
) -> bool:  # fmt: skip
    """Whether ``aggregate_patches`` takes these arguments: scores of 32 or 16 bits, at most 255 classes."""
    sized = scores.shape[2] <= MOST_CLASSES and bins <= MOST_BINS and height * width < 2**31 and width < MOST_WIDTH
    whole = full is None or readable(full, height, width, (*DTYPES, torch.float64))
    return sized and whole and readable(scores, patch_height, patch_width)


def aggregate_patches(
    scores: Tensor, offsets: Tensor, full: Tensor | None, height: int, width: int, patch_height: int, patch_width: int,
    probabilities: bool, align_corners: bool, bins: int, with_volume: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(label, confidence, histogram, volume) as fastuda.reference.aggregate_patches; scores of any strides."""
    images, patches, classes = scores.shape[:3]
    label = scores.new_empty(images, height, width, dtype=torch.uint8)
    confidence = scores.new_empty(images, height, width, dtype=torch.float32)
    volume = scores.new_empty((images, classes, height, width) if with_volume else (0,), dtype=torch.float32)
    counts = torch.zeros(classes, bins, dtype=torch.int64, device=scores.device)
    lanes = block(classes, 2, 256)
    columns = block(VOTES // lanes, *COLUMNS)
    launch(
        _aggregate_rows, (images * height, cdiv(width, columns)), scores, offsets, full, label, confidence,
        counts if bins else None, volume if with_volume else None, *scores.shape[1:],
        *(full.shape[2:] if full is not None else (0, 0)), height, width, patch_height, patch_width,
        *strides(scores), *strides(offsets), *(strides(full) if full is not None else (0,) * 4), bins,
        PROBABILITIES=probabilities, ALIGN=align_corners, LABELS=label_bins(classes), BLOCK_K=lanes, COLUMNS=columns,
        LISTED=block(patches, 16, LISTED), num_warps=4 if lanes * columns <= VOTES else 8,
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
    return label, confidence, counts, volume


@triton.jit
def _vote(
    scores, row, column, height, width, h, w, k, classes, class_stride, row_stride, column_stride,
    PROBABILITIES: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Probabilities (classes, columns) of pixels of a row; those beyond the classes have none."""
    top, bottom, down = taps(row + tl.zeros([1, 1], tl.int32), height, h, ALIGN)
    left, right, along = taps(column[None, :], width, w, ALIGN)
    known = (k < classes)[:, None]
    k = (k * class_stride)[:, None]
    x = read(
        scores, k + top * row_stride, k + bottom * row_stride, left * column_stride,
        right * column_stride, down, along, known,
    )  # fmt: skip
    if PROBABILITIES:
        share = tl.where(known, x, 0.0)
    else:
        x = tl.where(known, x, float("-inf"))
        e = tl.exp(x - tl.max(x, 0)[None, :])
        share = e * (1 / tl.sum(e, 0))[None, :]
    return share


@kernel()
def _aggregate_rows(
    scores, offsets, full, label, confidence, counts, volume, patches, classes, h, w, full_h, full_w, height, width,
    patch_height, patch_width, image_stride, patch_stride, class_stride, row_stride, column_stride,
    offset_image, offset_patch, offset_axis, full_image, full_class, full_row, full_column, bins,
    PROBABILITIES: tl.constexpr, ALIGN: tl.constexpr, LABELS: tl.constexpr, BLOCK_K: tl.constexpr,
    COLUMNS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // height).to(tl.int64)
    y = tl.program_id(0) % height
    first = tl.program_id(1) * COLUMNS
    x = first + tl.arange(0, COLUMNS)
    k = tl.arange(0, BLOCK_K)
    scores += image * image_stride
    offsets += image * offset_image
    votes = tl.zeros([BLOCK_K, COLUMNS], tl.float32)
    number = tl.zeros([COLUMNS], tl.int32)
    for start in range(0, patches, LISTED):
        p = start + tl.arange(0, LISTED)
        down = tl.load(offsets + p * offset_patch, mask=p < patches, other=0)
        across = tl.load(offsets + p * offset_patch + offset_axis, mask=p < patches, other=0)
        here = (p < patches) & (down <= y) & (down > y - patch_height)
        here = here & (across < first + COLUMNS) & (across > first - patch_width)
        last = -1
        for _ in range(tl.sum(here.to(tl.int32), 0)):
            last = tl.min(tl.where(here & (p > last), p, 0x7FFFFFFF), 0)
            row = (y - tl.load(offsets + last * offset_patch)).to(tl.int32)
            column = (x - tl.load(offsets + last * offset_patch + offset_axis)).to(tl.int32)
            inside = (column >= 0) & (column < patch_width)
            column = tl.minimum(tl.maximum(column, 0), patch_width - 1)
            share = _vote(
                scores + last.to(tl.int64) * patch_stride, row, column, patch_height, patch_width, h, w, k, classes,
                class_stride, row_stride, column_stride, PROBABILITIES, ALIGN,
            )  # fmt: skip
            votes += tl.where(inside[None, :], share, 0.0)
            number += inside.to(tl.int32)
    if full is not None:
        votes += _vote(
            full + image * full_image, y, tl.minimum(x, width - 1), height, width, full_h, full_w, k, classes,
            full_class, full_row, full_column, PROBABILITIES, ALIGN,
        )  # fmt: skip
        number += 1

    written = x < width
    known = (k < classes)[:, None]
    best, place = tl.max(tl.where(known, votes, float("-inf")), 0, return_indices=True)
    spoiled = tl.max((votes != votes).to(tl.int32), 0) > 0
    total = tl.maximum(number, 1).to(tl.float32)
    share = tl.where(spoiled, float("nan"), best / total)
    counted = written & (number > 0) & (share == share)
    to = (image * height + y) * width + x
    tl.store(label + to, tl.where(counted, place, IGNORED).to(tl.uint8), mask=written)
    tl.store(confidence + to, share, mask=written)
    if counts is not None:
        add_last_bins(counts, count_pixels(counts, place, share, counted, bins, LABELS, COLUMNS), classes, bins, LABELS)
    if volume is not None:
        to = ((image * classes + k.to(tl.int64)) * height + y)[:, None] * width + x[None, :]
        mean = votes / total[None, :]
        tl.store(volume + to, mean, mask=known & written[None, :])
