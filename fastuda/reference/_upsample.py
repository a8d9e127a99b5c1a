"""Bilinear upsampling block of rows by block, and its adjoint: shared by the references on full-resolution pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastuda.reference._pixels import CHUNK_ELEMENTS, compute_dtype


def taps(size: int, source: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper source position (int64) and the upper one's weight (float64) of each of ``size`` positions.

    Position i lies at i (source - 1) / (size - 1) with ``align_corners``, else at (i + 1/2) source / size - 1/2, but
    not below 0, as in ``torch.nn.functional.interpolate``; in integers, where that rounds to float32.
    """
    i = torch.arange(size, device=device)
    if align_corners:
        numerator, denominator = i * (source - 1), max(size - 1, 1)
    else:
        numerator, denominator = ((2 * i + 1) * source - size).clamp(min=0), 2 * size
    lower = numerator // denominator
    return lower, (lower + 1).clamp(max=source - 1), (numerator - lower * denominator).double() / denominator


def upsampled(values: Tensor, size: tuple[int, int], align_corners: bool) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of values (N, K, h, w) at ``size``: (rows, (N, K, rows, W)), float32 (float64 stays).

    Down the columns first, then along the rows.  A block has at most CHUNK_ELEMENTS elements, or is one row.
    """
    values = values.to(compute_dtype(values))
    top, bottom, down = taps(size[0], values.shape[2], align_corners, values.device)
    left, right, along = taps(size[1], values.shape[3], align_corners, values.device)
    down, along = down.to(values.dtype).unsqueeze(1), along.to(values.dtype)
    step = max(1, CHUNK_ELEMENTS // max(1, values.shape[0] * values.shape[1] * size[1]))
    for start in range(0, size[0], step):
        part = slice(start, start + step)
        rows = torch.lerp(values[:, :, top[part]], values[:, :, bottom[part]], down[part])
        yield part, torch.lerp(rows[..., left], rows[..., right], along)


def whole(values: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """All rows of ``upsampled`` in one (N, K, H, W), differentiable."""
    blocks = [block for _, block in upsampled(values, size, align_corners)]
    if blocks:
        return torch.cat(blocks, 2)
    return values[:, :, :0, :1].to(compute_dtype(values)).expand(-1, -1, -1, size[1])


def matrix(size: int, source: int, align_corners: bool, like: Tensor) -> Tensor:
    """The upsampling of one dimension as a matrix (size, source)."""
    lower, upper, weight = taps(size, source, align_corners, like.device)
    result = torch.zeros(size, source, dtype=torch.float64, device=like.device)
    result.scatter_(1, lower.unsqueeze(1), (1 - weight).unsqueeze(1))
    return result.scatter_add_(1, upper.unsqueeze(1), weight.unsqueeze(1)).to(like.dtype)


class Adjoint:
    """Sums gradients (N, K, rows, W) of blocks of rows into that of the values (N, K, h, w); deterministic."""

    def __init__(self, values: Tensor, size: tuple[int, int], align_corners: bool) -> None:
        self.total = torch.zeros(values.shape, dtype=compute_dtype(values), device=values.device)
        self.down = matrix(size[0], values.shape[2], align_corners, self.total)
        self.along = matrix(size[1], values.shape[3], align_corners, self.total)

    def add(self, part: slice, slope: Tensor) -> None:
        self.total += self.down[part].T @ (slope @ self.along)
