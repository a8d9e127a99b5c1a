"""A class-balanced sample of the pixels of any number of images, in memory that does not grow with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastuda.ops import _checks


class PixelSample(nn.Module):
    """At most ``per_class`` pixels of each class, drawn evenly without replacement from all pixels seen so far.

    Each pixel draws a key; the ``per_class`` smallest keys of a class are its sample, so a class's pixels have the same
    chance whatever image they come from (reservoir sampling).  Buffers: ``features`` float32 (K, per_class, A) and
    ``keys`` float64 (K, per_class), infinite where a class has fewer pixels.  The keys come from the CPU, so the same
    seed and pixels give the same sample on every device.  Raises ValueError for sizes below 1.
    """

    def __init__(self, num_classes: int, channels: int, per_class: int, seed: int = 0) -> None:
        super().__init__()
        if min(num_classes, channels, per_class) < 1:
            sizes = f"{num_classes}, {channels} and {per_class}"
            raise ValueError(f"num_classes, channels and per_class must be at least 1, got {sizes}")
        self.num_classes, self.per_class = num_classes, per_class
        self.generator = torch.Generator().manual_seed(seed)
        self.register_buffer("features", torch.zeros(num_classes, per_class, channels))
        self.register_buffer("keys", torch.full((num_classes, per_class), torch.inf, dtype=torch.float64))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add pixels: features (N, A, H, W) or (P, A), labels at their resolution; those outside 0..K-1 are left out.

        No host synchronisation beyond the keys' copy to the device.  Memory: four float64 numbers a pixel.  Raises
        ValueError for what does not fit.
        """
        _checks.pixels(features, labels)
        if features.shape[1] != self.features.shape[2]:
            raise ValueError(f"features have {features.shape[1]} channels, the sample {self.features.shape[2]}")
        if not labels.numel():
            return
        rows, label, most = features.movedim(1, -1).flatten(0, -2), labels.flatten(), self.per_class
        keys = torch.rand(len(rows), dtype=torch.float64, generator=self.generator).to(label.device)
        for k in range(self.num_classes):
            both = torch.cat([self.keys[k], keys.masked_fill(label != k, torch.inf)])
            self.keys[k], place = both.topk(most, largest=False)
            held = self.features[k, place.clamp(max=most - 1)]
            new = rows[(place - most).clamp(min=0)].to(held.dtype)
            self.features[k] = torch.where((place < most).unsqueeze(1), held, new)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Features float32 (n, A) and labels int64 (n,) of the sample, class after class (waits for the device)."""
        drawn = self.keys.isfinite()
        return self.features[drawn], drawn.nonzero()[:, 0]
