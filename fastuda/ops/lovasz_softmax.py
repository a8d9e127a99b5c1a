"""Lovász-Softmax of bilinearly upsampled scores: the raw operator, its autograd and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE, nearest_labels
from fastuda.ops import _checks, _dispatch, _library
from fastuda.ops._autograd import differentiable_once
from fastuda.reference import lovasz_softmax as _reference
from fastuda.reference._pixels import compute_dtype

MOST_BINS = 65536


def _fake(scores, target, bins, probabilities, align_corners, ignore_index, with_slope):
    dtype = compute_dtype(scores)
    return scores.new_empty((), dtype=dtype), scores.new_empty(scores.shape if with_slope else (0,), dtype=dtype)


# One operator for both directions: the order of the errors is found once.
_forward = _library.define(
    "lovasz_softmax(Tensor logits, Tensor target, int bins, bool probabilities, bool align_corners, int ignore_index, "
    "bool with_slope) -> (Tensor loss, Tensor slope)",
    _reference.forward,
    _fake,
)
_dispatch.serve("lovasz_softmax")


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, target, options, with_slope):
        loss, slope = _forward(scores, target, *options, with_slope)
        ctx.save_for_backward(slope)
        ctx.dtype = scores.dtype
        return loss

    @staticmethod
    @differentiable_once("lovasz_softmax")
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return (slope * grad).to(ctx.dtype), None, None, None


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    bins: int = 0,
    probabilities: bool = False,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Lovász-Softmax: the Lovász extension of 1 - IoU, mean over present classes (Berman et al., CVPR 2018, Eq. 11).

        m_i(c) = 1 - p_i(c) where y_i = c, else p_i(c);  loss = mean over c of  sum_i m_i(c) g_i(c)

    with p the softmax of the bilinearly upsampled logits and g(c) the increments of class c's Jaccard loss in
    descending order of m(c), ties in the order of the pixels.  All pixels of the batch together; classes that do not
    occur in ``target`` do not count; exactly 0 with zero gradient if no pixel is valid.

    logits: (N, K, h, w), float32, float16, bfloat16 or float64, any strides; upsampled and put through a softmax in
        float32 (float64 stays); with ``probabilities`` they are upsampled and taken as p itself.  Those that a pixel
        lies between must be finite if it counts, even where their weight is 0.
    target: (N, H, W), uint8, int32 or int64; ``ignore_index`` and labels outside 0..K-1 are ignored.
    size: (height, width) of the loss, by default the target's; a target of another size is resized to it by
        ``fastuda.labels.nearest_labels``.
    align_corners: of the bilinear upsampling, as in ``torch.nn.functional.interpolate``.
    bins: 0 sorts the errors; n in 1..65536 counts them in n equal bins of [0, 1], whose pixels share the mean of their
        increments: |loss - exact| <= 1 / n, with gradients just as near to a subgradient of the exact loss.
    Returns a float32 (float64) scalar.  Differentiable once (g is constant, as everywhere it has a derivative); the
    gradient has the logits' dtype.  Deterministic; no host synchronisation.
    Memory beyond inputs and outputs: the gradient once in the result's dtype, kept for backward.  The C++ kernels on a
    CPU also take partial gradients (one and a half times that at 8-fold upsampling, none at the same size) and, with
    bins, 20 bytes a class and bin and 8 more of each a thread; exact, 12 bytes a pixel, 4 a pixel and class of at most
    eight at once, and 16 a pixel and thread (float64: twice all that).  The CUDA C++ kernels take partial gradients of
    two to three times the gradient and, with bins, 12 bytes a class and bin; exact, 12 bytes a pixel and 16.5 a pixel
    and class of those whose errors are sorted at once (float64: 24 and 24.5): classes of 2^24 errors, at least one
    class.  Triton serves bins only.  The reference holds
    K x N x H x W about six times.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _checks.dense(logits, target, "target")
    if not 0 <= bins <= MOST_BINS:
        raise ValueError(f"bins must be between 0 (exact) and {MOST_BINS}, got {bins}")
    target = target if size is None else nearest_labels(target, _checks.size(size))
    options = int(bins), probabilities, align_corners, ignore_index
    return _Loss.apply(logits, target, options, torch.is_grad_enabled() and logits.requires_grad)
