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
        wanted = f"{expected} or larger" if larger else expected
        raise ValueError(f"labels must have shape {wanted} to match {name} {tuple(features.shape)}, got {shape}")
    if labels.device != features.device:
        raise ValueError(f"labels are on {labels.device} but {name} are on {features.device}")


def dense(logits: Tensor, labels: Tensor, name: str = "labels") -> None:
    """logits (N, K, h, w) of at least one class and pixel with labels (N, H, W) of any size, on one device."""
    scores(logits)
    if labels.dtype not in LABEL_DTYPES:
        raise ValueError(f"{name} must be uint8, int32 or int64, got {labels.dtype}")
    if labels.dim() != 3 or labels.shape[0] != logits.shape[0]:
        raise ValueError(f"{name} must be ({logits.shape[0]}, H, W), got shape {tuple(labels.shape)}")
    if labels.device != logits.device:
        raise ValueError(f"{name} are on {labels.device} but logits are on {logits.device}")


def scores(logits: Tensor, name: str = "logits") -> None:
    """(N, K, h, w) of a floating dtype with at least one class and pixel."""
    if logits.dtype not in FEATURE_DTYPES:
        raise ValueError(f"{name} must be float32, float16, bfloat16 or float64, got {logits.dtype}")
    if logits.dim() != 4 or min(logits.shape[1:]) < 1:
        raise ValueError(f"{name} must be (N, K, h, w) with K, h, w >= 1, got shape {tuple(logits.shape)}")


def size(value: tuple[int, int]) -> tuple[int, int]:
    """(height, width), both at least 1, of fewer than 2^31 pixels."""
    if len(value) != 2 or min(value) < 1:
        raise ValueError(f"size must be (height, width), both at least 1, got {tuple(value)}")
    if value[0] * value[1] >= 1 << 31:
        raise ValueError(f"size must be of fewer than 2^31 pixels, got {tuple(value)}")
    return int(value[0]), int(value[1])


def optional(name: str, value: Tensor | None, shape: tuple[int, ...], like: Tensor) -> None:
    """None, or float32 or float64 of ``shape`` on the device of ``like``."""
    if value is None:
        return
    if value.dtype not in (torch.float32, torch.float64) or value.shape != shape:
        found = f"{value.dtype} of shape {tuple(value.shape)}"
        raise ValueError(f"{name} must be float32 or float64 of shape {tuple(shape)}, got {found}")
    if value.device != like.device:
        raise ValueError(f"{name} is on {value.device} but should be on {like.device}")
