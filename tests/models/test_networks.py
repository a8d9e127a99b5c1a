import pytest
import torch
from torch import nn

from fastuda.models import ModelConfig, build_model, use_domain
from fastuda.models.norm import batch_norms, norm_factory
from fastuda.models.resnet import GRAPHS, resnet
from fastuda.models.vgg import vgg16

DEEPLABS = ["deeplab_resnet18", "deeplab_resnet50", "deeplab_resnet101", "deeplab_vgg16"]
SMALL = {"width": 0.125}


def small(name: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, **SMALL, **settings), 5)


@pytest.mark.parametrize("name", ["deeplab_resnet18", "deeplab_resnet50", "deeplab_resnet101"])
@pytest.mark.parametrize(("size", "cells"), [((64, 80), (8, 10)), ((61, 83), (8, 11))])
def test_resnet_shapes(name, size, cells):
    model = small(name)
    features, logits = model(torch.randn(2, 3, *size))
    assert features.shape == (2, model.feature_channels, *cells) and logits.shape == (2, 5, *cells)


@pytest.mark.parametrize("graph", ["torchvision", "sdca"])
@pytest.mark.parametrize(("size", "cells"), [((64, 80), (8, 10)), ((61, 83), (7, 10))])
def test_vgg_shapes(graph, size, cells):
    features, logits = small("deeplab_vgg16", graph=graph)(torch.randn(1, 3, *size))
    assert features.shape == (1, 128, *cells) and logits.shape == (1, 5, *cells)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_176_512), (50, 23_508_032), (101, 42_500_160)])
def test_resnet_parameter_counts_are_torchvisions_without_fc(depth, count):
    with torch.device("meta"):
        net = resnet(depth, 1.0, norm_factory("trained"))
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_vgg_parameter_count_is_torchvisions_features():
    with torch.device("meta"):
        net = vgg16()
    assert sum(parameter.numel() for parameter in net.features.parameters()) == 14_714_688
    assert net.channels == 1024 and net.fc6.weight.shape == (1024, 512, 3, 3)


def test_names_are_torchvisions():
    with torch.device("meta"):
        keys = resnet(101, 1.0, norm_factory("trained")).state_dict().keys()
        vgg = [name for name, module in vgg16().named_modules() if isinstance(module, nn.Conv2d)]
    assert len(keys) == 624  # 626 with fc
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer3.22.conv3.weight"} <= keys
    assert vgg == [f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)] + ["fc6", "fc7"]


def geometry(net: nn.Module, layer: str) -> list[tuple[int, int]]:
    """(stride, dilation) of the first and the second block's 3x3 convolution."""
    return [(block.conv2.stride[0], block.conv2.dilation[0]) for block in list(net.get_submodule(layer).children())[:2]]


def test_dilations_and_strides_of_the_graphs():
    with torch.device("meta"):
        nets = {name: resnet(50, 1.0, norm_factory("frozen"), graph) for name, graph in GRAPHS.items()}
    for name in ("torchvision", "sdca"):
        net = nets[name]
        assert geometry(net, "layer2") == [(2, 1), (1, 1)] and net.layer2[0].conv1.stride == (1, 1)
        assert geometry(net, "layer3") == [(1, 1), (1, 2)] and geometry(net, "layer4") == [(1, 2), (1, 4)]
        assert not net.maxpool.ceil_mode
    net = nets["cpsl"]
    assert geometry(net, "layer2") == [(1, 1), (1, 1)] and net.layer2[0].conv1.stride == (2, 2)
    assert geometry(net, "layer3") == [(1, 2), (1, 2)] and geometry(net, "layer4") == [(1, 4), (1, 4)]
    assert net.maxpool.ceil_mode
    epsilons = [
        {layer.eps for layer in batch_norms(small("deeplab_resnet18", norm=norm, graph="sdca")).values()}
        for norm in ("frozen", "trained")
    ]
    assert epsilons == [{0.0}, {1e-5}]


