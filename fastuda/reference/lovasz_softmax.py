"""Lovász-Softmax of bilinearly upsampled scores: exact, and with errors counted in bins."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import compute_dtype, usable
from fastuda.reference._upsample import Adjoint, upsampled, whole

# Errors sorted at once: bounds the 30-odd bytes a pixel and class that a sort needs, and fills a GPU.
GROUP_ELEMENTS = 1 << 23

# Bits of +inf: errors are not negative, so their bits are ordered like the errors and below these.
_INFINITY = {torch.float32: (torch.int32, 0x7F800000), torch.float64: (torch.int64, 0x7FF0000000000000)}


def lovasz_softmax(
    scores: Tensor,
    target: Tensor,
    bins: int = 0,
    probabilities: bool = False,
    align_corners: bool = True,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The Lovász extension of 1 - IoU, mean over the classes in ``target`` (Berman et al., CVPR 2018, Eq. 11).

        m_i(c) = 1 - p_i(c) where y_i = c, else p_i(c);  loss = mean over c of  sum_i m_i(c) g_i(c)

    with g(c) the increments of class c's Jaccard loss in descending order of m(c), or with ``bins`` their mean over the
    pixels whose m(c) lies in one of that many equal bins.  scores (N, K, h, w): logits, or with ``probabilities``
    p itself; target (N, H, W).  Differentiable, g taken as constant.  Memory: K x N x H x W many times.
    """
    up = whole(scores, target.shape[1:], align_corners)
    valid, index = usable(target, scores.shape[1], ignore_index)
    probability = up if probabilities else up.softmax(1)
    foreground = _foreground(index, valid, scores.shape[1])
    p = probability.transpose(0, 1).flatten(1)
    error = torch.where(foreground, 1 - p, p)
    weight, present = lovasz_weights(error.detach(), foreground, valid.reshape(-1), bins)
    loss = (error * weight).where(valid.reshape(-1), 0.0).sum(1)
    return loss.where(present, 0.0).sum() / present.sum().clamp(min=1)


def forward(
    scores: Tensor,
    target: Tensor,
    bins: int,
    probabilities: bool,
    align_corners: bool,
    ignore_index: int,
    with_slope: bool,
) -> tuple[Tensor, Tensor]:
    """The loss, float32 (float64 for float64 scores), and its gradient (N, K, h, w), empty unless asked for."""
    with torch.autocast(scores.device.type, enabled=False), torch.no_grad():
        return _forward(scores, target, bins, probabilities, align_corners, ignore_index, with_slope)


def _forward(scores, target, bins, probabilities, align_corners, ignore_index, with_slope):
    (n, classes), size, dtype = scores.shape[:2], target.shape[1:], compute_dtype(scores)
    valid, index = usable(target, classes, ignore_index)
    p = scores.new_empty((classes, n, *size), dtype=dtype)
    for rows, up in upsampled(scores, size, align_corners):
        p[:, :, rows] = (up if probabilities else up.softmax(1)).transpose(0, 1)
    foreground, everywhere = _foreground(index, valid, classes), valid.reshape(-1)
    flat = p.flatten(1)
    error = torch.where(foreground, 1 - flat, flat)
    weight, present = lovasz_weights(error, foreground, everywhere, bins)
    loss = (error * weight).where(everywhere, 0.0).sum(1, dtype=torch.float64).where(present, 0.0).sum()
    count = present.sum().clamp(min=1)
    if not with_slope:
        return (loss / count).to(dtype), scores.new_empty(0, dtype=dtype)
    del error
    toward = (torch.where(foreground, -weight, weight) / count).where(everywhere & present.unsqueeze(1), 0.0)
    toward = toward.view_as(p)
    adjoint = Adjoint(scores, size, align_corners)
    for start in range(0, size[0], 64):
        rows = slice(start, start + 64)
        slope = toward[:, :, rows]
        if not probabilities:
            part = p[:, :, rows]
            slope = part * (slope - (part * slope).sum(0))
        adjoint.add(rows, slope.where(valid[:, rows], 0.0).transpose(0, 1))
    return (loss / count).to(dtype), adjoint.total


