"""Counts of (truth, prediction) pairs: the raw operator and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library, _pixel_pairs
from fastuda.reference import confusion_matrix as _reference

_count = _library.define(
    "confusion_matrix(Tensor prediction, Tensor truth, int num_classes) -> Tensor",
    _reference.confusion_matrix,
    lambda prediction, truth, classes: truth.new_empty((classes, classes), dtype=torch.int64),
)
_dispatch.serve("confusion_matrix")


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class were predicted as each class.

    prediction, truth: of one shape, uint8, int32 or int64 each, any strides; (N, H, W) and (P,) are read in place.
        Pixels where either is outside 0..num_classes-1 (255 as a rule) are left out.
    Returns int64 (K, K), rows = truth; matrices of other images or ranks add up.  Exact and deterministic; no host
    synchronisation.  Memory of the reference: three int64 numbers a pixel; of the compiled CPU kernel: at most four
    tables of (K + 1)^2 32-bit counts a thread; of CUDA C++ none.
    Raises ValueError for a wrong dtype, shape, device or number of classes.
    """
    if prediction.dtype not in _checks.LABEL_DTYPES:
        raise ValueError(f"prediction must be uint8, int32 or int64, got {prediction.dtype}")
    _pixel_pairs.check(prediction, truth, ("prediction", "truth"))
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return _count(*_pixel_pairs.as_pixels(prediction, truth), num_classes)
