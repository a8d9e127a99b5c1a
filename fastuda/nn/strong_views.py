"""Strongly augmented target images, with what must change with them: weak logits, and which pixels count."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class StrongView(NamedTuple):
    """images (N, 3, H, W), logits (N, K, h, w) of the weak view, and mask (N, h, w): what counts."""

    images: Tensor
    logits: Tensor
    mask: Tensor


def rectangle(height: int, width: int, area: float, generator: torch.Generator | None = None) -> tuple[slice, slice]:
    """Rows and columns of a random rectangle of about ``area`` of a map, its sides' ratio between 1/2 and 2."""
    ratio, y, x = torch.rand(3, generator=generator).tolist()
    stretch = 2 ** (ratio - 0.5)
    rows = min(height, max(1, round(height * math.sqrt(area) * stretch)))
    columns = min(width, max(1, round(width * math.sqrt(area) / stretch)))
    top, left = int(y * (height - rows + 1)), int(x * (width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)


def _at_size(part: tuple[slice, slice], grid: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """A rectangle of grid cells as pixels of the image that the grid divides."""
    return tuple(
        slice(-(-side.start * pixels // cells), -(-side.stop * pixels // cells))
        for side, cells, pixels in zip(part, grid, size, strict=True)
    )


@torch.no_grad()
def cut_mix(view: StrongView, area: float, generator: torch.Generator | None = None) -> StrongView:
    """A rectangle of each image comes from the next image of the batch, with its logits (CutMix).

    It is made of whole cells of the logits' grid, so that images and logits change hands together.  Draws come from
    ``generator``, of the CPU: nothing waits for the device.  A batch of one image stays as it is.
    """
    if len(view.images) < 2 or not area:
        return view
    images, logits, mask = (part.clone() for part in view)
    grid, size = logits.shape[-2:], images.shape[-2:]
    for target in range(len(images)):
        source = (target + 1) % len(images)
        cells = rectangle(*grid, area, generator)
        pixels = _at_size(cells, grid, size)
        images[target, :, *pixels] = view.images[source, :, *pixels]
        logits[target, :, *cells] = view.logits[source, :, *cells]
        mask[target, *cells] = view.mask[source, *cells]
    return StrongView(images, logits, mask)


@torch.no_grad()
def cut_out(view: StrongView, area: float, generator: torch.Generator | None = None) -> StrongView:
    """A rectangle of each image becomes its mean colour and counts nowhere (Cutout)."""
    if not area:
        return view
    images, mask = view.images.clone(), view.mask.clone()
    grid, size = view.logits.shape[-2:], images.shape[-2:]
    for number in range(len(images)):
        cells = rectangle(*grid, area, generator)
        pixels = _at_size(cells, grid, size)
        images[number, :, *pixels] = view.images[number].mean((1, 2))[:, None, None]
        mask[number, *cells] = False
    return StrongView(images, view.logits, mask)


def posterise(images: Tensor, strength: float) -> Tensor:
    """Values rounded down to multiples of 2^n, n = 0..4 by strength."""
    step = 2 ** round(4 * strength)
    return (images / step).floor() * step


def solarise(images: Tensor, strength: float) -> Tensor:
    """Values above a threshold inverted: none at strength 0, the upper half at 1."""
    return torch.where(images > 255 - 127 * strength, 255 - images, images)


def autocontrast(images: Tensor, strength: float) -> Tensor:
    """Each image's channels stretched towards the full range."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) * (255 / (high - low).clamp(min=1))
    return images.lerp(stretched, strength)


def sharpen(images: Tensor, strength: float) -> Tensor:
    """Away from a 3x3 mean, as far again at strength 1."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return (images + strength * (images - F.avg_pool2d(padded, 3, 1))).clamp(0, 255)


_OPERATIONS = (posterise, solarise, autocontrast, sharpen)


@torch.no_grad()
def random_augment(images: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """``count`` random operations of random strength on each image (N, 3, H, W), values 0..255.

    RandAugment's (Cubuk et al. 2020) that neither move pixels nor repeat the colour jitter.  Draws come from
    ``generator``, of the CPU.
    """
    out = []
    for image in images.split(1):
        which = torch.randint(len(_OPERATIONS), (count,), generator=generator).tolist()
        strength = torch.rand(count, generator=generator).tolist()
        for operation, much in zip(which, strength, strict=True):
            image = _OPERATIONS[operation](image, much)
        out.append(image)
    return torch.cat(out)


@torch.no_grad()
def crop_scores(scores: Tensor, window: Tensor | None, size: tuple[int, int]) -> Tensor:
    """The part of low-resolution scores that a view shows: float32 (N, K, *size), bilinear, zero outside the image.

    scores: (N, K, h, w) of the whole images, any floating dtype; window: (N, 4) of ``fastuda.data.batch.Batch``.  Never
    larger than ``size``, the network's grid: a full-resolution copy is not made.
    """
    if window is None:
        # Filled on the device: a list of numbers would be copied there, and the host would wait for it.
        window = torch.zeros(len(scores), 4, device=scores.device)
        window[:, 1::2] = 1
    window = window.to(scores.device, torch.float32) * 2 - 1
    rows, columns = (torch.linspace(0, 1, count, device=scores.device) for count in size)
    y = window[:, 0:1].lerp(window[:, 1:2], rows)
    x = window[:, 2:3].lerp(window[:, 3:4], columns)
    grid = torch.stack([x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], -1)
    with torch.autocast(scores.device.type, enabled=False):
        out = F.grid_sample(scores.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    # Half a pixel's worth of rounding is still inside.
    inside = (grid.abs() <= 1 + 1e-4).all(3)
    return out * inside.unsqueeze(1)
