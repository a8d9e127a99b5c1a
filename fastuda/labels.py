"""Label maps in every part of this package: the label of a void pixel, and the one rule by which maps are resized."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = 255
"""The label of a pixel without a class, in uint8 label maps and by default in every operator."""


def nearest_pixels(positions: Any, new: int, old: int) -> Any:
    """The pixel of ``old`` in a row that each of ``positions``, pixels of ``new``, takes: floor(position * old / new).

    positions: integers, as a number, a NumPy array or a tensor.  Integer arithmetic, so exact; torch's "nearest" rounds
    the ratio to float32 and is now and then a pixel below.  Of labels of an image at a network's stride s it takes the
    pixels s i, which are the centres of the receptive fields of strided convolutions.
    """
    return positions * old // new


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (N, H, W) of any dtype at ``size``, (height, width), by the rule of ``nearest_pixels``.

    A view where H and W are multiples of the size, so that reading it touches no other pixels; else a copy.
    """
    for dim, (new, old) in enumerate(zip(size, labels.shape[1:], strict=True), start=1):
        if new == old:
            continue
        if new == 0 or old % new == 0:
            step = 1 if new == 0 else old // new
            labels = labels[(slice(None),) * dim + (slice(0, new * step, step),)]
        else:
            positions = torch.arange(new, device=labels.device)
            labels = labels.index_select(dim, nearest_pixels(positions, new, old))
    return labels
