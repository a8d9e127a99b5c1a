"""Labels and confidences of upsampled scores, with a threshold of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import compute_dtype
from fastuda.reference._upsample import upsampled

LEAST_THRESHOLD = 1e-30  # of ``balanced``: a class with a smaller one gets no label


def pseudo_labels(
    scores: Tensor,
    threshold: Tensor,
    height: int,
    width: int,
    probabilities: bool,
    balanced: bool,
    align_corners: bool,
    with_confidence: bool,
) -> tuple[Tensor, Tensor]:
    """Labels (N, height, width) uint8 and, if asked for, the probabilities p of their classes, else an empty tensor.

        label = argmax_c p_c, or argmax_c p_c / k_c where ``balanced``; 255 unless p_label >= k_label

    scores (N, K, h, w) are logits, of which p is the softmax, or p themselves; threshold k (K,).  NaN is never a label.
    The lowest class of equals; of logits these are classes of equal logits.
    """
    dtype = compute_dtype(scores)
    least = threshold.to(dtype)
    if balanced:
        least = least.where(least > LEAST_THRESHOLD, torch.inf)
    label = scores.new_empty((scores.shape[0], height, width), dtype=torch.uint8)
    confidence = scores.new_empty(label.shape if with_confidence else (0,), dtype=dtype)
    with torch.autocast(scores.device.type, enabled=False):
        for rows, up in upsampled(scores, (height, width), align_corners):
            p, place = best_class(up, probabilities, 1 / least if balanced else None)
            label[:, rows] = place.where(p >= least[place], IGNORE).to(torch.uint8)
            if with_confidence:
                confidence[:, rows] = p
    return label, confidence


def best_class(up: Tensor, probabilities: bool, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Probability and class, int64, of the largest score, or of the largest probability times factor (K,)."""
    p = up if probabilities else up.softmax(1)
    place = (up if factor is None else p * factor.view(-1, 1, 1)).argmax(1, keepdim=True)
    return p.gather(1, place).squeeze(1), place.squeeze(1)
