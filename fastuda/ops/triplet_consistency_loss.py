"""Triplet loss on gathered rows: the raw operators, their autograd and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library, _losses
from fastuda.ops._autograd import differentiable_once
from fastuda.reference import triplet_consistency_loss as _reference
from fastuda.reference._pixels import compute_dtype

_forward = _library.define(
    "triplet_consistency_forward(Tensor target, Tensor source, Tensor positive, Tensor negative, Tensor valid, "
    "float margin) -> Tensor",
    _reference.forward,
    lambda target, *_: target.new_empty(target.shape[:1], dtype=compute_dtype(target)),
)
_backward = _library.define(
    "triplet_consistency_backward(Tensor grad, Tensor target, Tensor source, Tensor positive, Tensor negative, "
    "Tensor loss) -> (Tensor, Tensor)",
    _reference.backward,
    lambda grad, target, source, *_: (torch.empty_like(target), source.new_empty(source.shape)),
)
_dispatch.serve("triplet_consistency_forward")
_dispatch.serve("triplet_consistency_backward")


class _Triplets(torch.autograd.Function):
    @staticmethod
    def forward(ctx, target, source, positive, negative, valid, margin, reduction):
        loss = _forward(target, source, positive, negative, valid, margin)
        value, count, divisor = _losses.reduce_masked(loss, valid, reduction)
        ctx.save_for_backward(divisor, target, source, positive, negative, loss)
        ctx.set_materialize_grads(False)
        if count is not None:
            ctx.mark_non_differentiable(count)
        return value, count

    @staticmethod
    @differentiable_once("triplet_consistency_loss")
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 7
        divisor, *saved = ctx.saved_tensors
        grad = _losses.spread(grad, divisor, saved[-1].shape)
        return *_backward(grad, *saved), None, None, None, None, None


def triplet_consistency_loss(
    target: Tensor,
    source: Tensor,
    positive: Tensor,
    negative: Tensor,
    valid: Tensor,
    *,
    margin: float = 1.0,
    reduction: _losses.Reduction = "mean",
) -> Tensor:
    """max(0, |t_i - s_p(i)|^2 - |t_i - s_n(i)|^2 + margin) over the target rows that have partners (DRSL+).

    target (T, d), source (S, d): one dtype of float32, float16, bfloat16 or float64; both get gradients in it, with the
        incoming gradient applied before the rounding.
    positive, negative: int64 (T,), rows of source; valid: bool (T,); as ``select_triplets`` returns them.
    reduction: "mean" over the valid rows (exactly 0 without any), "sum", or "none" for (T,).
    Returns float32 (float64 for float64 rows).  Differentiable once.  Deterministic; no host synchronisation.
    Memory beyond inputs and outputs of the reference: three gathered copies of (T, d); of the compiled CPU kernel:
    none forward, 32 bytes a target row and 16 a source row backward; of CUDA C++ and Triton: none forward, about 33
    bytes a target row backward, CUDA C++ also 4 a source row and d / 16 numbers a target row.
    Partners that are no rows of source raise RuntimeError on a CPU; on a GPU, which nothing waits for, their loss is
    NaN.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    if target.dtype not in _checks.FEATURE_DTYPES or source.dtype != target.dtype:
        raise ValueError(f"target and source must share a floating dtype, got {target.dtype} and {source.dtype}")
    if target.dim() != 2 or source.dim() != 2 or target.shape[1] != source.shape[1]:
        shapes = f"{tuple(target.shape)} and {tuple(source.shape)}"
        raise ValueError(f"target must be (T, d) and source (S, d), got shapes {shapes}")
    for name, index, dtype in (
        ("positive", positive, torch.int64), ("negative", negative, torch.int64), ("valid", valid, torch.bool)
    ):  # fmt: skip
        if index.dtype != dtype or index.shape != target.shape[:1]:
            expected = f"{dtype} of shape ({len(target)},)"
            raise ValueError(f"{name} must be {expected}, got {index.dtype} of shape {tuple(index.shape)}")
    if len({t.device for t in (target, source, positive, negative, valid)}) > 1:
        raise ValueError("target, source, positive, negative and valid must be on one device")
    _losses.check_reduction(reduction)
    local_reduction = _losses.of_process(reduction)
    loss, count = _Triplets.apply(target, source, positive, negative, valid, float(margin), local_reduction)
    return loss if count is None else _losses.over_processes(loss, count, reduction)
