"""Thresholds of confidence by class, exact: the raw operator and the public function."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.ops import _checks, _dispatch, _library, _pixel_pairs
from fastuda.reference import class_thresholds as _reference

Rule = Literal["median", "portion"]

_select = _library.define(
    "class_thresholds(Tensor confidence, Tensor label, int num_classes, float portion, bool from_top, "
    "int ignore_index) -> Tensor",
    _reference.class_thresholds,
    lambda confidence, label, classes, portion, from_top, ignore: confidence.new_empty(classes, dtype=torch.float32),
)
_dispatch.serve("class_thresholds")


def check_rule(rule: str, portion: float) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f'rule must be "median" or "portion", got {rule!r}')
    if not 0 <= portion <= 1:
        raise ValueError(f"portion must be between 0 and 1, got {portion}")


def class_thresholds(
    confidence: Tensor,
    label: Tensor,
    num_classes: int,
    *,
    rule: Rule = "median",
    portion: float = 0.5,
    cap: float | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The confidence above which pixels of each class are trusted, from all of them at once and exact.

    confidence: of any shape, float32, float16, bfloat16 or float64 (rounded to float32); label: of its shape, uint8,
        int32 or int64.  Any strides; (N, H, W) and (P,) are read in place.  Confidences that are NaN,
        ``ignore_index`` and labels outside 0..num_classes-1 are left out.
    rule: "median": of n confidences of a class the ceil(n / 2)-th smallest (SDCA Eq. 19); "portion": the
        max(1, floor(portion n))-th largest (CBST's k_c = exp(-lambda_c)), so that about that share is trusted.
    cap: no threshold is larger than this.
    Returns float32 (K,); 1.0, or the cap, for classes without pixels.  Deterministic; no host synchronisation.  For
    more pixels than fit in memory: fastuda.metrics.ConfidenceHistogram.  Memory of the reference: about 60 bytes a
    pixel; of the compiled CPU kernel: 8 KiB a class and thread, and 1 MiB; of the CUDA C++ kernel: 2.2 KB a class.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    if confidence.dtype not in _checks.FEATURE_DTYPES:
        raise ValueError(f"confidence must be float32, float16, bfloat16 or float64, got {confidence.dtype}")
    _pixel_pairs.check(confidence, label, ("confidence", "label"))
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    check_rule(rule, portion)
    share, from_top = (0.5, False) if rule == "median" else (float(portion), True)
    pixels = _pixel_pairs.as_pixels(confidence.detach(), label)
    thresholds = _select(*pixels, num_classes, share, from_top, ignore_index)
    return thresholds if cap is None else thresholds.clamp(max=cap)
