"""The decoder of CPSL's and ProDA's released networks: a pyramid to features, a classifier of one convolution."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from fastuda.models.backbone import Backbone
from fastuda.models.deeplab import RATES, DeepLab
from fastuda.models.dropout import Dropout2d
from fastuda.models.norm import Norm
from fastuda.models.output import Output
from fastuda.models.resnet import scaled

_GROUPS = 32
_DROPOUT = 0.1  # of whole channels before the classifier


class SqueezeExcite(nn.Module):
    """(N, C, h, w) → the same, each channel times a sigmoid of all channels' means (Hu et al. 2018, reduction 16)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // 16)
        self.se = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x.mean((2, 3)))[:, :, None, None]


class SqueezeExciteASPP(nn.Module):
    """(N, A, h, w) → ``Output``: features (N, 256 width, h, w) and logits (N, K, h, w).

    Branches of a 1x1 and four 3x3 convolutions of dilation 6, 12, 18 and 24, each with group norm and ReLU, side by
    side; squeeze-excite, a 3x3 convolution and group norm make the features, which therefore have both signs; channel
    dropout and a 1x1 convolution without bias classify them.  Group norm keeps no statistics, so no domain's either.

    norm: a batch norm of the backbone's features first, as the students have that start from self-supervised weights.
    Submodules are named as the released checkpoints name them.
    """

    def __init__(self, channels: int, num_classes: int, width: float = 1.0, norm: Norm | None = None) -> None:
        super().__init__()
        self.width = scaled(256, width)
        self.bn_pretrain = nn.Identity() if norm is None else norm(channels)
        self.conv2d_list = nn.ModuleList(
            nn.Sequential(_conv(channels, self.width, rate), group_norm(self.width), nn.ReLU(inplace=True))
            for rate in (0, *RATES)
        )
        joined = self.width * len(self.conv2d_list)
        self.bottleneck = nn.Sequential(
            SqueezeExcite(joined), _conv(joined, self.width, rate=1), group_norm(self.width)
        )
        self.head = nn.Sequential(Dropout2d(_DROPOUT), nn.Conv2d(self.width, num_classes, 1, bias=False))
        nn.init.normal_(self.head[1].weight, std=0.01)

    def forward(self, x: Tensor) -> Output:
        x = self.bn_pretrain(x)
        features = self.bottleneck(torch.cat([branch(x) for branch in self.conv2d_list], 1))
        return Output(features, self.head(features))


class DecoderDeepLab(DeepLab):
    """images (N, 3, H, W), standardised → ``Output``, whose features are the decoder's instead of the backbone's."""

    def __init__(
        self, backbone: Backbone, num_classes: int, dropout: float = 0.0, width: float = 1.0, norm: Norm | None = None
    ) -> None:
        super().__init__(backbone, num_classes, dropout, partial(SqueezeExciteASPP, width=width, norm=norm))
        self.feature_channels = self.classifier.width

    def forward(self, images: Tensor) -> Output:
        return self.classifier(self.dropout(self.backbone(images)))


def _conv(inputs: int, outputs: int, rate: int) -> nn.Conv2d:
    """3x3 of dilation ``rate``, 1x1 for 0."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate) if rate else nn.Conv2d(inputs, outputs, 1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return conv


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm in 32 groups, or as many as divide both numbers."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
