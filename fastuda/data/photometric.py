"""Photometric augmentation of a batch on its own device, and standardisation.

The order is fixed: brightness, contrast, saturation, hue, greyscale, blur. Each factor means what torchvision's
ColorJitter means by it, with two approximations that make the whole colour part one 3x3 matrix and one offset a sample:

- values are clipped to 0..255 once, after all colour operations, not after each;
- hue is a rotation of the chrominance plane of YIQ, which keeps the luma, instead of a shift in HSV.

The parameters of sample n are drawn on the host from a key: nothing is drawn on, or read back from, the device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastuda.data.config import Augment
from fastuda.data.seeding import generator

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)

_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)

_BLUR_SIGMA = (0.1, 2.0)  # pixels of a view of _BLUR_HEIGHT rows
_BLUR_HEIGHT = 512
_DRAWS = 7  # brightness, contrast, saturation, hue, greyscale?, blur?, sigma


def standardise(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 RGB -> float32 (x / 255 - mean) / std with ImageNet's mean and deviation."""
    scale, offset = _standard(images.device)
    return torch.addcmul(offset, images.float(), scale)


class Photometric:
    """Random colour and blur, then standardisation.

    Args:
        augment: the ranges; only its photometric fields are used.
    """

    def __init__(self, augment: Augment) -> None:
        self._augment = augment
        a = augment
        self._colour = any((a.brightness, a.contrast, a.saturation, a.hue, a.greyscale))

    def __call__(self, images: Tensor, *, key: tuple[int, ...], first: int = 0) -> Tensor:
        """Augment and standardise.

        Args:
            images: (N, 3, H, W) uint8 RGB on any device.
            key: non-negative integers, such as (seed, stage, iteration, domain); same key, same augmentation.
            first: place of the first image in the batch that the key stands for, of which this may be a process's part.

        Returns:
            (N, 3, H, W) float32, standardised. A blur's standard deviation is uniform in 0.1..2 pixels of a view of
            512 rows, in proportion for other heights. Extra memory: four float32 images.
        """
        draws = generator(*key).random((first + len(images), _DRAWS))[first:]
        # Autocast would multiply colours in bf16, which holds fewer bits of a number than the picture does.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self._apply(images, draws)

    def _apply(self, images: Tensor, draws: np.ndarray) -> Tensor:
        if not self._colour and not self._augment.blur:
            return standardise(images)
        out = images.float()
        if self._colour:
            out = self._recolour(out, draws)
        if self._augment.blur:
            out = self._blur(out, draws)
        scale, offset = _standard(images.device)
        return torch.addcmul(offset, out, scale)

    def _recolour(self, images: Tensor, draws: np.ndarray) -> Tensor:
        """clip(M x + (1 - c) b m): M = greyscale . hue . saturation . c b; m is the sample's mean luma, which hue,
        saturation and greyscale leave alone."""
        a = self._augment
        brightness = _factor(a.brightness, draws[:, 0])
        contrast = _factor(a.contrast, draws[:, 1])
        saturation = _factor(a.saturation, draws[:, 2])
        turn = (2 * draws[:, 3] - 1) * a.hue * 2 * math.pi
        saturation = np.where(draws[:, 4] < a.greyscale, 0.0, saturation)
        # In YIQ, saturation scales the chrominance plane, hue turns it, greyscale empties it.
        chroma = np.zeros((len(draws), 3, 3))
        chroma[:, 0, 0] = 1
        chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(turn)
        chroma[:, 1, 2] = -saturation * np.sin(turn)
        chroma[:, 2, 1] = saturation * np.sin(turn)
        matrix = (contrast * brightness)[:, None, None] * (_FROM_YIQ @ chroma @ _TO_YIQ)
        # The offset's factors are three more columns of the same array, so that one copy to the device is enough.
        packed = np.concatenate([matrix, np.tile(((1 - contrast) * brightness)[:, None, None] * _LUMA, (1, 3, 1))], 2)
        packed_on_device = torch.from_numpy(packed.astype(np.float32)).to(images.device, non_blocking=True)
        flat = images.flatten(2)
        means = flat.mean(2, keepdim=True)
        offset = packed_on_device[..., 3:] @ means
        return torch.baddbmm(offset, packed_on_device[..., :3], flat).clamp_(0, 255).view_as(images)

    def _blur(self, images: Tensor, draws: np.ndarray) -> Tensor:
        chosen = np.flatnonzero(draws[:, 5] < self._augment.blur)
        if not len(chosen):
            return images
        scale = images.shape[2] / _BLUR_HEIGHT
        low, high = (scale * s for s in _BLUR_SIGMA)
        # The radius follows from the largest possible sigma: a sample's blur must not depend on its neighbours'.
        radius = min(max(1, math.ceil(2.5 * high)), min(images.shape[2:]) - 1)
        if radius < 1:
            return images
        taps = _gaussian(low + (high - low) * draws[chosen, 6], radius)
        taps_on_device = torch.from_numpy(taps).to(images.device, non_blocking=True)
        index = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        blurred = _convolve(images[index], taps_on_device, radius)
        return images.index_copy(0, index, blurred)


def _standard(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    packed = torch.stack([1 / (255 * std), -mean / std]).to(device, non_blocking=True)
    return packed[0], packed[1]


def as_pixels(images: Tensor) -> Tensor:
    """The inverse of ``standardise``: (N, 3, H, W) floating-point RGB of 0..255. The host does not wait."""
    scale, offset = _standard(images.device)
    return (images - offset) / scale


def _factor(strength: float, draw: np.ndarray) -> np.ndarray:
    low, high = max(0.0, 1 - strength), 1 + strength
    return low + (high - low) * draw


def _gaussian(sigma: np.ndarray, radius: int) -> np.ndarray:
    """(n, 2 radius + 1) float32 taps that sum to one."""
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    return (taps / taps.sum(1, keepdims=True)).astype(np.float32)


def _convolve(images: Tensor, taps: Tensor, radius: int) -> Tensor:
    """Separable convolution of sample n with the symmetric taps[n], reflecting at the borders.

    Shifted sums: on a CPU eight times as fast as a depthwise convolution of so few taps.
    """
    weights = taps.view(len(images), -1, 1, 1, 1)
    for axis, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        length = images.shape[axis]
        padded = F.pad(images, pad, "reflect")
        images = padded.narrow(axis, radius, length) * weights[:, radius]
        for t in range(radius):
            both = padded.narrow(axis, t, length) + padded.narrow(axis, 2 * radius - t, length)
            images.addcmul_(both, weights[:, t])
    return images
