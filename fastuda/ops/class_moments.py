"""Per-class statistics of pixel features: the raw operators and the public function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastuda.ops import _checks, _library
from fastuda.reference.class_moments import Moments
from fastuda.reference.class_moments import class_moments as _reference

_ARGUMENTS = "(Tensor features, Tensor labels, int num_classes, int ignore_index)"


def _fake(features: Tensor, labels: Tensor, num_classes: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    count = features.new_empty(num_classes, dtype=torch.int64)
    mean = features.new_empty(num_classes, features.shape[1], dtype=dtype)
    return count, mean, features.new_empty(num_classes, *shape, dtype=dtype)


_diag = _library.define(
    f"class_moments{_ARGUMENTS} -> (Tensor count, Tensor mean, Tensor m2)",
    lambda features, labels, classes, ignore: tuple(_reference(features, labels, classes, "diag", ignore)),
    lambda features, labels, classes, ignore: _fake(features, labels, classes, features.shape[1]),
)
_full = _library.define(
    f"class_moments_full{_ARGUMENTS} -> (Tensor count, Tensor mean, Tensor m2)",
    lambda features, labels, classes, ignore: tuple(_reference(features, labels, classes, "full", ignore)),
    lambda features, labels, classes, ignore: _fake(features, labels, classes, features.shape[1], features.shape[1]),
)


def class_moments(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    covariance: Literal["diag", "full"] | None = "diag",
    ignore_index: int = 255,
) -> Moments:
    """Count, mean and centred second moment (sum of squared deviations) of the features of each class.

    These are the sufficient statistics of SDCA (Li et al., arXiv 2105.00908): the population covariance of class k is
    ``m2[k] / count[k]``, and two sets of moments merge exactly (Chan et al. 1979).

    features: (N, A, H, W) or (P, A), float32, float16, bfloat16 or float64, any strides; channels_last and (P, A)
        are read without a copy by every backend, NCHW by the compiled ones.
    labels: (N, H, W) or (P,) at feature resolution, uint8, int32 or int64; ``ignore_index`` and labels outside
        0..num_classes-1 are ignored.
    covariance: "diag" for m2 of (K, A), "full" for (K, A, A), None for no m2.
    Returns ``Moments(count, mean, m2)``: count int64 (K,), mean and m2 float32 (float64 for float64 features). Empty
    classes hold zeros. No gradient flows: the outputs are statistics. Deterministic, the same for every number of
    threads; no host synchronisation. Memory beyond inputs and outputs on the compiled CPU path: 5 % of the size
    the features have in float32 (one 3 x K x A block at least); the reference's docstring states its own.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _checks.pixels(features, labels)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if covariance not in ("diag", "full", None):
        raise ValueError(f'covariance must be "diag", "full" or None, got {covariance!r}')
    raw = _full if covariance == "full" else _diag
    with torch.no_grad():
        count, mean, m2 = raw(features.detach(), labels, num_classes, ignore_index)
    return Moments(count, mean, None if covariance is None else m2)
