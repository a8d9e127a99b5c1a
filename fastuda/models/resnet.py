"""ResNet backbones at stride 8 (He et al. 2016, dilated as in DeepLab-v2, Chen et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fastuda.models.backbone import Backbone
from fastuda.models.norm import Norm


@dataclass(frozen=True)
class ResNetGraph:
    """What families of released weights compute differently under the same key names."""

    # Convolution of the bottleneck that carries the stride.
    stride_in: Literal["conv1", "conv2"]
    # Round the size after max-pooling up (Caffe) or down.
    ceil_pooling: bool
    # The first 3x3 convolution of a dilated stage keeps the previous stage's dilation: exactly the strided network
    # evaluated densely ("à trous"). False: every block of the stage has the stage's dilation.
    keeps_dilation: bool
    # eps of frozen batch norm.
    frozen_eps: float


GRAPHS = {
    "torchvision": ResNetGraph("conv2", ceil_pooling=False, keeps_dilation=True, frozen_eps=1e-5),
    "sdca": ResNetGraph("conv2", ceil_pooling=False, keeps_dilation=True, frozen_eps=0.0),
    "cpsl": ResNetGraph("conv1", ceil_pooling=True, keeps_dilation=False, frozen_eps=1e-5),
}
_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_STRIDES = (1, 2, 1, 1)
_DILATIONS = (1, 1, 2, 4)


def scaled(channels: int, width: float) -> int:
    """``channels * width`` rounded to a multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


def _conv3x3(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)


class SubsampledConv1x1(nn.Conv2d):
    """Strided 1x1 convolution as one of stride 1 on the pixels it reads."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


def conv1x1(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    # Below 16 inputs in channels_last, oneDNN (3.12, in torch 2.13) computes the weight's gradient of a strided 1x1
    # convolution outside its workspace: wrong values, heap corruption or a crash
    # (https://github.com/uxlfoundation/oneDNN/issues/6035).
    kind = SubsampledConv1x1 if stride > 1 and inputs < 16 else nn.Conv2d
    return kind(inputs, outputs, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the stride is in the first."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, dilations: tuple[int, int], norm: Norm, graph: ResNetGraph
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride, dilations[0])
        self.bn1 = norm(planes)
        self.conv2 = _conv3x3(planes, planes, 1, dilations[1])
        self.bn2 = norm(planes)
        self.downsample = _projection(inputs, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, four times as many channels out as inside."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, dilations: tuple[int, int], norm: Norm, graph: ResNetGraph
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if graph.stride_in == "conv1" else (1, stride)
        self.conv1 = conv1x1(inputs, planes, first)
        self.bn1 = norm(planes)
        self.conv2 = _conv3x3(planes, planes, second, dilations[0])
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = norm(4 * planes)
        self.downsample = _projection(inputs, 4 * planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


def _projection(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride), norm(outputs))


class ResNet(Backbone):
    """(N, 3, H, W) → (N, ``channels``, ⌈H/8⌉, ⌈W/8⌉); ceil pooling adds a cell to most sizes (512 → 65).

    Module names are torchvision's.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], width: float, norm: Norm,
        graph: ResNetGraph,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=graph.ceil_pooling)
        previous = 1
        for stage, (count, stride, dilation) in enumerate(zip(blocks, _STRIDES, _DILATIONS, strict=True)):
            planes = scaled(64 * 2**stage, width)
            layers = []
            for index in range(count):
                first = previous if index == 0 and graph.keeps_dilation else dilation
                layers.append(block(channels, planes, stride if index == 0 else 1, (first, dilation), norm, graph))
                channels = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            previous = dilation
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def segments(self) -> list[list[nn.Module]]:
        # Stages of up to six blocks whole; the 23 of ResNet-101's third in six-block pieces, because recomputing a
        # segment holds all its activations at once.
        stages = [list(stage) for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]
        pieces = [stage[start : start + 6] for stage in stages for start in range(0, len(stage), 6)]
        return [[self.conv1, self.bn1, self.relu, self.maxpool], *pieces]


def resnet(depth: int, width: float, norm: Norm, graph: ResNetGraph = GRAPHS["torchvision"]) -> ResNet:
    """ResNet-18, -50 or -101 at stride 8, channels times ``width`` in multiples of 8."""
    if depth not in _BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, _BLOCKS))}, got {depth}")
    return ResNet(BasicBlock if depth == 18 else Bottleneck, _BLOCKS[depth], width, norm, graph)
