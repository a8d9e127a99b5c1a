"""Checks that every operator on pixels shares; each raises ValueError naming the argument."""

from __future__ import annotations

import torch
from torch import Tensor

FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int32, torch.int64)


def pixels(features: Tensor, labels: Tensor, name: str = "features", *, larger: bool = False) -> None:
    """features (N, A, H, W) with labels (N, H, W), or features (P, A) with labels (P,), on one device.

    larger: labels (N, H', W') of at least the size of four-dimensional features are allowed as well.
    """
    if features.dtype not in FEATURE_DTYPES:
        raise ValueError(f"{name} must be float32, float16, bfloat16 or float64, got {features.dtype}")
    if labels.dtype not in LABEL_DTYPES:
        raise ValueError(f"labels must be uint8, int32 or int64, got {labels.dtype}")
    if features.dim() not in (2, 4):
        raise ValueError(f"{name} must be (N, A, H, W) or (P, A), got shape {tuple(features.shape)}")
    shape, expected = tuple(labels.shape), tuple(features.shape[:1] + features.shape[2:])
    fits = shape == expected
    if larger and features.dim() == 4 and labels.dim() == 3:
        fits = shape[0] == expected[0] and shape[1] >= expected[1] and shape[2] >= expected[2]
    if not fits:
        expected = f"{expected} or larger" if larger else expected
        raise ValueError(f"labels must have shape {expected} to match {name} {tuple(features.shape)}, got {shape}")
    if labels.device != features.device:
        raise ValueError(f"labels are on {labels.device} but {name} are on {features.device}")
