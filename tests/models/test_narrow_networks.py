"""Narrow networks train on the CPU: their convolutions stay off the shapes for which oneDNN corrupts the heap."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from fastuda.models import ModelConfig, build_model
from fastuda.models.discriminator import PatchDiscriminator
from fastuda.models.resnet import SubsampledConv1x1, conv1x1

# (2, 8, 64, 64) is large enough for torch to choose oneDNN, whose workspace then overflows.
_GRADIENTS = """
import torch
from fastuda.models.resnet import conv1x1
torch.manual_seed(0)
conv = conv1x1(8, 16, 2).to(memory_format=torch.channels_last)
x = torch.randn(2, 8, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
y = conv(x)
slope = torch.randn_like(y)
exact = torch.autograd.grad(
    torch.nn.functional.conv2d(x.double(), conv.weight.double(), stride=2), (x, conv.weight), slope.double()
)
for _ in range(3):
    torch.testing.assert_close(torch.autograd.grad(y, (x, conv.weight), slope, retain_graph=True), exact,
                               rtol=1e-4, atol=1e-3)
"""


def test_gradients_of_a_narrow_strided_projection():
    # In a process of its own: unrepaired, it dies of SIGSEGV or corrupts what later tests stand on.
    done = subprocess.run([sys.executable, "-c", _GRADIENTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_parameters_are_a_plain_convolutions():
    torch.manual_seed(0)
    narrow = conv1x1(8, 16, 2)
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, 1, 2, bias=False)
    assert isinstance(narrow, SubsampledConv1x1) and type(conv1x1(16, 16, 2)) is type(conv1x1(8, 16, 1)) is nn.Conv2d
    assert torch.equal(narrow.state_dict()["weight"], plain.state_dict()["weight"])
    x = torch.randn(2, 8, 7, 10)
    torch.testing.assert_close(narrow(x), plain(x))


@pytest.mark.parametrize("width", [1 / 16, 1 / 8, 3 / 16, 1 / 4])
@pytest.mark.parametrize("graph", ["torchvision", "cpsl"])
@pytest.mark.parametrize(
    "name", ["unet", "deeplab_resnet18", "deeplab_resnet50", "deeplab_resnet101", "deeplab_vgg16", "resnet38"]
)
def test_no_network_has_the_overflowing_convolution(name, graph, width):
    with torch.device("meta"):
        networks = [build_model(ModelConfig(name, width, graph=graph), 5), PatchDiscriminator(5)]
        if name.startswith("deeplab_"):
            networks.append(build_model(ModelConfig(name, width, graph=graph, decoder="aspp_se"), 5))
    for network in networks:
        for key, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and max(module.stride) > 1:
                assert module.in_channels >= 16 or isinstance(module, SubsampledConv1x1), key
