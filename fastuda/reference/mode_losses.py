"""Distances to the modes of each class: triplet hinge and posterior cross entropy (DRSL Eq. 4-5).

    D_c = min_m |e - V_cm|^2          triplet = max(0, D_y - min_{c != y} D_c + margin)
    Q_c ~ exp(-D_c / (2 sigma^2)), normalised over the classes          cross entropy = -log Q_y

The posterior of a class is that of its best mode, so one distance a class is all that is needed: no statement here
builds pixels x classes x modes x channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.labels import IGNORE
from fastuda.reference._pixels import block, chunks, compute_dtype, pixels, rows, usable


def mode_losses(
    embeddings: Tensor,
    labels: Tensor,
    modes: Tensor,
    sigma2: float = 0.5,
    margin: float = 1.0,
    square: bool = False,
    ignore_index: int = IGNORE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition, differentiable by autograd, for embeddings (P, d), labels (P,) and modes (K, M, d).

    Returns triplet and cross entropy of each pixel, 0 where ignored, its nearest mode of its own class and the nearest
    other class, both -1 where ignored (the other class also for K = 1).  Ties go to the lowest index.
    ``square``: the exponent takes D^2, as the paper prints it.
    """
    dtype = compute_dtype(embeddings)
    e, v = embeddings.to(dtype), modes.to(dtype)
    distance, nearest = _class_distances(e, v)
    valid, index = usable(labels, len(v), ignore_index)
    own_distance, rival, best = _own_and_rival(distance, index)
    triplet = (own_distance - best + margin).clamp(min=0)
    exponent = distance.square() if square else distance
    cross_entropy = F.cross_entropy(-exponent / (2 * sigma2), index, reduction="none")
    mode = nearest.gather(1, index.unsqueeze(1)).squeeze(1)
    return (
        triplet.where(valid, 0.0),
        cross_entropy.where(valid, 0.0),
        mode.where(valid, -1),
        rival.where(valid, -1),
    )


def forward(
    features: Tensor, labels: Tensor, modes: Tensor, sigma2: float, margin: float, square: bool, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses of the pixels of features (N, d, H, W), labels (N, H, W), modes (K, M, d), and what ``backward`` reads.

    Returns triplet and cross_entropy (N, H, W); own_mode and rival (N, H, W) int64, the nearest mode of the own class
    and the nearest other class, or -1; weight (N, H, W, K), the slope of the cross entropy by each D_c; nearest (N, H,
    W, K) uint8, the nearest mode of each class.  Ignored pixels hold 0, and -1 in own_mode and rival.  float32, or
    float64 for float64 features.
    """
    dtype, (classes, _, _) = compute_dtype(features), modes.shape
    triplet, cross_entropy = (features.new_zeros(labels.shape, dtype=dtype) for _ in range(2))
    own_mode, rival = (labels.new_full(labels.shape, -1, dtype=torch.int64) for _ in range(2))
    weight = features.new_zeros((*labels.shape, classes), dtype=dtype)
    nearest = labels.new_zeros((*labels.shape, classes), dtype=torch.uint8)
    with torch.autocast(features.device.type, enabled=False):
        for part in chunks(features):
            distance, mode = _class_distances(rows(features, part).to(dtype), modes.to(dtype))
            valid, index = usable(pixels(labels, part), classes, ignore_index)
            own_distance, other, best = _own_and_rival(distance, index)
            logits = (distance.square() if square else distance) / (-2 * sigma2)
            slope = (F.one_hot(index, classes) - logits.softmax(1)) / (2 * sigma2)
            slope = slope * (2 * distance) if square else slope
            results = {
                triplet: (own_distance - best + margin).clamp(min=0).where(valid, 0.0),
                cross_entropy: F.cross_entropy(logits, index, reduction="none").where(valid, 0.0),
                own_mode: mode.gather(1, index.unsqueeze(1)).squeeze(1).where(valid, -1),
                rival: other.where(valid, -1),
                weight: slope.masked_fill(~valid.unsqueeze(1), 0.0),
                nearest: mode.masked_fill(~valid.unsqueeze(1), 0),
            }
            for result, value in results.items():
                target = block(result, part)
                target.copy_(value.view(target.shape))
    return triplet, cross_entropy, own_mode, rival, weight, nearest


def backward(
    grad_triplet: Tensor,
    grad_cross_entropy: Tensor,
    features: Tensor,
    labels: Tensor,
    modes: Tensor,
    triplet: Tensor,
    rival: Tensor,
    weight: Tensor,
    nearest: Tensor,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of features, in their dtype and strides, and of modes (K, M, d), float32 (features float64: float64).

    With g_c the slope by D_c: d e = sum_c 2 g_c (e - V_c*), and d V_cm = sum of 2 g_c (V_cm - e) over the pixels whose
    nearest mode of c is m.  The incoming gradients (N, H, W) multiply before the rounding.
    """
    dtype, (classes, per_class, channels) = compute_dtype(features), modes.shape
    slope = torch.empty_like(features)
    total = modes.new_zeros(classes * per_class, channels, dtype=dtype)
    first = torch.arange(classes, device=modes.device) * per_class
    with torch.autocast(features.device.type, enabled=False):
        v = modes.to(dtype).flatten(0, 1)
        for part in chunks(features):
            e = rows(features, part).to(dtype)
            valid, index = usable(pixels(labels, part), classes, ignore_index)
            hinge = pixels(grad_triplet, part).to(dtype).where(valid & (pixels(triplet, part) > 0), 0.0).unsqueeze(1)
            other = pixels(rival, part)
            sign = F.one_hot(index, classes) - F.one_hot(other.clamp(min=0), classes) * (other >= 0).unsqueeze(1)
            scale = pixels(grad_cross_entropy, part).to(dtype).where(valid, 0.0).unsqueeze(1)
            g = 2 * (block(weight, part).reshape(len(e), classes) * scale + sign * hinge)
            chosen = block(nearest, part).reshape(len(e), classes).long() + first
            spread = e.new_zeros(len(e), classes * per_class).scatter_(1, chosen, g)
            e = e.masked_fill(~valid.unsqueeze(1), 0.0)  # nothing of an ignored pixel, be it NaN, reaches a sum
            target = block(slope, part, channels=True)
            target.copy_((e * g.sum(1, keepdim=True) - spread @ v).view(target.shape))
            total += v * spread.sum(0).unsqueeze(1) - spread.T @ e
    return slope, total.view(modes.shape)


def _class_distances(e: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """D_c (P, K) of the nearest mode of each class, and which one it is; by differences, so that nothing cancels."""
    distance = torch.cdist(e, v.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist").square()
    found = distance.view(len(e), *v.shape[:2]).min(2)
    return found.values, found.indices


def _own_and_rival(distance: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D of the own class, the nearest other class (-1 if there is none) and its D (infinite if there is none)."""
    own_distance = distance.gather(1, index.unsqueeze(1)).squeeze(1)
    others = distance.scatter(1, index.unsqueeze(1), torch.inf)
    best, rival = others.min(1)
    return own_distance, rival.where(best < torch.inf, -1), best
