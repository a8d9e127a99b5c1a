import errno
import os

import numpy as np
import pytest
import torch
from torch import nn

from fastuda.models import ModelConfig, build_model, load_weights, save_weights

WIDTH = 0.125


def model(name: str = "deeplab_resnet18", seed: int = 0, **settings) -> nn.Module:
    torch.manual_seed(seed)
    settings = {"norm": "trained", **settings}
    net = build_model(ModelConfig(name=name, width=WIDTH, **settings), 5)
    for key, buffer in net.named_buffers():
        if key.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return net.eval()


def backbone_state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key.removeprefix("backbone."): value for key, value in net.state_dict().items() if "classifier" not in key}


def head_state(net: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in net.classifier.state_dict().items()}


def without_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def torchvision_file(net):
    return {**backbone_state(net), "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}


def sdca_file(net):
    features = {f"module.backbone.{key}": value for key, value in without_counters(backbone_state(net)).items()}
    head = head_state(net, "module.")
    return {"iteration": 5, "feature_extractor": features, "classifier": head, "optimizer": {"lr": 0.1}}


def adaptsegnet_file(net):
    state = {**without_counters(backbone_state(net)), **head_state(net, "layer5.")}
    return {f"Scale.{key}": value for key, value in state.items()}


def cpsl_file(net):
    decoder = {"layer5.conv2d_list.0.0.weight": torch.zeros(256, 64, 1, 1), "layer5.head.1.weight": torch.zeros(5, 256)}
    return {"ResNet101": {"model_state": {**backbone_state(net), **decoder}}, "iter": 3}


FAMILIES = {
    "bare": (torchvision_file, "torchvision", False),
    "sdca": (sdca_file, "sdca", True),
    "adaptsegnet": (adaptsegnet_file, "cpsl", True),
    "cpsl": (cpsl_file, "cpsl", False),
}


@pytest.mark.parametrize("name", ["deeplab_resnet18", "deeplab_resnet50"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(tmp_path, family, name):
    make, graph, with_head = FAMILIES[family]
    one, two = model(name, graph=graph), model(name, seed=1, graph=graph)
    torch.save(make(one), tmp_path / "w.pth")
    report = load_weights(two, tmp_path / "w.pth")
    images = torch.randn(1, 3, 40, 40)
    assert report.family == family and report.share == 1.0 and not report.shape_mismatch
    assert torch.equal(one(images).features, two(images).features) and one(images).features.std() > 1e-3
    assert torch.equal(one(images).logits, two(images).logits) is with_head
    missing = [] if with_head else [f"classifier.conv2d_list.{n}.{k}" for n in range(4) for k in ("weight", "bias")]
    assert list(report.missing) == missing
    assert len(report.unexpected) == (2 if family == "cpsl" else 0)


def test_torchvision_vgg(tmp_path):
    one, two = model("deeplab_vgg16"), model("deeplab_vgg16", seed=1)
    state = {f"features.{key}": value for key, value in one.backbone.features.state_dict().items()}
    state |= {"classifier.0.weight": torch.zeros(4096, 9), "classifier.6.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "vgg16.pth")
    report = load_weights(two, tmp_path / "vgg16.pth")
    assert report.share == 1.0 and len(report.matched) == 26 and report.unexpected == ()
    assert {key.split(".")[1] for key in report.missing} == {"fc6", "fc7", "conv2d_list"}
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(one.backbone.features(images), two.backbone.features(images))


def test_sdca_vgg_without_the_last_pools(tmp_path):
    one, two = model("deeplab_vgg16", graph="sdca"), model("deeplab_vgg16", seed=1, graph="sdca")
    convs = [module for module in one.backbone.features if isinstance(module, nn.Conv2d)]
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31]
    state = {}
    for number, conv in zip(numbers, [*convs, one.backbone.fc6, one.backbone.fc7], strict=True):
        state |= {f"backbone.{number}.weight": conv.weight, f"backbone.{number}.bias": conv.bias}
    torch.save({"iteration": 1, "feature_extractor": state, "classifier": head_state(one, "")}, tmp_path / "v.pth")
    report = load_weights(two, tmp_path / "v.pth")
    assert report.missing == report.unexpected == ()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(one(images).logits, two(images).logits)


@pytest.mark.parametrize("norm", ["trained", "frozen", "per_domain"])
@pytest.mark.parametrize("name", ["unet", "deeplab_resnet18"])
def test_our_own_round_trip(tmp_path, name, norm):
    one, two = model(name, norm=norm), model(name, seed=1, norm=norm)
    save_weights(one, tmp_path / "w.safetensors")
    report = load_weights(two, tmp_path / "w.safetensors")
    assert report.share == 1.0 and report.missing == report.unexpected == ()
    for key, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[key], value), key
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_target_statistics_start_from_the_loaded_ones(tmp_path):
    one = model()
    torch.save(torchvision_file(one), tmp_path / "w.pth")
    two = model(seed=1, norm="per_domain", weights=str(tmp_path / "w.pth"))
    load_weights(two, tmp_path / "w.pth")
    assert torch.equal(two.backbone.bn1.target_running_var, one.backbone.bn1.running_var)


def test_another_number_of_classes_keeps_the_fresh_classifier(tmp_path):
    one = model()
    save_weights(one, tmp_path / "w.safetensors")
    two = build_model(ModelConfig("deeplab_resnet18", WIDTH, "trained"), 7)
    before = two.classifier.conv2d_list[0].weight.clone()
    report = load_weights(two, tmp_path / "w.safetensors")
    assert len(report.shape_mismatch) == 8 and report.share == 1.0 and "8 of another shape" in str(report)
    assert torch.equal(two.classifier.conv2d_list[0].weight, before)
    assert torch.equal(two.backbone.conv1.weight, one.backbone.conv1.weight)


@pytest.mark.parametrize(("kept", "fits"), [(0.95, True), (0.85, False)])
def test_share_below_90_percent_is_refused_and_changes_nothing(tmp_path, kept, fits):
    state = without_counters(backbone_state(model()))
    state = dict(list(state.items())[: int(kept * len(state))])
    torch.save(state, tmp_path / "w.pth")
    two = model(seed=1)
    before = {key: value.clone() for key, value in two.state_dict().items()}
    if fits:
        assert 0.9 < load_weights(two, tmp_path / "w.pth").share < 1.0
        return
    with pytest.raises(
        ValueError, match=r"w\.pth holds another model: 85 of 100 .* 15 are missing .*e\.g\. \S+, \S+, "
    ):
        load_weights(two, tmp_path / "w.pth")
    assert all(torch.equal(two.state_dict()[key], value) for key, value in before.items())


def test_another_network_or_width_is_refused(tmp_path):
    torch.save(torchvision_file(model()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds another model: 0 of"):
        load_weights(model("unet"), tmp_path / "w.pth")
    wide = build_model(ModelConfig("deeplab_resnet18", 0.25, "trained"), 5)
    with pytest.raises(ValueError, match="100 have another shape"):
        load_weights(wide, tmp_path / "w.pth")


def test_a_family_in_another_graph_is_refused(tmp_path):
    torch.save(cpsl_file(model()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="set model.graph to cpsl"):
        model(weights=str(tmp_path / "w.pth"))
    model(weights=str(tmp_path / "w.pth"), graph="cpsl")


def test_non_finite_weights_are_refused(tmp_path):
    state = torchvision_file(model())
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"] * float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds non-finite numbers in backbone.layer1.0.conv1.weight"):
        load_weights(model(), tmp_path / "w.pth")


def foreign_text(path):
    path.write_text("hello\n" * 100)


def foreign_empty(path):
    path.write_bytes(b"")


def foreign_truncated(path):
    if path.suffix == ".pth":
        torch.save(torchvision_file(model()), path)
    else:
        save_weights(model(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("make", [foreign_text, foreign_empty, foreign_truncated])
def test_unreadable_files_are_named_in_one_sentence(tmp_path, make, suffix):
    path = tmp_path / f"broken{suffix}"
    make(path)
    with pytest.raises(ValueError, match=r"broken\.\w+ cannot be read as weights: ") as caught:
        load_weights(model(), path)
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("content", [Evil(), [1, 2], {}, {"epoch": 3}, {"feature_extractor": 1}, {"ResNet101": {}}])
def test_foreign_content_is_named_in_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth (is no weights file|cannot be read)") as caught:
        load_weights(model(), tmp_path / "odd.pth")
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        model(weights=str(tmp_path / "none.pth"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(model(), path)
    old = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*w\.safetensors"):
        save_weights(model(seed=1), path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.to_sparse() if value.dim() else value,
        lambda value: value.to("meta"),
        lambda value: value.to(torch.float8_e4m3fn) if value.is_floating_point() else value,
        lambda value: value.to(torch.int64),
        lambda value: value.to(torch.complex64) if value.is_floating_point() else value,
    ],
    ids=["sparse", "meta", "float8", "int64", "complex"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, change):
    model = build_model(ModelConfig(width=0.25), 11)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "odd.pth"
    torch.save({key: change(value) for key, value in before.items()}, path)
    with pytest.raises(ValueError, match=r"odd\.pth holds (no plain|torch\.\w+) numbers in ") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numpy_scores_beside_the_weights_are_read_over(tmp_path, module):
    model = build_model(ModelConfig(width=0.25), 11)
    path = tmp_path / "proda.pth"
    state = {"ResNet101": {"model_state": model.state_dict()}, "best_iou": np.float64(0.5), "iter": np.int64(3)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module.encode()))
    assert load_weights(build_model(ModelConfig(width=0.25), 11), path).share == 1


def test_a_file_that_would_execute_code_is_refused_without_bad_advice(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.getpid, ()

    path = tmp_path / "evil.pth"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(ValueError, match="could execute code") as caught:
        load_weights(build_model(ModelConfig(width=0.25), 11), path)
    assert "weights_only" not in str(caught.value)
