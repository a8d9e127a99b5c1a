"""Losses on the modes of each class: the raw operators, their autograd and the public function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.ops import _checks, _dispatch, _library, _losses
from fastuda.ops._autograd import differentiable_once
from fastuda.reference import mode_losses as _reference
from fastuda.reference._pixels import compute_dtype

MOST_MODES = 256  # of a class: the nearest one is saved in a byte


class ModeLosses(NamedTuple):
    """triplet and cross_entropy, reduced; own_mode and rival_class, int64 in the shape of labels, -1 where ignored."""

    triplet: Tensor
    cross_entropy: Tensor
    own_mode: Tensor
    rival_class: Tensor


def _fake_forward(features, labels, modes, *_) -> tuple[Tensor, ...]:
    dtype, shape = compute_dtype(features), (*labels.shape, modes.shape[0])
    losses = (features.new_empty(labels.shape, dtype=dtype) for _ in range(2))
    chosen = (labels.new_empty(labels.shape, dtype=torch.int64) for _ in range(2))
    return *losses, *chosen, features.new_empty(shape, dtype=dtype), labels.new_empty(shape, dtype=torch.uint8)


def _fake_backward(grad_triplet, grad_cross_entropy, features, labels, modes, *_) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), modes.new_empty(modes.shape, dtype=compute_dtype(features))


_forward = _library.define(
    "mode_losses_forward(Tensor features, Tensor labels, Tensor modes, float sigma2, float margin, bool square, "
    "int ignore_index) -> (Tensor triplet, Tensor cross_entropy, Tensor own_mode, Tensor rival, Tensor weight, "
    "Tensor nearest)",
    _reference.forward,
    _fake_forward,
)
_backward = _library.define(
    "mode_losses_backward(Tensor grad_triplet, Tensor grad_cross_entropy, Tensor features, Tensor labels, "
    "Tensor modes, Tensor triplet, Tensor rival, Tensor weight, Tensor nearest, int ignore_index) -> (Tensor, Tensor)",
    _reference.backward,
    _fake_backward,
)
_dispatch.serve("mode_losses_forward")
_dispatch.serve("mode_losses_backward")


class _ModeLosses(torch.autograd.Function):
    """Both reduced losses, own mode and rival, and how many pixels count, unless the reduction is "none"."""

    @staticmethod
    def forward(ctx, features, labels, modes, sigma2, margin, square, ignore_index, reduction):
        triplet, cross_entropy, own_mode, rival, weight, nearest = _forward(
            features, labels, modes, sigma2, margin, square, ignore_index
        )
        *values, count = _losses.reduce_pixels(triplet, cross_entropy, labels, modes.shape[0], ignore_index, reduction)
        divisor = count if reduction == "mean" else None
        ctx.save_for_backward(features, labels, modes, divisor, triplet, rival, weight, nearest)
        ctx.ignore_index = ignore_index
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in (own_mode, rival, count) if t is not None))
        return *values, own_mode, rival, count

    @staticmethod
    @differentiable_once("mode_losses")
    def backward(ctx, grad_triplet, grad_cross_entropy, *_):
        features, labels, modes, divisor, *saved = ctx.saved_tensors
        grads = (
            saved[0].new_zeros(()).expand(labels.shape) if grad is None else _losses.spread(grad, divisor, labels.shape)
            for grad in (grad_triplet, grad_cross_entropy)
        )
        slope, modes_slope = _backward(*grads, features, labels, modes, *saved, ctx.ignore_index)
        return slope, None, modes_slope.to(modes.dtype), None, None, None, None, None


def mode_losses(
    embeddings: Tensor,
    labels: Tensor,
    modes: Tensor,
    *,
    sigma2: float = 0.5,
    margin: float = 1.0,
    square: bool = False,
    ignore_index: int = IGNORE,
    reduction: _losses.Reduction = "mean",
) -> ModeLosses:
    """Triplet hinge and posterior cross entropy of embeddings and the modes of each class (DRSL Eq. 4-5).

        D_c = min_m |e - V_cm|^2,  triplet = max(0, D_y - min_{c != y} D_c + margin),
        cross entropy = -log softmax_c(-D_c / (2 sigma2))_y

    embeddings: (N, d, H, W) or (P, d), float32, float16, bfloat16 or float64; any strides, never copied as a whole.
    labels: (N, H, W) or (P,) at the embeddings' resolution, uint8, int32 or int64; ``ignore_index`` and labels outside
        0..K-1 are ignored.
    modes: (K, M, d), M <= 256, float32 or float64; learned: they get a gradient as the embeddings do.
    sigma2: the modes' variance > 0; margin: alpha of the hinge; square: the exponent takes D_c^2, as the paper prints.
    reduction: "mean" over the valid pixels (exactly 0 without any), "sum", or "none" for the shape of labels.
    Returns ``ModeLosses``: both losses float32 (float64 for float64 embeddings), the nearest mode of the own class and
    the nearest other class (-1 for K = 1).  Ties go to the lowest index.  Gradients have the dtype of their input, the
    incoming gradient applied before it is rounded.  Differentiable once.  Deterministic; no host synchronisation.
    Memory beyond inputs and outputs: 5 K + 12 bytes a pixel, kept for backward, and no pixels x classes x modes.  The
    C++ kernels on a CPU also take partial sums for the modes' gradient (the size of the modes up to 64 times, at most a
    sixteenth of the embeddings in float32 from 1,024 pixels and 16 K M on), and for each thread tiles of 32 pixels x
    (d + modes + 2 K) and 64 pixels x d.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _checks.pixels(embeddings, labels, "embeddings")
    _check(embeddings, modes, sigma2)
    _losses.check_reduction(reduction)
    shape = labels.shape
    embeddings, labels = _losses.as_image(embeddings, labels)
    options = float(sigma2), float(margin), square, ignore_index, _losses.of_process(reduction)
    triplet, cross_entropy, own_mode, rival, count = _ModeLosses.apply(embeddings, labels, modes, *options)
    if reduction == "none":
        triplet, cross_entropy = triplet.view(shape), cross_entropy.view(shape)
    else:
        triplet = _losses.over_processes(triplet, count, reduction)
        cross_entropy = _losses.over_processes(cross_entropy, count, reduction)
    return ModeLosses(triplet, cross_entropy, own_mode.view(shape), rival.view(shape))


def _check(embeddings: Tensor, modes: Tensor, sigma2: float) -> None:
    channels = embeddings.shape[1]
    if modes.dim() != 3 or modes.shape[2] != channels or min(modes.shape[:2]) < 1 or modes.shape[1] > MOST_MODES:
        expected = f"(K, M, {channels}) with K >= 1 and 1 <= M <= {MOST_MODES}"
        raise ValueError(f"modes must be {expected}, got shape {tuple(modes.shape)}")
    if modes.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"modes must be float32 or float64, got {modes.dtype}")
    if modes.device != embeddings.device:
        raise ValueError(f"modes are on {modes.device} but embeddings are on {embeddings.device}")
    if not sigma2 > 0:
        raise ValueError(f"sigma2 must be positive, got {sigma2}")
