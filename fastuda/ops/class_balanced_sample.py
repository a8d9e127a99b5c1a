"""Pixels drawn by class without replacement: the raw operators and the public functions."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.ops import _checks, _dispatch, _library
from fastuda.reference import class_balanced_sample as _reference
from fastuda.reference._random import draw_seed

_balanced = _library.define(
    "class_balanced_sample(Tensor labels, Tensor seed, int num_classes, int count, int ignore_index) -> Tensor",
    _reference.class_balanced_sample,
    lambda labels, seed, classes, count, ignore: labels.new_empty((labels.shape[0], count), dtype=torch.int64),
)
_per_class = _library.define(
    "sample_per_class(Tensor labels, Tensor seed, int num_classes, int per_class, int ignore_index) -> Tensor",
    _reference.sample_per_class,
    lambda labels, seed, classes, most, ignore: labels.new_empty((labels.shape[0], classes, most), dtype=torch.int64),
)
_dispatch.serve("class_balanced_sample")
_dispatch.serve("sample_per_class")


def class_balanced_sample(
    labels: Tensor,
    count: int,
    num_classes: int,
    *,
    ignore_index: int = IGNORE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``count`` different pixels of each image, by its own class distribution (CPSL Eq. 8-9).

    Of the n valid pixels n_c have class c: floor(count n_c / n) of them are drawn at random, and random pixels of those
    left over top up to ``count``, or to n if that is less.
    labels: (B, H, W) or (B, P), uint8, int32 or int64; ``ignore_index`` and labels outside 0..num_classes-1 are never
        drawn.
    generator: of the labels' device or the CPU; the same state gives the same pixels on every device and backend.
    Returns (B, count) int64: pixel numbers h W + w in rising order, then -1 where an image has fewer valid pixels.
    Deterministic; with a generator of the labels' device no host synchronisation.  Memory of the reference: about 15
    int64 numbers a pixel; of the compiled CPU kernel: 16 bytes a pixel of one image a thread; of CUDA C++: 1 KiB an
    image and class; of Triton: 8 KiB an image and class, and 8 bytes for each block of 1,024 pixels.
    Raises ValueError for a wrong dtype, shape or option.
    """
    seed = _check(labels, count, "count", num_classes, generator)
    return _balanced(labels.flatten(1), seed, num_classes, count, ignore_index)


def sample_per_class(
    labels: Tensor,
    per_class: int,
    num_classes: int,
    *,
    ignore_index: int = IGNORE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """At most ``per_class`` different random pixels of each class and image (DRSL's T_e).

    Arguments, errors and reproducibility as for ``class_balanced_sample``.
    Returns (B, num_classes, per_class) int64: pixel numbers h W + w in rising order, then -1.
    """
    seed = _check(labels, per_class, "per_class", num_classes, generator)
    return _per_class(labels.flatten(1), seed, num_classes, per_class, ignore_index)


def _check(labels: Tensor, wanted: int, name: str, num_classes: int, generator: torch.Generator | None) -> Tensor:
    if labels.dtype not in _checks.LABEL_DTYPES:
        raise ValueError(f"labels must be uint8, int32 or int64, got {labels.dtype}")
    if labels.dim() not in (2, 3):
        raise ValueError(f"labels must be (B, H, W) or (B, P), got shape {tuple(labels.shape)}")
    if labels.numel() >= 1 << 31:
        raise ValueError(f"labels must have fewer than 2^31 pixels, got {labels.numel()}")
    if wanted < 0 or num_classes < 1:
        raise ValueError(f"{name} must be at least 0 and num_classes at least 1, got {wanted} and {num_classes}")
    return draw_seed(labels.device, generator)
