"""What the losses over pixels or rows share: their reduction, and rows seen as an image."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fastuda import ranks
from fastuda.ops import pixel_mean

Reduction = Literal["mean", "sum", "none"]


def check_reduction(reduction: str) -> None:
    if reduction not in get_args(Reduction):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')


def reduce(loss: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    """``loss``, 0 where not ``valid``: its mean over the valid ones (exactly 0 without any), its sum, or itself."""
    if reduction == "none":
        return loss
    return loss.sum() / ranks.divisor(valid.sum()).to(loss.dtype) if reduction == "mean" else loss.sum()


def reduce_pixels(
    loss: Tensor, other: Tensor | None, labels: Tensor, num_classes: int, ignore_index: int, reduction: Reduction
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What an autograd function returns of its pixels' losses, and the number of those that count; no gradient.

    The function should not materialize its gradients: zeros for that number would be a kernel on a GPU.
    """
    if reduction == "none":
        return loss, other, None
    mean = reduction == "mean"
    value, other_value, divisor = pixel_mean.pixel_mean(loss, other, labels, num_classes, ignore_index, mean)
    return value, None if other is None else other_value, divisor


def reduce_masked(
    loss: Tensor, mask: Tensor | None, reduction: Reduction
) -> tuple[Tensor, Tensor | None, Tensor | int | None]:
    """``reduce_pixels`` of the pixels where a bool mask is set, or of all; and what ``spread`` divides by."""
    if mask is not None:
        value, _, count = reduce_pixels(loss, None, mask.view(torch.uint8), 2, 0, reduction)
        return value, count, count if reduction == "mean" else None
    if reduction == "none" or loss.numel() == 0:
        return loss if reduction == "none" else loss.sum(), None, None
    return (loss.mean(), None, loss.numel()) if reduction == "mean" else (loss.sum(), None, None)


def spread(grad: Tensor, divisor: Tensor | int | None, shape: torch.Size) -> Tensor:
    """The gradient of each pixel: of strides 0, unless ``grad`` is one of pixels already.

    divisor: of a mean.  Ignored pixels have the same one; the operators' kernels give them no gradient.
    """
    return (grad if divisor is None else grad / divisor).expand(shape)


def of_process(reduction: Reduction) -> Reduction:
    """The reduction of one process's pixels: a sum where ``over_processes`` divides by the pixels of all processes."""
    return "sum" if reduction == "mean" and ranks.world() > 1 else reduction


def over_processes(total: Tensor, count: Tensor, reduction: Reduction) -> Tensor:
    """The reduction over all processes of a result of ``of_process``; count: this process's pixels that count."""
    if reduction == "mean" and ranks.world() > 1:
        return total / ranks.divisor(count).to(total.dtype)
    return total


def as_image(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(P, A) with (P,) as views (1, A, P, 1) with (1, P, 1); images as they are."""
    return (features.T[None, :, :, None], labels[None, :, None]) if features.dim() == 2 else (features, labels)
