"""The distribution-aware contrastive bound: the raw operators, their autograd and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.ops import _checks, _dispatch, _library, _losses
from fastuda.ops._autograd import differentiable_once
from fastuda.reference import contrastive_bound as _reference
from fastuda.reference.low_rank import LowRank

_STATISTIC_DTYPES = (torch.float32, torch.float64)


def _fake_forward(features, labels, mean, covariance, temperature, normalize, ignore_index) -> tuple[Tensor, Tensor]:
    dtype = _reference.compute_dtype(features)
    loss = features.new_empty(labels.shape, dtype=dtype)
    return loss, features.new_empty((*labels.shape, mean.shape[0]), dtype=dtype)


def _fake_backward(
    grad, features, labels, mean, covariance, posterior, temperature, normalize, ignore_index
) -> Tensor:  # fmt: skip
    return torch.empty_like(features)


def _low_rank_forward(features, labels, mean, diag, factors, *options) -> tuple[Tensor, Tensor]:
    return _reference.forward(features, labels, mean, LowRank(diag, factors), *options)


def _low_rank_backward(grad, features, labels, mean, diag, factors, posterior, *options) -> Tensor:
    return _reference.backward(grad, features, labels, mean, LowRank(diag, factors), posterior, *options)


_forward = _library.define(
    "contrastive_bound_forward(Tensor features, Tensor labels, Tensor mean, Tensor? covariance, float temperature, "
    "bool normalize, int ignore_index) -> (Tensor loss, Tensor posterior)",
    _reference.forward,
    _fake_forward,
)
_backward = _library.define(
    "contrastive_bound_backward(Tensor grad, Tensor features, Tensor labels, Tensor mean, Tensor? covariance, "
    "Tensor posterior, float temperature, bool normalize, int ignore_index) -> Tensor",
    _reference.backward,
    _fake_backward,
)
# The low-rank form is a separate operator, so that the kernels of the other forms need not handle it.
_forward_low_rank = _library.define(
    "contrastive_bound_low_rank_forward(Tensor features, Tensor labels, Tensor mean, Tensor diag, Tensor factors, "
    "float temperature, bool normalize, int ignore_index) -> (Tensor loss, Tensor posterior)",
    _low_rank_forward,
    lambda features, labels, mean, diag, factors, *options: _fake_forward(features, labels, mean, diag, *options),
)
_backward_low_rank = _library.define(
    "contrastive_bound_low_rank_backward(Tensor grad, Tensor features, Tensor labels, Tensor mean, Tensor diag, "
    "Tensor factors, Tensor posterior, float temperature, bool normalize, int ignore_index) -> Tensor",
    _low_rank_backward,
    lambda grad, features, *others: torch.empty_like(features),
)


def _serve(name: str, covariance: int) -> None:
    """A full covariance has other GPU kernels; ``covariance``: its position among the arguments."""
    full = name.replace("bound", "bound_full")
    _dispatch.serve(name, (name, full), lambda *a: full if getattr(a[covariance], "ndim", 0) == 3 else name)


_serve("contrastive_bound_forward", 3)
_serve("contrastive_bound_backward", 4)


class _ContrastiveBound(torch.autograd.Function):
    """The reduced loss, and how many pixels count, unless the reduction is "none".

    ``factors`` is None for every form but the low-rank one, whose diagonal is then ``covariance``.
    """

    @staticmethod
    def forward(ctx, features, labels, mean, covariance, factors, temperature, normalize, ignore_index, reduction):
        options = temperature, normalize, ignore_index
        if factors is None:
            loss, posterior = _forward(features, labels, mean, covariance, *options)
        else:
            loss, posterior = _forward_low_rank(features, labels, mean, covariance, factors, *options)
        value, _, count = _losses.reduce_pixels(loss, None, labels, mean.shape[0], ignore_index, reduction)
        divisor = count if reduction == "mean" else None
        ctx.save_for_backward(features, labels, mean, covariance, factors, posterior, divisor)
        ctx.options = options
        ctx.set_materialize_grads(False)
        if count is not None:
            ctx.mark_non_differentiable(count)
        return value, count

    @staticmethod
    @differentiable_once("contrastive_bound")
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 9
        features, labels, mean, covariance, factors, posterior, divisor = ctx.saved_tensors
        grad = _losses.spread(grad, divisor, labels.shape)
        if factors is None:
            slope = _backward(grad, features, labels, mean, covariance, posterior, *ctx.options)
        else:
            slope = _backward_low_rank(grad, features, labels, mean, covariance, factors, posterior, *ctx.options)
        return slope, None, None, None, None, None, None, None, None


def contrastive_bound(
    features: Tensor,
    labels: Tensor,
    mean: Tensor,
    covariance: Tensor | LowRank | None = None,
    *,
    temperature: float = 100.0,
    normalize: bool = False,
    ignore_index: int = IGNORE,
    reduction: _losses.Reduction = "mean",
) -> Tensor:
    """Upper bound of the contrastive loss between pixels and class distributions (SDCA Eq. 14; SPCL without Sigma).

        a_k = q.mu_k / tau + q^T Sigma_k q / (2 tau^2)          loss = logsumexp_k(a_k) - q.mu_y / tau

    features: (N, A, H, W) or (P, A), float32, float16, bfloat16 or float64; any strides, never copied as a whole.
    labels: (N, H, W) or (P,) at feature resolution, uint8, int32 or int64; ``ignore_index`` and labels outside 0..K-1
        are ignored.
    mean: (K, A) float32 or float64; covariance: None, (K, A) for the diagonal, (K, A, A), which must be symmetric (not
        checked), or ``LowRank(diag, factors)`` of (K, A) and (K, A, r) for Sigma_k = diag(d_k) + U_k U_k^T, as
        ``low_rank`` makes it; all are taken as constants and get no gradient.
    temperature: tau > 0.
    normalize: scale q, each mean and each class's covariance to length 1 inside the loss (a full covariance by its
        Frobenius norm, which equals the diagonal's rule on a diagonal matrix, a low-rank one by that of the matrix it
        stands for); zero vectors stay 0, with zero gradient.
    reduction: "mean" over the valid pixels (exactly 0 without any), "sum", or "none" for the shape of labels with 0 on
        ignored pixels.
    Returns float32 (float64 for float64 features), computed in that precision also under autocast.  The gradient has
    the dtype and strides of features, with the incoming gradient applied before it is rounded.  Differentiable once.
    Deterministic; no host synchronisation.  Memory beyond inputs and outputs: the softmax, pixels x K in the result's
    dtype, kept for backward, and
    - in the compiled CPU kernels: the packed statistics, at most 2 K A numbers, for a full covariance also its
      triangle, about K A (A + 13) / 2 numbers (products read the lower one only); and a thread's tile, at most 0.5 MiB
      or, if that is more, 1 KiB x A (twice that for float64);
    - without them and for a low-rank covariance: a few buffers of 2^21 elements (of one image row x channels, if that
      is more); the pixels are worked off in chunks, for a full or low-rank covariance class by class.
    Raises ValueError for a wrong dtype, shape, device or option, and for features without a channel.
    """
    _checks.pixels(features, labels)
    _check_statistics(features, mean, covariance)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    _losses.check_reduction(reduction)
    shape = labels.shape
    features, labels = _losses.as_image(features, labels)
    covariance, factors = covariance[:2] if isinstance(covariance, LowRank) else (covariance, None)
    constants = (None if c is None else c.detach() for c in (mean, covariance, factors))
    options = float(temperature), normalize, ignore_index, _losses.of_process(reduction)
    loss, count = _ContrastiveBound.apply(features, labels, *constants, *options)
    return loss.view(shape) if reduction == "none" else _losses.over_processes(loss, count, reduction)


def _check_statistics(features: Tensor, mean: Tensor, covariance: Tensor | LowRank | None) -> None:
    channels = features.shape[1]
    if channels < 1:
        raise ValueError(f"features must have at least one channel, got shape {tuple(features.shape)}")
    if mean.dim() != 2 or mean.shape[0] < 1 or mean.shape[1] != channels:
        raise ValueError(f"mean must be (K, {channels}) with K >= 1, got shape {tuple(mean.shape)}")
    shapes = (tuple(mean.shape), (*mean.shape, channels))
    statistics = {"mean": mean}
    if isinstance(covariance, LowRank):
        statistics = {"mean": mean, "covariance.diag": covariance.diag, "covariance.factors": covariance.factors}
        if tuple(covariance.diag.shape) != shapes[0]:
            raise ValueError(f"covariance.diag must be {shapes[0]}, got shape {tuple(covariance.diag.shape)}")
        if covariance.factors.dim() != 3 or tuple(covariance.factors.shape[:2]) != shapes[0]:
            expected, shape = f"({mean.shape[0]}, {channels}, r)", tuple(covariance.factors.shape)
            raise ValueError(f"covariance.factors must be {expected}, got shape {shape}")
    elif covariance is not None:
        statistics["covariance"] = covariance
        if tuple(covariance.shape) not in shapes:
            raise ValueError(f"covariance must be {shapes[0]} or {shapes[1]}, got shape {tuple(covariance.shape)}")
    for name, statistic in statistics.items():
        if statistic.dtype not in _STATISTIC_DTYPES:
            raise ValueError(f"{name} must be float32 or float64, got {statistic.dtype}")
        if statistic.device != features.device:
            raise ValueError(f"{name} is on {statistic.device} but features are on {features.device}")
