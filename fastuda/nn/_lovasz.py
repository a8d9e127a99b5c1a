"""The weights of the Lovász extension: what each pixel's error counts for."""

from __future__ import annotations

import torch
from torch import Tensor

# Errors sorted at once: bounds the 30-odd bytes a pixel and class that a sort needs, and fills a GPU.
GROUP_ELEMENTS = 1 << 23

# Bits of +inf: errors are not negative, so their bits are ordered like the errors and below these.
_INFINITY = {torch.float32: (torch.int32, 0x7F800000), torch.float64: (torch.int64, 0x7FF0000000000000)}


@torch.no_grad()
def lovasz_weights(error: Tensor, foreground: Tensor, valid: Tensor) -> Tensor:
    """Increments of the Jaccard loss in descending order of error, put back at the pixels.

    error (K, P) float32 or float64, not negative; foreground (K, P) bool; valid (P,) bool.  Pixels that are not valid
    come last, so they change no other weight, and their own means nothing.  Every pixel of a class without foreground
    gets 0.  Ties are broken by position.
    """
    weights = torch.empty_like(error)
    if error.is_cuda:  # one launch for many classes; a CPU sorts integers fastest one row at a time
        step = max(1, GROUP_ELEMENTS // max(1, error.shape[1]))
    else:
        step = 1
    for k in range(0, len(error), step):
        group = slice(k, k + step)
        weights[group] = _group(error[group], foreground[group], valid)
    return weights


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
