"""A small encoder-decoder for training from scratch on a laptop's CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.models.output import Output

Norm = Callable[[int], nn.Module]


def _conv(inputs: int, outputs: int, norm: Norm, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False), norm(outputs), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016), optionally dilated."""

    def __init__(self, channels: int, norm: Norm, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels, norm, dilation=dilation)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False), norm(channels))

    def forward(self, inputs: Tensor) -> Tensor:
        return F.relu(inputs + self.second(self.first(inputs)))


class UNet(nn.Module):
    """Encoder to stride 16 with residual blocks, decoder back to stride 2 by bilinear upsampling and skips.

    The features are the decoder's last map: (N, A, H/2, W/2), A = ``feature_channels``; logits are a 1x1 convolution
    of them at the same resolution.  Width 1 has 0.9 M parameters; every width is a multiple of 8 channels.
    """

    def __init__(self, num_classes: int, width: float, norm: Norm) -> None:
        super().__init__()
        a, b, c, d = (max(8, round(base * width / 8) * 8) for base in (24, 48, 80, 128))
        self.stride2 = _conv(3, a, norm, stride=2)
        self.stride4 = nn.Sequential(_conv(a, b, norm, stride=2), _Residual(b, norm))
        self.stride8 = nn.Sequential(_conv(b, c, norm, stride=2), _Residual(c, norm))
        self.stride16 = nn.Sequential(_conv(c, d, norm, stride=2), _Residual(d, norm), _Residual(d, norm, dilation=2))
        self.up8 = _conv(d + c, c, norm)
        self.up4 = _conv(c + b, b, norm)
        self.up2 = _conv(b + a, b, norm)
        self.classifier = nn.Conv2d(b, num_classes, 1)
        self.feature_channels = b

    def forward(self, images: Tensor) -> Output:
        stride2 = self.stride2(images)
        stride4 = self.stride4(stride2)
        stride8 = self.stride8(stride4)
        features = self.stride16(stride8)
        for skip, block in ((stride8, self.up8), (stride4, self.up4), (stride2, self.up2)):
            features = F.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            features = block(torch.cat((features, skip), 1))
        return Output(features, self.classifier(features))

    def classifier_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.classifier.parameters() if p.requires_grad]

    def backbone_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if not name.startswith("classifier.") and p.requires_grad]
