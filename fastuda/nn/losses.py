"""Segmentation losses over the operators, and the small label operations around them in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastuda import ops, ranks
from fastuda.labels import IGNORE, nearest_labels
from fastuda.ops import _losses

_LOG_FLOOR = math.log(1e-4)  # what symmetric cross entropy takes for the logarithm of a label's zeros


def cross_entropy(
    logits: Tensor, labels: Tensor, size: tuple[int, int] | None = None, *, ignore_index: int = IGNORE
) -> Tensor:
    """Mean cross entropy over the valid pixels; exactly 0 with zero gradient if there are none.

    logits: (N, K, h, w), any floating dtype; upsampled in float32 to ``size``, by default the labels' own.
    labels: (N, H, W) uint8, int32 or int64; resized to ``size`` by nearest neighbour where that differs;
        ``ignore_index`` and labels outside 0..K-1 are ignored.
    Returns a float32 (float64) scalar: ``fastuda.ops.upsample_cross_entropy``, which stores nothing of full resolution.
    No host synchronisation.  Raises ValueError for shapes that do not fit.
    """
    _check(logits, labels)
    labels = labels if size is None else resize_labels(labels, size)
    return ops.upsample_cross_entropy(logits, labels, ignore_index=ignore_index)


def symmetric_cross_entropy(
    logits: Tensor, labels: Tensor, *, forward: float = 0.1, reverse: float = 1.0, ignore_index: int = IGNORE
) -> Tensor:
    """Cross entropy and its reverse (Wang et al., ICCV 2019, Eq. 5-7), mean over the valid pixels.

        l = -forward log p_y - reverse sum_c p_c log max(1[c = y], 1e-4)
          = -forward log p_y + reverse log(1e4) (1 - p_y),   p = softmax of the upsampled logits

    The second line needs no softmax: p_y is exp of minus the cross entropy.  The usual code also raises each p_c to
    1e-7, which adds at most 1e-7 log(1e4) a class and no gradient, and is left out.

    logits, labels, result: as ``cross_entropy``; exactly 0 with zero gradient without a valid pixel.  Differentiable
    once.  Memory beyond inputs and outputs: about four numbers a pixel of the labels, whatever the number of classes;
    in backward what ``fastuda.ops.upsample_cross_entropy`` takes.  No host synchronisation.  Raises ValueError for
    shapes that do not fit.
    """
    _check(logits, labels)
    loss = ops.upsample_cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    valid = (labels != ignore_index) & (labels >= 0) & (labels < logits.shape[1])
    # The map is 0 where a pixel is ignored, and so is its reverse.
    return _losses.reduce(forward * loss + reverse * _LOG_FLOOR * torch.expm1(-loss), valid, "mean")


def lovasz_softmax(
    logits: Tensor, labels: Tensor, *, probabilities: bool = False, ignore_index: int = IGNORE
) -> Tensor:
    """Lovász-Softmax (Berman et al., CVPR 2018, Eq. 11): the Lovász extension of 1 - IoU, mean over present classes.

        m_i(c) = 1 - p_i(c) where y_i = c, else p_i(c);  loss = mean over c of  sum_i m_i(c) g_i(c)

    with g(c) the increments of class c's Jaccard loss in descending order of m(c).  All pixels of the batch together;
    classes that do not occur in ``labels`` do not count; exactly 0 with zero gradient if no pixel is valid.

    logits: (N, K, h, w), upsampled to the labels' size in float32 and put through a softmax; with ``probabilities``
        they are taken as (N, K, H, W) probabilities instead.
    labels: (N, H, W) uint8, int32 or int64; ``ignore_index`` and labels outside 0..K-1 are ignored.
    Inside ``fastuda.ops.global_batch`` "the batch" is that of all processes: each gathers logits and labels, a few MiB
    at the network's resolution, and computes the one loss, since ranks of errors are no sums.
    Returns a float32 (float64) scalar: ``fastuda.ops.lovasz_softmax``, exact.  No host synchronisation; deterministic.
    Raises ValueError for shapes that do not fit.
    """
    _check(logits, labels)
    if probabilities and logits.shape[-2:] != labels.shape[-2:]:
        raise ValueError(
            f"probabilities must have the labels' size {tuple(labels.shape[-2:])}, got {tuple(logits.shape[-2:])}"
        )
    logits, labels = ranks.gather(logits), ranks.gather(labels)
    return ops.lovasz_softmax(logits, labels, probabilities=probabilities, ignore_index=ignore_index)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (N, H, W) of any dtype at (height, width): ``fastuda.labels.nearest_labels``.

    Raises ValueError for labels of another number of dimensions.
    """
    if labels.dim() != 3:
        raise ValueError(f"labels must be (N, H, W), got shape {tuple(labels.shape)}")
    return nearest_labels(labels, size)


def _check(logits: Tensor, labels: Tensor) -> None:
    if labels.dim() != 3 or logits.dim() != 4 or labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f"logits must be (N, K, h, w) and labels (N, H, W), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
