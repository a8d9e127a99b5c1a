"""Dropout of a batch that several processes share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastuda.ranks import share, world


class Dropout(nn.Dropout):
    """``torch.nn.Dropout``; inside ``fastuda.ops.global_batch`` each process draws the masks of the whole batch.

    All processes draw from the same seed: masks of the own images alone would be the same on each.
    """

    def forward(self, x: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(x)
        return x * share(super().forward(_ones(x, x.shape[1:])))


class Dropout2d(nn.Dropout2d):
    """``torch.nn.Dropout2d``, of whole channels, with masks as ``Dropout`` draws them."""

    def forward(self, x: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(x)
        return x * share(super().forward(_ones(x, (x.shape[1], 1, 1))))


def _ones(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    ones = torch.ones(len(x) * world(), *shape, dtype=x.dtype, device=x.device)
    # torch draws random numbers in the order of the elements in memory.
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return ones.contiguous(memory_format=torch.channels_last) if last else ones
