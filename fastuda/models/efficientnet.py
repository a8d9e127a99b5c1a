"""The EfficientNet-Lite0 backbone (Tan & Le 2019; "Lite": no squeeze-excite, ReLU6) at stride 8, 16 or 32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastuda.models.backbone import Backbone
from fastuda.models.norm import Norm
from fastuda.models.resnet import scaled

EPS = 1e-3  # of the published network's batch norms
STRIDES = (8, 16, 32)

_STEM = 32
# Blocks, kernel, stride of the first block, expansion and output channels of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TAPS = (1, 2, 4, 6)  # stages whose maps a pyramid decoder takes: the last ones of strides 4, 8, 16 and 32


class SameConv2d(nn.Conv2d):
    """Square convolution without bias and with TensorFlow's SAME padding: ⌈n / stride⌉ outputs of n inputs.

    A strided one of an even number of inputs has one more row or column of zeros behind the image than before it.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        padding = 0 if stride > 1 else dilation * (size // 2)
        super().__init__(inputs, outputs, size, stride, padding, dilation, groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            x = F.pad(x, (*self._zeros(x.shape[-1]), *self._zeros(x.shape[-2])))
        return super().forward(x)

    def _zeros(self, length: int) -> tuple[int, int]:
        stride, size = self.stride[0], self.kernel_size[0]
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution and 1x1 projection, whose output is not rectified (Sandler et al. 2018)."""

    def __init__(
        self, inputs: int, outputs: int, size: int, expansion: int, stride: int, dilation: int, residual: bool,
        norm: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = inputs * expansion
        self.residual = residual
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, size, stride, dilation, groups=hidden)
        self._bn1 = norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        out = F.relu6(self._bn1(self._depthwise_conv(out)), inplace=True)
        out = self._bn2(self._project_conv(out))
        return out + x if self.residual else out


class EfficientNetLite0(Backbone):
    """(N, 3, H, W) → (N, ``channels``, ⌈H/stride⌉, ⌈W/stride⌉); the values of the maps have both signs.

    ``pyramid`` gives maps of strides 4, 8, 16 and 32, none above ``stride``.  Below 32, stages are dilated instead of
    strided: for sizes that 32 divides, the last map at stride 32 is exactly every second one at stride 16, from row and
    column 1 on, and every fourth one at stride 8, from 3 on.  Drop-connect, which only regularises training from
    scratch, is left out.  Module names are those of the published PyTorch weights.
    ValueError for another stride than 8, 16 or 32.
    """

    def __init__(self, width: float, norm: Norm, stride: int = 32) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"the stride of EfficientNet-Lite0 must be 8, 16 or 32, got {stride}")
        channels = scaled(_STEM, width)
        self._conv_stem = SameConv2d(3, channels, 3, 2)
        self._bn0 = norm(channels)
        self.relu = nn.ReLU6(inplace=True)
        blocks, self._stages, outputs_of = [], [], []
        reached, dilation = 2, 1
        for count, size, step, expansion, width_of_stage in _STAGES:
            outputs = scaled(width_of_stage, width)
            self._stages.append((len(blocks), len(blocks) + count))
            # A dilated stage computes what the strided one does, densely: its first block has the dilation before it.
            dilated = step > 1 and reached == stride
            reached *= 1 if dilated else step
            for index in range(count):
                first = index == 0
                moves = step if first and not dilated else 1
                blocks.append(InvertedResidual(channels, outputs, size, expansion, moves, dilation, not first, norm))
                dilation *= 2 if first and dilated else 1
                channels = outputs
            outputs_of.append(outputs)
        self._blocks = nn.ModuleList(blocks)
        self.channels, self.taps = channels, _TAPS
        self.pyramid_channels = tuple(outputs_of[stage] for stage in _TAPS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.groups > 1:
                    # torch counts the outputs of all groups as those of one.
                    module.weight.data.mul_(module.groups**0.5)

    def segments(self) -> list[list[nn.Module]]:
        stages = [list(self._blocks[start:stop]) for start, stop in self._stages]
        return [[self._conv_stem, self._bn0, self.relu, *stages[0]], *stages[1:]]
