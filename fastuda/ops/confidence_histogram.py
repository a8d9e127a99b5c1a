"""Histograms of prediction confidence from low-resolution scores: the raw operator and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library
from fastuda.reference import confidence_histogram as _reference

_confidence_histogram = _library.define(
    "confidence_histogram(Tensor scores, int height, int width, int bins, bool probabilities, bool align_corners) "
    "-> Tensor",
    _reference.confidence_histogram,
    lambda scores, height, width, bins, *_: scores.new_empty((scores.shape[1], bins), dtype=torch.int64),
)
_dispatch.serve("confidence_histogram")


def confidence_histogram(
    scores: Tensor,
    *,
    size: tuple[int, int] | None = None,
    bins: int = 1024,
    probabilities: bool = False,
    align_corners: bool = True,
) -> Tensor:
    """How often each class is predicted with which confidence, straight from low-resolution scores.

    Arguments, precision and errors as of ``pseudo_labels``, whose labels (with threshold 0) and confidences are
    counted; any number of classes.  Only K bins numbers leave it, so that thresholds of a class over any number of
    images take one pass and no probability map.
    Returns counts, int64 (K, bins): bin b holds confidences in [b / bins, (b + 1) / bins), the last one also those
    above; NaN is left out.  Counts of other images add up.  Deterministic; no host synchronisation.  Memory beyond
    inputs and outputs: of the compiled CPU kernel 8 K bins bytes and a few rows of scores a thread; of CUDA C++ none;
    of the reference as of ``pseudo_labels``.
    Raises ValueError for a wrong dtype, shape or option.
    """
    _checks.scores(scores, "scores")
    height, width = scores.shape[2:] if size is None else _checks.size(size)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    return _confidence_histogram(scores.detach(), height, width, bins, probabilities, align_corners)
