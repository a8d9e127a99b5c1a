"""Per-class statistics of pixel features: the raw operators and the public function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastuda.labels import IGNORE, nearest_labels
from fastuda.ops import _checks, _dispatch, _library
from fastuda.reference._pixels import compute_dtype
from fastuda.reference.class_moments import Moments, dominant_labels
from fastuda.reference.class_moments import class_moments as _reference

_ARGUMENTS = "(Tensor features, Tensor labels, int num_classes, int ignore_index)"


def _fake(features: Tensor, labels: Tensor, num_classes: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(features)
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
_dispatch.serve("class_moments")
_dispatch.serve("class_moments_full")

_dominant_labels = _library.define(
    "dominant_labels(Tensor labels, int height, int width, int num_classes, float min_ratio, int ignore_index) "
    "-> Tensor",
    dominant_labels,
    lambda labels, height, width, *_: labels.new_empty((labels.shape[0], height, width), dtype=torch.int32),
)


def downsample_labels(
    labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    *,
    rule: Literal["nearest", "ratio"] = "nearest",
    min_ratio: float = 0.75,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Labels (N, H, W) at the smaller (height, width) of the features, for ``class_moments`` and ``contrastive_bound``.

    rule: "nearest" picks pixel floor(i H / height), see ``fastuda.labels.nearest_pixels``.
        It copies no label where H and W are multiples of the size: the result is a strided view.
        "ratio" is DAFormer's rule (Hoyer et al., CVPR 2022), also SePiCo's: a cell takes the class that most of its
        H/height x W/width pixels have, the lowest one of equals, if these are at least ``min_ratio`` of all the cell's
        pixels, else it is ignored.  Ignored pixels count as a class of their own: they stay in the denominator, and a
        cell where they lead is ignored.  H and W must be multiples of the size.
    Returns labels of the same dtype for "nearest"; int32 with -1 for ignored cells for "ratio" (memory: 4 (K + 1) + 48
    bytes a cell of the result at most, in chunks of 2^22 counters; no copy and no one-hot of the labels).
    Deterministic; no host synchronisation.  Raises ValueError for an unknown rule or sizes that do not fit.
    """
    if rule not in ("nearest", "ratio"):
        raise ValueError(f'rule must be "nearest" or "ratio", got {rule!r}')
    height, width = size
    if min(height, width) < 0:
        raise ValueError(f"size must be (height, width), neither negative, got {(height, width)}")
    if labels.dim() != 3 or labels.shape[1] < height or labels.shape[2] < width:
        raise ValueError(f"labels must be (N, H, W) of at least {(height, width)}, got shape {tuple(labels.shape)}")
    if rule == "nearest":
        return nearest_labels(labels, (height, width))
    if labels.dtype not in _checks.LABEL_DTYPES:
        raise ValueError(f"labels must be uint8, int32 or int64, got {labels.dtype}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if not 0 <= min_ratio <= 1:
        raise ValueError(f"min_ratio must be between 0 and 1, got {min_ratio}")
    if labels.shape[1] % max(1, height) or labels.shape[2] % max(1, width):
        raise ValueError(f"labels {tuple(labels.shape[1:])} must be a multiple of {(height, width)} for the ratio rule")
    return _dominant_labels(labels, height, width, num_classes, float(min_ratio), ignore_index)


def class_moments(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    covariance: Literal["diag", "full"] | None = "diag",
    ignore_index: int = IGNORE,
    downsample: Literal["nearest", "ratio"] | None = None,
    min_ratio: float = 0.75,
) -> Moments:
    """Count, mean and centred second moment (sum of squared deviations) of the features of each class.

    These are the sufficient statistics of SDCA (Li et al., arXiv 2105.05013): the population covariance of class k is
    ``m2[k] / count[k]``, and two sets of moments merge exactly (Chan et al. 1979).

    features: (N, A, H, W) or (P, A), float32, float16, bfloat16 or float64, any strides; channels_last and (P, A)
        are read without a copy by every backend, NCHW by the compiled ones.
    labels: (N, H, W) or (P,) at feature resolution, uint8, int32 or int64; ``ignore_index`` and labels outside
        0..num_classes-1 are ignored.
    downsample: labels (N, H', W') at full resolution are brought to that of the features (N, A, H, W) first, by
        "nearest" or, with ``min_ratio``, by "ratio"; see ``downsample_labels``.  Without it the sizes must be equal.
    covariance: "diag" for m2 of (K, A), "full" for (K, A, A), None for no m2.
    Returns ``Moments(count, mean, m2)``: count int64 (K,), mean and m2 float32 (float64 for float64 features). Empty
    classes hold zeros. No gradient flows: the outputs are statistics. Deterministic, the same for every number of
    threads; no host synchronisation. Memory beyond inputs and outputs on the compiled CPU path: 5 % of the size
    the features have in float32 (one 3 x K x A block at least); the reference's docstring states its own.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    if downsample not in ("nearest", "ratio", None):
        raise ValueError(f'downsample must be "nearest", "ratio" or None, got {downsample!r}')
    _checks.pixels(features, labels, larger=downsample is not None)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if covariance not in ("diag", "full", None):
        raise ValueError(f'covariance must be "diag", "full" or None, got {covariance!r}')
    if downsample is not None and features.dim() == 4:
        size = features.shape[2], features.shape[3]
        labels = downsample_labels(
            labels, size, num_classes, rule=downsample, min_ratio=min_ratio, ignore_index=ignore_index
        )
    raw = _full if covariance == "full" else _diag
    with torch.no_grad():
        count, mean, m2 = raw(features.detach(), labels, num_classes, ignore_index)
    return Moments(count, mean, None if covariance is None else m2)
