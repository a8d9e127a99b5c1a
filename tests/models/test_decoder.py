"""The released decoder of CPSL and ProDA: what it computes, and the checkpoints that hold it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastuda.models import ModelConfig, build_model, load_weights, use_domain
from fastuda.models.decoder import SqueezeExciteASPP
from fastuda.models.norm import batch_norms

K = 5


def released_state(channels: int, width: int, classes: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A decoder's tensors as the released files name them, without their prefix layer5."""
    shapes = {}
    for branch in range(5):
        side = 1 if branch == 0 else 3
        shapes[f"conv2d_list.{branch}.0.weight"] = (width, channels, side, side)
        shapes[f"conv2d_list.{branch}.0.bias"] = (width,)
        shapes |= {f"conv2d_list.{branch}.1.{name}": (width,) for name in ("weight", "bias")}
    joined = 5 * width
    shapes |= {"bottleneck.0.se.0.weight": (joined // 16, joined), "bottleneck.0.se.0.bias": (joined // 16,)}
    shapes |= {"bottleneck.0.se.2.weight": (joined, joined // 16), "bottleneck.0.se.2.bias": (joined,)}
    shapes |= {"bottleneck.1.weight": (width, joined, 3, 3), "bottleneck.1.bias": (width,)}
    shapes |= {"bottleneck.2.weight": (width,), "bottleneck.2.bias": (width,), "head.1.weight": (classes, width, 1, 1)}
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator) / max(1, shape[1:].numel() if len(shape) > 1 else 1) ** 0.5
        for key, shape in ((key, torch.Size(shape)) for key, shape in shapes.items())
    }


def transcribed(state: dict[str, torch.Tensor], x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits in float64, from the tensors of a file and nothing of the implementation."""
    w = {key: value.double() for key, value in state.items()}

    def group_norm(y, name):
        n, c, height, width = y.shape
        y = y.reshape(n, groups, -1)
        y = (y - y.mean(2, keepdim=True)) / (y.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return y.reshape(n, c, height, width) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    branches = []
    for number, rate in enumerate((0, 6, 12, 18, 24)):
        name = f"conv2d_list.{number}"
        y = F.conv2d(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"], padding=rate, dilation=max(rate, 1))
        branches.append(group_norm(y, f"{name}.1").clamp(min=0))
    y = torch.cat(branches, 1)
    squeezed = (y.mean((2, 3)) @ w["bottleneck.0.se.0.weight"].T + w["bottleneck.0.se.0.bias"]).clamp(min=0)
    gate = 1 / (1 + (-(squeezed @ w["bottleneck.0.se.2.weight"].T) - w["bottleneck.0.se.2.bias"]).exp())
    y = F.conv2d(y * gate[:, :, None, None], w["bottleneck.1.weight"], w["bottleneck.1.bias"], padding=1)
    features = group_norm(y, "bottleneck.2")
    return features, torch.einsum("nahw,kaij->nkhw", features, w["head.1.weight"])


def deeplab(seed: int = 0, **settings) -> nn.Module:
    torch.manual_seed(seed)
    settings = {"name": "deeplab_resnet18", "width": 0.125, "graph": "cpsl", "decoder": "aspp_se"} | settings
    return build_model(ModelConfig(**settings), K)


def test_names_and_shapes_are_the_released_ones():
    with torch.device("meta"):
        own = SqueezeExciteASPP(2048, 19).state_dict()
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in released_state(2048, 256, 19).items()
    }


def test_it_computes_the_transcription():
    state, x = released_state(24, 64, K), torch.randn(2, 24, 9, 11, dtype=torch.float64)
    decoder = SqueezeExciteASPP(24, K, width=0.25).double().eval()
    decoder.load_state_dict(state)
    for actual, expected in zip(decoder(x), transcribed(state, x, groups=32), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["deeplab_resnet18", "deeplab_resnet50", "deeplab_vgg16"])
def test_features_are_the_decoders(name):
    model = deeplab(name=name).eval()
    features, logits = model(torch.randn(2, 3, 64, 80))
    assert model.feature_channels == 32 and features.shape == (2, 32, *logits.shape[2:])
    assert logits.shape[:2] == (2, K) and features.min() < 0
    torch.testing.assert_close(
        logits, torch.einsum("nahw,ka->nkhw", features, model.classifier.head[1].weight[..., 0, 0])
    )
    with torch.device("meta"):
        assert build_model(ModelConfig("deeplab_resnet101", decoder="aspp_se"), 19).feature_channels == 256


def test_dropout_is_behind_the_features():
    model = deeplab().train()
    for layer in batch_norms(model).values():
        layer.eval()
    images = torch.randn(1, 3, 64, 64)
    one, two = model(images), model(images)
    assert torch.equal(one.features, two.features) and not torch.equal(one.logits, two.logits)


def test_group_norm_knows_no_domain():
    model, x = deeplab(), torch.randn(2, 64, 8, 8)
    decoder = model.classifier
    assert not batch_norms(decoder) and not list(decoder.buffers()) and batch_norms(model)
    model.eval()
    with use_domain(model, "target"):
        on_target = decoder(x)
    assert torch.equal(on_target.logits, decoder(x).logits)
    assert torch.equal(decoder.train()(x).features, on_target.features)


@pytest.mark.parametrize("decoder", ["aspp_se", "aspp_se_norm"])
@pytest.mark.parametrize("norm", ["trained", "frozen", "per_domain"])
def test_parameter_lists_are_disjoint_and_complete(norm, decoder):
    model = deeplab(norm=norm, decoder=decoder)
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    classifier = {id(parameter) for parameter in model.classifier_parameters()}
    assert backbone and not backbone & classifier
    assert backbone | classifier == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in model.classifier.head.parameters()} <= classifier


def released_file(model: nn.Module, path, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    """Write a file of CPSL's release with the backbone of ``model``, and return its decoder."""
    backbone = {
        key.removeprefix("backbone."): v for key, v in model.state_dict().items() if key.startswith("backbone.")
    }
    decoder = released_state(64, 32, K)
    state = backbone | {f"layer5.{key}": value for key, value in decoder.items()} | extra
    torch.save({"ResNet101": {"model_state": state}, "iter": 3}, path)
    return decoder


@pytest.mark.parametrize("norm", ["trained", "frozen", "per_domain"])
def test_a_released_checkpoint_fills_backbone_and_decoder(tmp_path, norm):
    one = deeplab(norm="trained").eval()
    for key, buffer in one.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    decoder = released_file(one, tmp_path / "w.pth")
    two = deeplab(1, norm=norm).eval()
    report = load_weights(two, tmp_path / "w.pth")
    assert report.family == "cpsl" and report.share == 1.0
    assert report.missing == report.unexpected == report.shape_mismatch == ()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = transcribed(decoder, one.double().backbone(images.double()), groups=32)
        for domain in ("source", "target"):
            with use_domain(two, domain):
                for ours, right in zip(two(images), expected, strict=True):
                    torch.testing.assert_close(ours.double(), right, rtol=1e-3, atol=1e-3)


def test_a_distilled_students_batch_norm_needs_its_place(tmp_path):
    one, path = deeplab(), tmp_path / "w.pth"
    norm = {f"bn_pretrain.{key}": torch.rand(64) + 0.5 for key in ("weight", "bias", "running_mean", "running_var")}
    released_file(one, path, **norm, **{"bn_pretrain.num_batches_tracked": torch.tensor(7)})
    with pytest.raises(ValueError, match="set model.decoder to aspp_se_norm"):
        deeplab(weights=str(path))
    two = deeplab(decoder="aspp_se_norm").eval()
    report = load_weights(two, path)
    assert report.share == 1.0 and report.missing == report.unexpected == ()
    x = torch.randn(1, 64, 8, 8)
    shaped = [norm[f"bn_pretrain.{key}"].view(-1, 1, 1) for key in ("weight", "bias", "running_mean", "running_var")]
    weight, bias, mean, var = shaped
    for domain in ("source", "target"):
        with use_domain(two, domain):
            torch.testing.assert_close(two.classifier.bn_pretrain(x), (x - mean) / (var + 1e-5).sqrt() * weight + bias)


@pytest.mark.parametrize("name", ["unet", "resnet38"])
def test_other_networks_have_no_place_for_it(name):
    with pytest.raises(ValueError, match="model.decoder 'aspp_se' is for the deeplab networks"):
        deeplab(name=name)
