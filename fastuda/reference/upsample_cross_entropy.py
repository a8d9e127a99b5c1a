"""Cross entropy of bilinearly upsampled logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import compute_dtype, usable
from fastuda.reference._upsample import Adjoint, upsampled, whole


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    align_corners: bool = True,
    ignore_index: int = IGNORE,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The loss of each pixel and its share of the divisor of the mean, both (N, H, W) and 0 where ignored.

        l = -v ((1 - s) w_y log p_y + s / K sum_c w_c log p_c),   p = softmax of the upsampled logits

    with class weights w (K,), pixel weights v (N, H, W) and label smoothing s; the divisor's share is w_y.
    Differentiable; logits (N, K, h, w), target (N, H, W).  Memory: the upsampled logits several times.
    """
    up = whole(logits, target.shape[1:], align_corners)
    valid, index = usable(target, logits.shape[1], ignore_index)
    loss, share, _ = _block(up, valid, index, weight, pixel_weight, label_smoothing)
    return loss, share


def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    align_corners: bool,
    ignore_index: int,
    label_smoothing: float,
    with_map: bool,
    with_slope: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of the losses, divisor of the mean), the losses (N, H, W), and the sum's gradient (N, K, h, w).

    In float32 (float64 for float64 logits); losses and gradient are empty unless asked for.  Block of rows by block.
    """
    size, dtype = target.shape[1:], compute_dtype(logits)
    valid, index = usable(target, logits.shape[1], ignore_index)
    total = torch.zeros(2, dtype=torch.float64, device=logits.device)
    losses = logits.new_empty(target.shape if with_map else 0, dtype=dtype)
    adjoint = Adjoint(logits, size, align_corners) if with_slope else None
    with torch.autocast(logits.device.type, enabled=False), torch.no_grad():
        for rows, up in upsampled(logits, size, align_corners):
            scale = None if pixel_weight is None else pixel_weight[:, rows]
            loss, share, slope = _block(up, valid[:, rows], index[:, rows], weight, scale, label_smoothing)
            total += torch.stack([loss.sum(dtype=torch.float64), share.sum(dtype=torch.float64)])
            if with_map:
                losses[:, rows] = loss
            if adjoint:
                adjoint.add(rows, slope())
    return total.to(dtype), losses, adjoint.total if adjoint else logits.new_empty(0, dtype=dtype)


def _block(up: Tensor, valid: Tensor, index: Tensor, weight: Tensor | None, scale: Tensor | None, smoothing: float):
    """Loss and share of the divisor of each pixel of a block, and a function that returns the gradient for ``up``."""
    classes = up.shape[1]
    weight = up.new_ones(classes) if weight is None else weight.to(up.dtype)
    log_p = up.log_softmax(1)
    label_weight, even = (1 - smoothing) * weight[index], smoothing / classes * weight
    scale = valid.to(up.dtype) if scale is None else scale.to(up.dtype).where(valid, 0.0)
    share = weight[index].where(valid, 0.0)
    smooth = torch.einsum("k,nkhw->nhw", even, log_p) if smoothing else 0.0
    # Selected again at the end: logits of an ignored pixel may be infinite.
    loss = (-scale * (label_weight * log_p.gather(1, index.unsqueeze(1)).squeeze(1) + smooth)).where(valid, 0.0)

    def slope() -> Tensor:
        wanted = even.view(-1, 1, 1).expand_as(up).scatter_add(1, index.unsqueeze(1), label_weight.unsqueeze(1))
        slope = (log_p.exp() * (label_weight + even.sum()).unsqueeze(1) - wanted) * scale.unsqueeze(1)
        return slope.where(valid.unsqueeze(1), 0.0)

    return loss, share, slope
