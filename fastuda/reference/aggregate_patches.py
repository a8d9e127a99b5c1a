"""Overlapping patches of scores averaged into labels of whole images."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import compute_dtype
from fastuda.reference._upsample import upsampled
from fastuda.reference.confidence_histogram import count


def aggregate_patches(
    scores: Tensor,
    offsets: Tensor,
    full: Tensor | None,
    height: int,
    width: int,
    patch_height: int,
    patch_width: int,
    probabilities: bool,
    align_corners: bool,
    bins: int,
    with_volume: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label (B, height, width) uint8, confidence, histogram (K, bins) int64, and the mean votes (B, K, height, width).

    scores (B, P, K, h, w): each patch is upsampled to (patch_height, patch_width), taken through the softmax unless it
    holds probabilities, and votes where it lies, its first pixel at offsets (B, P, 2) int64 (y, x); parts outside the
    image are dropped.  full (B, K, h', w'), upsampled to the whole image, is one more vote.  Pixels without a vote:
    label 255, confidence 0 and not in the histogram; next to NaN: 255 and NaN.  The volume is empty unless asked for.

    One image's votes are held at full resolution; where they go is computed on the device: nothing waits for offsets.
    """
    images, _, classes = scores.shape[:3]
    dtype, size, patch = compute_dtype(scores), (height, width), (patch_height, patch_width)
    label = scores.new_empty((images, *size), dtype=torch.uint8)
    confidence = scores.new_empty((images, *size), dtype=dtype)
    volume = scores.new_empty((images, classes, *size) if with_volume else (0,), dtype=dtype)
    counts = torch.zeros(classes, bins, dtype=torch.int64, device=scores.device)
    with torch.autocast(scores.device.type, enabled=False):
        for image in range(images):
            whole = None if full is None else full[image].to(dtype)
            votes, number = _sums(scores[image], offsets[image], whole, size, patch, probabilities, align_corners)
            place = votes.argmax(0)
            share = votes.gather(0, place.unsqueeze(0)).squeeze(0) / number.clamp(min=1)
            confidence[image] = share
            label[image] = place.where((number > 0) & ~share.isnan(), IGNORE).to(torch.uint8)
            if bins:
                counts += count(share.where(number > 0, torch.nan), place, classes, bins)
            if with_volume:
                volume[image] = votes / number.clamp(min=1)
    return label, confidence, counts, volume


def _sums(scores, offsets, full, size, patch, probabilities, align_corners) -> tuple[Tensor, Tensor]:
    """The votes of one image, (K, height, width), added in the patches' order, and their number (height, width)."""
    pixels, dtype = size[0] * size[1], compute_dtype(scores)
    # One place more than there are pixels: there go the parts outside the image.
    votes, number = (scores.new_zeros((pixels + 1, n), dtype=dtype) for n in (scores.shape[1], 1))
    rows, columns = (torch.arange(n, device=scores.device) for n in patch)
    for values, offset in zip(scores, offsets, strict=True):
        y, x = (rows + offset[0]).unsqueeze(1), columns + offset[1]
        inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
        place = (y * size[1] + x).where(inside, pixels)
        for part, up in upsampled(values.unsqueeze(0), patch, align_corners):
            vote = up if probabilities else up.softmax(1)
            votes.index_add_(0, place[part].reshape(-1), vote[0].flatten(1).T)
        number.index_add_(0, place.reshape(-1), number.new_ones(1, 1).expand(place.numel(), 1))
    votes, number = votes[:-1].T.reshape(-1, *size), number[:-1].view(size)
    if full is not None:
        for part, up in upsampled(full.unsqueeze(0), size, align_corners):
            votes[:, part] += (up if probabilities else up.softmax(1))[0]
        number += 1
    return votes, number
