"""What the losses over pixels or rows share: their reduction, and rows seen as an image."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from fastuda.ops import _ranks

Reduction = Literal["mean", "sum", "none"]


def check_reduction(reduction: str) -> None:
    if reduction not in get_args(Reduction):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')


def reduce(loss: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    """``loss``, 0 where not ``valid``: its mean over the valid ones (exactly 0 without any), its sum, or itself."""
    if reduction == "none":
        return loss
    return loss.sum() / _ranks.divisor(valid.sum()).to(loss.dtype) if reduction == "mean" else loss.sum()


def as_image(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(P, A) with (P,) as views (1, A, P, 1) with (1, P, 1); images as they are."""
    return (features.T[None, :, :, None], labels[None, :, None]) if features.dim() == 2 else (features, labels)
