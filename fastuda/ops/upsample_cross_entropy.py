"""Cross entropy of bilinearly upsampled logits: the raw operator, its autograd and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE, nearest_labels
from fastuda.ops import _checks, _dispatch, _library, _losses
from fastuda.ops._autograd import differentiable_once
from fastuda.reference import upsample_cross_entropy as _reference
from fastuda.reference._pixels import compute_dtype


def _fake(logits, target, weight, pixel_weight, align, ignore, smoothing, with_map, with_slope):
    dtype = compute_dtype(logits)
    losses = target.new_empty(target.shape if with_map else (0,), dtype=dtype)
    return logits.new_empty(2, dtype=dtype), losses, logits.new_empty(logits.shape if with_slope else (0,), dtype=dtype)


# One operator for both directions: the gradient of low-resolution logits is small enough to be made with the loss.
_forward = _library.define(
    "upsample_cross_entropy(Tensor logits, Tensor target, Tensor? weight, Tensor? pixel_weight, bool align_corners, "
    "int ignore_index, float label_smoothing, bool with_map, bool with_slope) "
    "-> (Tensor total, Tensor losses, Tensor slope)",
    _reference.forward,
    _fake,
)
_dispatch.serve("upsample_cross_entropy")


class _Total(torch.autograd.Function):
    """Mean or sum of the losses and the mean's divisor; the gradient is made with them and scaled later."""

    @staticmethod
    def forward(ctx, logits, target, weight, pixel_weight, options, with_slope, reduction):
        total, _, slope = _forward(logits, target, weight, pixel_weight, *options, False, with_slope)
        mean = reduction == "mean"
        divisor = total[1].where(total[1] > 0, 1) if mean else total[1].clone()
        ctx.save_for_backward(slope, divisor if mean else None)
        ctx.dtype = logits.dtype
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(divisor)
        return total[0] / divisor if mean else total[0].clone(), divisor

    @staticmethod
    @differentiable_once("upsample_cross_entropy")
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 7
        slope, divisor = ctx.saved_tensors
        grad = grad if divisor is None else grad / divisor
        return (slope * grad).to(ctx.dtype), None, None, None, None, None, None


class _Map(torch.autograd.Function):
    """The losses of the pixels; the incoming gradient becomes a weight of each pixel."""

    @staticmethod
    def forward(ctx, logits, target, weight, pixel_weight, options):
        ctx.save_for_backward(logits, target, weight, pixel_weight)
        ctx.options = options
        return _forward(logits, target, weight, pixel_weight, *options, True, False)[1]

    @staticmethod
    @differentiable_once("upsample_cross_entropy")
    def backward(ctx, grad):
        logits, target, weight, pixel_weight = ctx.saved_tensors
        scale = grad if pixel_weight is None else grad * pixel_weight
        slope = _forward(logits, target, weight, scale, *ctx.options, False, True)[2]
        return slope.to(logits.dtype), None, None, None, None


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    label_smoothing: float = 0.0,
    reduction: _losses.Reduction = "mean",
) -> Tensor:
    """Cross entropy of logits that are bilinearly upsampled to the labels' size on the way, never as a whole.

        l = -v ((1 - s) w_y log p_y + s / K sum_c w_c log p_c),   p = softmax of the upsampled logits

    logits: (N, K, h, w), float32, float16, bfloat16 or float64, any strides; they alone get a gradient.  Those that a
        pixel lies between must be finite if it counts, even where their weight is 0.
    target: (N, H, W), uint8, int32 or int64; ``ignore_index`` and labels outside 0..K-1 are ignored.
    size: (height, width) of the loss, by default the target's; a target of another size is resized to it by
        ``fastuda.labels.nearest_labels``.
    align_corners: of the bilinear upsampling, as in ``torch.nn.functional.interpolate``.
    weight: w, (K,); pixel_weight: v, (N, height, width); both float32 or float64.
    label_smoothing: s in 0..1.
    reduction: "mean" divides the sum by the weights w_y of the valid pixels (torch's rule; v does not enter it) and is
        exactly 0 without any; "sum"; or "none" for (N, height, width), 0 on ignored pixels.
    Returns float32 (float64 for float64 logits), computed in that precision also under autocast.  The gradient has
    the logits' dtype, with the incoming gradient applied before it is rounded.  Differentiable once.  Deterministic; no
    host synchronisation.  Memory beyond inputs and outputs: the gradient once in the result's dtype, kept for backward
    ("none" keeps nothing).  The C++ kernel on a CPU also takes partial gradients, one and a half times the gradient at
    8-fold upsampling and none at the logits' own size; the CUDA C++ kernel two to three times the gradient; the
    reference several buffers of 2^21 elements or of one row.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _checks.dense(logits, target, "target")
    _losses.check_reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    target = target if size is None else nearest_labels(target, _checks.size(size))
    _checks.optional("weight", weight, logits.shape[1:2], logits)
    _checks.optional("pixel_weight", pixel_weight, target.shape, logits)
    weight, pixel_weight = (None if w is None else w.detach() for w in (weight, pixel_weight))
    options = align_corners, ignore_index, float(label_smoothing)
    if reduction == "none":
        return _Map.apply(logits, target, weight, pixel_weight, options)
    with_slope = torch.is_grad_enabled() and logits.requires_grad
    local_reduction = _losses.of_process(reduction)
    total, divisor = _Total.apply(logits, target, weight, pixel_weight, options, with_slope, local_reduction)
    return _losses.over_processes(total, divisor, reduction)
