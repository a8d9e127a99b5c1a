"""Pseudo labels from low-resolution scores: the raw operator and the public functions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.ops import _checks, _dispatch, _library
from fastuda.reference import pseudo_labels as _reference
from fastuda.reference._pixels import compute_dtype

MOST_CLASSES = IGNORE  # of a uint8 label, 0..254


class PseudoLabels(NamedTuple):
    """label: uint8 (N, H, W), 255 where none; confidence: the best class's probability, also where label is 255."""

    label: Tensor
    confidence: Tensor


def _fake(scores, threshold, height, width, probabilities, balanced, align_corners, with_confidence):
    shape = (scores.shape[0], height, width)
    confidence = scores.new_empty(shape if with_confidence else (0,), dtype=compute_dtype(scores))
    return scores.new_empty(shape, dtype=torch.uint8), confidence


_pseudo_labels = _library.define(
    "pseudo_labels(Tensor scores, Tensor threshold, int height, int width, bool probabilities, bool balanced, "
    "bool align_corners, bool with_confidence) -> (Tensor label, Tensor confidence)",
    _reference.pseudo_labels,
    _fake,
)
_dispatch.serve("pseudo_labels")


def pseudo_labels(
    scores: Tensor,
    *,
    size: tuple[int, int] | None = None,
    threshold: float | Tensor = 0.0,
    probabilities: bool = False,
    align_corners: bool = True,
    return_confidence: bool = False,
) -> Tensor | PseudoLabels:
    """The most likely class of each pixel where it is likely enough, straight from low-resolution scores.

        label = argmax_c p_c where p_label >= threshold_label, else 255

    scores: (N, K, h, w), K <= 255, float32, float16, bfloat16 or float64, any strides; bilinearly upsampled and then
        taken through the softmax, or probabilities that are upsampled as they are.
    size: (height, width) of the labels, by default the scores' own.
    threshold: of all classes, or of each one: (K,), float32 or float64.
    align_corners: of the upsampling, as in ``torch.nn.functional.interpolate``.
    Returns uint8 (N, height, width), or with return_confidence both members of ``PseudoLabels``; the confidence is
    float32 (float64 for float64 scores), computed in that precision also under autocast.  The lowest class of equals;
    in float32, classes of upsampled logits within 4 units in the last place of the node's largest magnitude may be
    taken for each other.  A pixel next to a score that is NaN gets 255 and the confidence NaN.
    No gradient flows: labels are targets.  Deterministic; no host synchronisation.  Memory beyond inputs and outputs:
    of the compiled CPU kernel a few rows of scores a thread; of CUDA C++ none; of the reference several buffers of 2^21
    elements or of one row.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    size = check_scores(scores, size)
    if isinstance(threshold, Tensor):
        _checks.optional("threshold", threshold, scores.shape[1:2], scores)
    else:
        threshold = scores.new_full(scores.shape[1:2], threshold, dtype=compute_dtype(scores))
    return _run(scores, threshold, size, probabilities, False, align_corners, return_confidence)


def select_balanced(
    scores: Tensor,
    thresholds: Tensor,
    *,
    size: tuple[int, int] | None = None,
    probabilities: bool = False,
    align_corners: bool = True,
    return_confidence: bool = False,
) -> Tensor | PseudoLabels:
    """Class-balanced pseudo labels (CBST, Zou et al., ECCV 2018): a class counts by its probability over its threshold.

        label = argmax_c p_c / k_c where that is at least 1, else 255

    thresholds: k, (K,), float32 or float64; a class whose threshold is not above 1e-30 gets no label.
    Other arguments, results and errors as of ``pseudo_labels``; the confidence is p of the class with the largest
    quotient.  With one threshold for all classes both give the same labels.
    """
    size = check_scores(scores, size)
    if not isinstance(thresholds, Tensor):
        raise ValueError(f"thresholds must be a tensor, got {type(thresholds).__name__}")
    _checks.optional("thresholds", thresholds, scores.shape[1:2], scores)
    return _run(scores, thresholds, size, probabilities, True, align_corners, return_confidence)


def _run(scores, threshold, size, probabilities, balanced, align_corners, return_confidence):
    options = *size, probabilities, balanced, align_corners, return_confidence
    found = _pseudo_labels(scores.detach(), threshold.detach(), *options)
    return PseudoLabels(*found) if return_confidence else found[0]


def check_scores(scores: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of the labels of scores (N, K, h, w) with K <= 255."""
    _checks.scores(scores, "scores")
    if scores.shape[1] > MOST_CLASSES:
        raise ValueError(f"scores must have at most {MOST_CLASSES} classes, got {scores.shape[1]}")
    return (scores.shape[2], scores.shape[3]) if size is None else _checks.size(size)
