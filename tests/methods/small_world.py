"""Two tiny domains in memory, for the methods' tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from fastuda.data.batch import Batch

K = 5


def batch(seed: int, labelled: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 32, 48, generator=generator)
    labels = torch.randint(0, K, (2, 32, 48), generator=generator).to(torch.uint8)
    labels[:, :4] = 255
    return Batch(images, labels if labelled else None, torch.arange(2))


class MemoryPasses:
    """Passes over two batches in memory."""

    target_images = 4

    def __init__(self) -> None:
        self.saved: dict[int, torch.Tensor] = {}

    def source(self):
        yield from (batch(0), batch(2))

    def target(self):
        yield from (batch(1, labelled=False), replace(batch(3, labelled=False), index=torch.tensor([2, 3])))

    def save_pseudo_labels(self, index, labels):
        self.saved |= dict(zip(index.tolist(), labels, strict=True))
