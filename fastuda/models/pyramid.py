"""Light decoders of maps at several strides: a feature pyramid, and the head of SegFormer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.models.backbone import Backbone
from fastuda.models.decoder import group_norm
from fastuda.models.deeplab import DeepLab
from fastuda.models.dropout import Dropout2d
from fastuda.models.output import Output
from fastuda.models.resnet import scaled

Decoder = Callable[[Sequence[int], int], nn.Module]

_FPN_WIDTH = 64
_MLP_WIDTH = 256
_DROPOUT = 0.1  # of whole channels before the classifier of the MLP head


class FPN(nn.Module):
    """Maps (N, A_i, h_i, w_i), the finest first → ``Output`` at the finest map's size: features (N, 64 width, h, w).

    A feature pyramid (Lin et al. 2017): each map by a 1x1 convolution, added to the upsampled sum of the coarser ones;
    a 3x3 convolution of the finest sum makes the features, a 1x1 convolution classifies them.  Group norm follows all
    but the classifier: it keeps no statistics, so no domain's either.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        self.width = scaled(_FPN_WIDTH, width)
        self.laterals = nn.ModuleList(_conv(inputs, self.width, 1) for inputs in channels)
        self.smooth = nn.Sequential(*_conv(self.width, self.width, 3), nn.ReLU(inplace=True))
        self.classifier = _classifier(self.width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Output:
        *finer, total = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for lateral in reversed(finer):
            total = lateral + _resized(total, lateral)
        features = self.smooth(total)
        return Output(features, self.classifier(features))


class MLPHead(nn.Module):
    """Maps (N, A_i, h_i, w_i), the finest first → ``Output`` at the finest map's size: features (N, 256 width, h, w).

    SegFormer's decoder (Xie et al. 2021): each map by a 1x1 convolution, upsampled, all side by side through another
    1x1 convolution; dropout and a 1x1 convolution classify.  Group norm instead of its batch norm, as in ``FPN``.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        self.width = scaled(_MLP_WIDTH, width)
        self.linear = nn.ModuleList(nn.Conv2d(inputs, self.width, 1) for inputs in channels)
        self.fuse = nn.Sequential(*_conv(self.width * len(channels), self.width, 1), nn.ReLU(inplace=True))
        self.dropout = Dropout2d(_DROPOUT)
        self.classifier = _classifier(self.width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Output:
        projected = [linear(x) for linear, x in zip(self.linear, maps, strict=True)]
        features = self.fuse(torch.cat([_resized(x, projected[0]) for x in projected], 1))
        return Output(features, self.classifier(self.dropout(features)))


DECODERS: dict[str, type[nn.Module]] = {"fpn": FPN, "mlp": MLPHead}


class PyramidNet(DeepLab):
    """images (N, 3, H, W), standardised → ``Output`` at the stride of the backbone's finest map, by ``DECODERS``."""

    def __init__(self, backbone: Backbone, num_classes: int, decoder: str, width: float = 1.0) -> None:
        made = partial(DECODERS[decoder], backbone.pyramid_channels, width=width)
        super().__init__(backbone, num_classes, 0.0, lambda _, classes: made(num_classes=classes))
        self.feature_channels = self.classifier.width

    def forward(self, images: Tensor) -> Output:
        return self.classifier(self.backbone.pyramid(images))


def _conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, group_norm(outputs))


def _classifier(inputs: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv


def _resized(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