@pytest.mark.parametrize("depth", [18, 50])
def test_dilated_network_is_the_strided_one_evaluated_densely(depth):
    torch.manual_seed(0)
    dense = resnet(depth, 0.125, norm_factory("frozen"))
    strided = resnet(depth, 0.125, norm_factory("frozen"))
    strided.load_state_dict(dense.state_dict())
    for stage in (strided.layer3, strided.layer4):
        for module in stage.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (1, 1)
        (stage[0].conv1 if depth == 18 else stage[0].conv2).stride = (2, 2)
        stage[0].downsample[0].stride = (2, 2)
    images = torch.randn(1, 3, 75, 100)
    with torch.no_grad():
        expected = strided(images)
        torch.testing.assert_close(dense(images)[:, :, ::4, ::4], expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_width_rounds_to_multiples_of_8():
    with torch.device("meta"):
        net = resnet(50, 0.3, norm_factory("trained"))
    assert net.conv1.out_channels == 16 and net.channels == 4 * 152
    assert {p.shape[0] % 8 for p in net.parameters()} == {0}


def test_aspp_is_four_dilated_convolutions_summed():
    model = small("deeplab_resnet18")
    convs = list(model.classifier.conv2d_list)
    assert [conv.dilation[0] for conv in convs] == [6, 12, 18, 24] == [conv.padding[0] for conv in convs]
    features, logits = model(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(logits, sum(conv(features) for conv in convs))
    weights = torch.cat([conv.weight.flatten() for conv in convs])
    assert 0.009 < weights.std() < 0.011


def test_gradient_flows_from_the_features():
    model = small("deeplab_resnet18")
    model(torch.randn(2, 3, 32, 32)).features.square().mean().backward()
    assert model.backbone.conv1.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


@pytest.mark.parametrize("norm", ["trained", "frozen", "per_domain"])
@pytest.mark.parametrize("name", ["unet", *DEEPLABS])
def test_parameter_lists_are_disjoint_and_complete(name, norm):
    model = small(name, norm=norm)
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    classifier = {id(parameter) for parameter in model.classifier_parameters()}
    trains = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert backbone and classifier and not backbone & classifier and backbone | classifier == trains
    if norm == "frozen" and name != "deeplab_vgg16":
        assert len(trains) < len(list(model.parameters()))


def test_vgg_dropout_leaves_evaluation_alone_and_is_absent_from_the_released_form():
    def dropouts(model):
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert dropouts(small("deeplab_vgg16")) == [0.5, 0.5] and dropouts(small("deeplab_vgg16", graph="sdca")) == []
    model, images = small("deeplab_vgg16"), torch.randn(1, 3, 32, 32)
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


@pytest.mark.parametrize("name", ["deeplab_resnet101", "deeplab_vgg16"])
def test_checkpointing_changes_nothing(name):
    models = [small(name, checkpointing=checkpointing) for checkpointing in (False, True)]
    assert [model.backbone.checkpointing for model in models] == [False, True]
    torch.manual_seed(1)
    source, target = torch.randn(2, 3, 40, 40), torch.randn(2, 3, 40, 40) + 1
    for model in models:
        torch.manual_seed(2)
        first = model(source)
        with use_domain(model, "target"):
            second = model(target)
        (first.logits.square().mean() + second.features.square().mean()).backward()
    plain, recomputed = models
    for (key, one), (_, two) in zip(plain.named_parameters(), recomputed.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=key)
    for (key, one), (_, two) in zip(plain.named_buffers(), recomputed.named_buffers(), strict=True):
        assert torch.equal(one, two), key


def test_checkpointing_recomputes_in_the_domain_of_the_forward_pass():
    gradients = []
    for checkpointing in (False, True):
        model = small("deeplab_resnet18", checkpointing=checkpointing).eval()
        for layer in batch_norms(model).values():
            layer.target_running_var.fill_(2.0)
            layer.target_running_mean.fill_(-0.5)
        torch.manual_seed(1)
        with use_domain(model, "target"):
            out = model(torch.randn(1, 3, 32, 32))
        out.features.square().sum().backward()
        assert {layer.domain for layer in batch_norms(model).values()} == {"source"}
        assert all(layer.tracking for layer in batch_norms(model).values())
        gradients.append(model.backbone.conv1.weight.grad)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients)


def test_checkpointing_keeps_fewer_activations():
    kept = []
    for checkpointing in (False, True):
        model, sizes = small("deeplab_resnet50", checkpointing=checkpointing), []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.backbone(torch.randn(2, 3, 64, 64))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_channels_last():
    for wanted in (True, False):
        model = small("deeplab_resnet18", channels_last=wanted)
        assert model.backbone.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last) is wanted
        assert model(torch.randn(2, 3, 64, 64)).features.is_contiguous(memory_format=torch.channels_last) is wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "segformer"}, "segformer"),
        ({"name": "deeplab_resnet18", "width": 0.0}, "model.width"),
        ({"name": "deeplab_resnet18", "width": float("nan")}, "model.width"),
        ({"name": "deeplab_resnet18", "graph": "caffe"}, "model.graph"),
        ({"name": "unet", "norm": "shared"}, "norm must be"),
        ({"name": "unet", "checkpointing": True}, "checkpointing"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(ModelConfig(**settings), 5)


def test_needs_two_classes():
    with pytest.raises(ValueError, match="num_classes"):
        build_model(ModelConfig(), 1)