def _foreground(index: Tensor, valid: Tensor, classes: int) -> Tensor:
    return index.where(valid, -1).reshape(-1) == torch.arange(classes, device=index.device).view(-1, 1)


@torch.no_grad()
def lovasz_weights(error: Tensor, foreground: Tensor, valid: Tensor, bins: int = 0) -> tuple[Tensor, Tensor]:
    """Increments of the Jaccard loss in descending order of error, put back at the pixels, and which classes occur.

    error (K, P) float32 or float64, not negative; foreground (K, P) bool; valid (P,) bool.  Pixels that are not valid
    come last, so they change no other weight, and their own means nothing.  Every pixel of a class without foreground
    gets 0.  Ties are broken by position.  bins: errors in the same one of [0, 1] share the mean of their increments.
    """
    present = foreground.any(1)
    if bins:
        return _binned(error, foreground, valid, bins), present
    weights = torch.empty_like(error)
    if error.is_cuda:  # one launch for many classes; a CPU sorts integers fastest one row at a time
        step = max(1, GROUP_ELEMENTS // max(1, error.shape[1]))
    else:
        step = 1
    for k in range(0, len(error), step):
        group = slice(k, k + step)
        weights[group] = _group(error[group], foreground[group], valid)
    return weights, present


def _group(error: Tensor, foreground: Tensor, valid: Tensor) -> Tensor:
    integer, infinity = _INFINITY[error.dtype]
    key = infinity - error.contiguous().view(integer)
    key = key.where(valid, torch.iinfo(integer).max)
    order = key[0].sort(stable=True)[1][None] if len(key) == 1 else key.sort(dim=1, stable=True)[1]
    foreground = foreground.gather(1, order)
    total = foreground.sum(1, keepdim=True, dtype=torch.int32)
    seen = foreground.cumsum(1, dtype=torch.int32)
    rank = torch.arange(1, error.shape[1] + 1, device=error.device, dtype=torch.int32)
    # Differences of neighbouring Jaccard losses in closed form: subtracting them in float32 would leave few digits.
    intersection = (total - seen).to(error.dtype)  # foreground that is not yet counted as wrong
    union = (total + rank - seen).to(error.dtype)
    increment = torch.where(foreground, 1.0, intersection / (union - 1).clamp_min(1)) / union
    increment = increment.where(total > 0, 0.0)
    return torch.empty_like(increment).scatter_(1, order, increment)


def _binned(error: Tensor, foreground: Tensor, valid: Tensor, bins: int) -> Tensor:
    """The mean increment of each pixel's bin: the step of the Jaccard loss over the bin, by its pixels."""
    place = (error * bins).nan_to_num(0.0).clamp(0, bins - 1).long()
    offset = torch.arange(len(error), device=error.device).unsqueeze(1) * bins
    beyond = len(error) * bins
    flat = (place + offset).masked_fill(~valid, beyond).reshape(-1)
    # Integer adds are exact in any order; bincount would wait for the device to learn its largest bin.
    one, none = flat.new_ones(1), flat.new_zeros(beyond + 1)
    pixels, of_class = (
        none.scatter_add(0, index, one.expand_as(index))[:-1].view(-1, bins)
        for index in (flat, flat.masked_fill(~foreground.reshape(-1), beyond))
    )
    seen, rank = of_class.flip(1).cumsum(1), pixels.flip(1).cumsum(1)  # from the largest error down
    total = seen[:, -1:]
    jaccard = 1 - (total - seen).double() / (total + rank - seen).clamp(min=1).double()
    step = jaccard.diff(dim=1, prepend=torch.zeros_like(jaccard[:, :1])).flip(1)
    mean = (step / pixels.clamp(min=1)).where(total > 0, 0.0).to(error.dtype)
    return mean.gather(1, place)
