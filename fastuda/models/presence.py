"""Which classes occur in an image: the image-level head of MLSL."""

from __future__ import annotations

from torch import Tensor, nn


class PresenceHead(nn.Module):
    """(N, A, h, w) features → (N, K) logits of each class being in the image (MLSL Sec. 4.1.2).

    1x1 and 3x3 convolution to ``width`` channels, mean over the image, 512 and K fully connected; ReLU between all.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 2048) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.classes = nn.Sequential(nn.Linear(width, 512), nn.ReLU(inplace=True), nn.Linear(512, num_classes))

    def forward(self, features: Tensor) -> Tensor:
        return self.classes(self.convs(features).mean((2, 3)))
