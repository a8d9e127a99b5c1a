"""ResNet-38, the wide and shallow network "A1" of Wu et al. 2016 (Wider or Deeper), at stride 8."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastuda.models.backbone import Backbone
from fastuda.models.dropout import Dropout
from fastuda.models.norm import Norm
from fastuda.models.resnet import conv1x1, scaled

# Blocks 2 to 7: units, channels of each unit's convolutions, stride of the first unit, dilation, dropout.
_BLOCKS = (
    (3, (128, 128), 2, 1, 0.0),
    (3, (256, 256), 2, 1, 0.0),
    (6, (512, 512), 2, 1, 0.0),
    (3, (512, 1024), 1, 2, 0.0),
    (1, (512, 1024, 2048), 1, 4, 0.3),
    (1, (1024, 2048, 4096), 1, 4, 0.5),
)


class PreActivation(nn.Module):
    """Norm and ReLU first, then two 3x3 convolutions, or 1x1, 3x3 and 1x1, beside the input or a projection of it."""

    def __init__(
        self, inputs: int, channels: tuple[int, ...], stride: int, dilation: int, dropout: float, norm: Norm
    ) -> None:
        super().__init__()
        self.bn1 = norm(inputs)
        sizes = (3, 3) if len(channels) == 2 else (1, 3, 1)
        layers: list[nn.Module] = []
        before = inputs
        for number, (size, outputs) in enumerate(zip(sizes, channels, strict=True)):
            if number:
                layers += [norm(before), nn.ReLU(inplace=True)]
            if number and number == len(channels) - 1 and dropout:
                layers.append(Dropout(dropout))
            step, reach = (stride if number == 0 else 1), (dilation if size == 3 else 1)
            layers.append(nn.Conv2d(before, outputs, size, step, reach * (size // 2), reach, bias=False))
            before = outputs
        self.convs = nn.Sequential(*layers)
        same = stride == 1 and inputs == before
        self.projection = None if same else conv1x1(inputs, before, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        return self.convs(activated) + (x if self.projection is None else self.projection(activated))


class WideResNet38(Backbone):
    """(N, 3, H, W) → (N, ``channels`` = 4096 width, ⌈H/8⌉, ⌈W/8⌉)."""

    def __init__(self, width: float, norm: Norm) -> None:
        super().__init__()
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for number, (units, planes, stride, dilation, dropout) in enumerate(_BLOCKS, start=2):
            outputs = tuple(scaled(plane, width) for plane in planes)
            block = []
            for unit in range(units):
                block.append(PreActivation(channels, outputs, stride if unit == 0 else 1, dilation, dropout, norm))
                channels = outputs[-1]
            self.add_module(f"block{number}", nn.Sequential(*block))
        self.bn = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def segments(self) -> list[list[nn.Module]]:
        blocks = [list(getattr(self, f"block{number}")) for number in range(2, 2 + len(_BLOCKS))]
        return [[self.conv1, *blocks[0]], *blocks[1:-1], [*blocks[-1], self.bn, self.relu]]


class TwoConvolutions(nn.Sequential):
    """(N, A, h, w) → (N, K, h, w): 3x3 to 512 channels, ReLU, 3x3 to the classes, both of dilation 12 (MLSL)."""

    def __init__(self, channels: int, num_classes: int, width: int = 512) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=12, dilation=12),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, 3, padding=12, dilation=12),
        )
        for conv in (self[0], self[2]):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
