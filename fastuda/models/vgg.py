"""The VGG-16 backbone of DeepLab-v2 (Simonyan & Zisserman 2015; Chen et al. 2017, "LargeFOV") at stride 8."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from fastuda.models.backbone import Backbone
from fastuda.models.dropout import Dropout
from fastuda.models.resnet import scaled

# Convolutions of each of the five stages, and their channels.
_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class VGG16(Backbone):
    """(N, 3, H, W) → (N, ``channels``, ⌊H/8⌋, ⌊W/8⌋), non-negative.

    Module names are torchvision's (``features.N``); fc6 and fc7 are 3x3 convolutions of dilation 4 with ``channels``
    outputs (1024 at width 1). Fifth stage dilated by 2.
    released: the form of the public adaptation code (AdaptSegNet, SDCA, SPCL), without pool4 and pool5 and without
    dropout; otherwise both pool 3x3 at stride 1 and dropout 0.5 follows fc6 (and fc7, in ``DeepLab``).
    """

    # ImageNet's fc6 and fc7 are fully connected.
    fresh = ("fc6", "fc7")

    def __init__(self, width: float, released: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage, (count, channels) in enumerate(_STAGES, start=1):
            dilation = 2 if stage == 5 else 1
            for _ in range(count):
                layers += [
                    nn.Conv2d(inputs, scaled(channels, width), 3, 1, dilation, dilation),
                    nn.ReLU(inplace=True),
                ]
                inputs = scaled(channels, width)
            if stage <= 3:
                layers.append(nn.MaxPool2d(2, 2))
            else:
                # Identity keeps torchvision's numbers for the convolutions behind it.
                layers.append(nn.Identity() if released else nn.MaxPool2d(3, 1, 1))
        self.features = nn.Sequential(*layers)
        self.channels = scaled(1024, width)
        self.fc6 = nn.Conv2d(inputs, self.channels, 3, 1, 4, 4)
        self.fc7 = nn.Conv2d(self.channels, self.channels, 3, 1, 4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Identity() if released else Dropout(0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def segments(self) -> list[list[nn.Module]]:
        # Cut behind the pools, where the map to keep is smallest.
        cuts = (0, 5, 10, 17, 24, 31)
        stages = [list(self.features[start:stop]) for start, stop in pairwise(cuts)]
        return [*stages, [self.fc6, self.relu, self.dropout, self.fc7, self.relu]]


def vgg16(width: float = 1.0, released: bool = False) -> VGG16:
    """VGG-16 at stride 8, channels times ``width`` in multiples of 8."""
    return VGG16(width, released)
