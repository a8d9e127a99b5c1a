"""Windows that cover an image: where they lie, and the labels that a network gives through them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastuda.ops.aggregate_patches import aggregate_patches
from fastuda.ops.pseudo_labels import PseudoLabels

Size = tuple[int, int]


def window_offsets(size: Size, window: Size, overlap: float = 1 / 3) -> Tensor:
    """First row and column, int64 (P, 2), of the fewest windows that cover an image evenly, row after row.

    size, window: (height, width); neighbouring windows share at least the part ``overlap`` of a window, in 0..1 without
    1.  A window larger than the image starts at 0.
    Raises ValueError for an overlap outside that range or a window below one pixel.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, got {overlap}")
    if min(window) < 1:
        raise ValueError(f"window must be at least one pixel each way, got {window[0]} x {window[1]}")
    starts = []
    for extent, side in zip(size, window, strict=True):
        last, step = max(0, extent - side), max(1, int(side * (1 - overlap)))
        count = 1 + -(-last // step)
        starts.append([last * i // max(1, count - 1) for i in range(count)])
    return torch.tensor([(row, column) for row in starts[0] for column in starts[1]], dtype=torch.int64)


@torch.no_grad()
def windowed_labels(
    predict: Callable[[Tensor], Tensor], images: Tensor, size: Size, window: Size, overlap: float = 1 / 3
) -> PseudoLabels:
    """Labels, uint8 (N, *size), and confidences by the mean softmax of overlapping windows of ``images`` (N, 3, H, W).

    predict: logits (N, K, h, w) of a window of images, of one size for all windows.
    size: may differ from H x W; the windows are then placed to scale.
    Memory beyond the network's own for one window: all windows' logits at their low resolution, the labels and one
    confidence a pixel, but never scores at full resolution.
    """
    height, width = images.shape[2:]
    window = min(window[0], height), min(window[1], width)
    offsets = window_offsets((height, width), window, overlap)
    scores = torch.stack(
        [predict(images[:, :, row : row + window[0], column : column + window[1]]) for row, column in offsets.tolist()],
        dim=1,
    )
    # To scale: starts rounded down and sides up, so that no gap opens.
    scaled = offsets * torch.tensor(size) // torch.tensor([height, width])
    patch = -(-window[0] * size[0] // height), -(-window[1] * size[1] // width)
    places = scaled.to(images.device).expand(len(images), -1, -1)
    votes = aggregate_patches(scores, places, size, stride=1, patch=patch)
    return PseudoLabels(votes.label, votes.confidence)
