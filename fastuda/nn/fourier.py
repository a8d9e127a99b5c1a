"""Input-space adaptation without a network: the target's colours by its low frequencies (FDA)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def swap_amplitude(source: Tensor, target: Tensor, beta: float = 0.01) -> Tensor:
    """Source images (N, 3, H, W) with the low-frequency amplitudes of target ones (N, 3, h, w), float32.

    FDA (Yang and Soatto, CVPR 2020, Eq. 3-4): the amplitudes of the Fourier transform in the square of side 2 b + 1
    around frequency 0, b = floor(beta min(H, W)), come from the target, all phases from the source.  b = 0 swaps the
    mean of each channel alone.  Targets of another size are scaled to the source's.  Raises ValueError for beta outside
    0..0.5 or numbers of images that differ.
    """
    if not 0 <= beta <= 0.5:
        raise ValueError(f"beta must be between 0 and 0.5, got {beta}")
    if source.shape[:2] != target.shape[:2]:
        raise ValueError(f"source and target must be as many, got {tuple(source.shape)} and {tuple(target.shape)}")
    size = source.shape[-2:]
    source, target = source.float(), target.float()
    if target.shape[-2:] != size:
        target = F.interpolate(target, size=size, mode="bilinear", align_corners=False, antialias=True)
    spectrum, other = torch.fft.rfft2(source), torch.fft.rfft2(target)
    height, width, b = *spectrum.shape[-2:], int(beta * min(size))
    rows = torch.arange(height, device=source.device)
    low = (torch.minimum(rows, height - rows) <= b).unsqueeze(1) & (torch.arange(width, device=source.device) <= b)
    amplitude = torch.where(low, other.abs(), spectrum.abs())
    # A zero keeps its own phase, 0: polar form would divide by it.
    return torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=size)
