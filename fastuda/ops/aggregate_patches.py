"""Overlapping patches of scores averaged into labels of whole images: the raw operator and the public function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library
from fastuda.ops.pseudo_labels import MOST_CLASSES
from fastuda.reference import aggregate_patches as _reference
from fastuda.reference._pixels import compute_dtype


class Aggregated(NamedTuple):
    """label: uint8 (B, H, W), 255 where no patch lies; confidence: (B, H, W), the mean vote of the label, 0 there.

    histogram: int64 (K, bins) of the confidences by label, or None; volume: the mean votes (B, K, H, W), or None.
    """

    label: Tensor
    confidence: Tensor
    histogram: Tensor | None
    volume: Tensor | None


def _fake(scores, offsets, full, height, width, patch_height, patch_width, probabilities, align, bins, with_volume):
    (images, _, classes), dtype = scores.shape[:3], compute_dtype(scores)
    return (
        scores.new_empty((images, height, width), dtype=torch.uint8),
        scores.new_empty((images, height, width), dtype=dtype),
        scores.new_empty((classes, bins), dtype=torch.int64),
        scores.new_empty((images, classes, height, width) if with_volume else (0,), dtype=dtype),
    )


_aggregate_patches = _library.define(
    "aggregate_patches(Tensor scores, Tensor offsets, Tensor? full, int height, int width, int patch_height, "
    "int patch_width, bool probabilities, bool align_corners, int bins, bool with_volume) "
    "-> (Tensor label, Tensor confidence, Tensor histogram, Tensor volume)",
    _reference.aggregate_patches,
    _fake,
)
_dispatch.serve("aggregate_patches")


def aggregate_patches(
    patch_scores: Tensor,
    offsets: Tensor,
    size: tuple[int, int],
    *,
    stride: int,
    patch: tuple[int, int] | None = None,
    align_corners: bool = True,
    probabilities: bool = False,
    full: Tensor | None = None,
    bins: int = 0,
    return_volume: bool = False,
) -> Aggregated:
    """Votes of overlapping patches averaged over each image, straight from low-resolution scores (MLSL's SISC).

    Each patch is bilinearly upsampled, taken through the softmax and added where it lies; the sum is divided by the
    number of votes of the pixel, and its largest class is the label.

    patch_scores: (B, P, K, h, w), P patches of each image, K <= 255, float32, float16, bfloat16 or float64, any
        strides; logits, or with ``probabilities`` probabilities that are upsampled as they are.
    offsets: (B, P, 2) int64, row and column of each patch's first pixel; parts outside the image are dropped.
    size: (height, width) of the images.
    stride: pixels a score; patch: (height, width) of an upsampled patch, by default (h stride, w stride).
    align_corners: of all upsampling, as in ``torch.nn.functional.interpolate``.
    full: (B, K, h', w') of any of these dtypes: scores of the whole image, upsampled to it, one more vote.
    bins: of the histogram of confidences by label, as of ``confidence_histogram``; 0 makes none.
    return_volume: whether the mean votes are wanted as well; without it they are never stored.
    Returns ``Aggregated``: label uint8 (B, H, W), the lowest class of equals; confidence float32 (float64 for float64
    scores), computed in that precision also under autocast.  Pixels without a vote: label 255, confidence 0, in no bin.
    A vote next to a NaN makes the confidence NaN and the label 255.
    No gradient flows: labels are targets.  Deterministic; no host synchronisation.  Memory beyond inputs and outputs:
    of the compiled CPU kernel three rows of scores of each patch and of ``full`` a thread, and 8 K bins bytes; of CUDA
    C++ none; of the reference the votes of one image twice.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _check_patches(patch_scores, offsets)
    images, _, classes, height, width = patch_scores.shape
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if bins < 0:
        raise ValueError(f"bins must be at least 0, got {bins}")
    if full is not None:
        _checks.scores(full, "full")
        if full.shape[:2] != (images, classes):
            raise ValueError(f"full must be ({images}, {classes}, h, w), got shape {tuple(full.shape)}")
        if full.device != patch_scores.device:
            raise ValueError(f"full is on {full.device} but patch_scores are on {patch_scores.device}")
    sizes = *_checks.size(size), *_checks.size((height * stride, width * stride) if patch is None else patch)
    options = probabilities, align_corners, bins, return_volume
    full = None if full is None else full.detach()
    label, confidence, histogram, volume = _aggregate_patches(patch_scores.detach(), offsets, full, *sizes, *options)
    return Aggregated(label, confidence, histogram if bins else None, volume if return_volume else None)


def _check_patches(scores: Tensor, offsets: Tensor) -> None:
    if scores.dtype not in _checks.FEATURE_DTYPES:
        raise ValueError(f"patch_scores must be float32, float16, bfloat16 or float64, got {scores.dtype}")
    if scores.dim() != 5 or min(scores.shape[2:]) < 1:
        raise ValueError(f"patch_scores must be (B, P, K, h, w) with K, h, w >= 1, got shape {tuple(scores.shape)}")
    if scores.shape[2] > MOST_CLASSES:
        raise ValueError(f"patch_scores must have at most {MOST_CLASSES} classes, got {scores.shape[2]}")
    shape = (*scores.shape[:2], 2)
    if offsets.dtype != torch.int64 or offsets.shape != shape:
        found = f"{offsets.dtype} of shape {tuple(offsets.shape)}"
        raise ValueError(f"offsets must be int64 of shape {shape}, got {found}")
    if offsets.device != scores.device:
        raise ValueError(f"offsets are on {offsets.device} but patch_scores are on {scores.device}")
