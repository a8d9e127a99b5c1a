"""The measured step of every method: prepared, finite, and the trainer's own."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
import step_memory
import torch

from fastuda.methods import build_method
from fastuda.train.precision import choose_precision

LOSSES = {
    "sdca": {"ce", "lovasz", "features_source", "outputs_source", "features_target", "outputs_target"},
    "spcl": {"ce", "contrast_source", "contrast_target"},
    "cpsl": {"ce", "self_label", "pseudo_ce", "consistency"},
    "mlsl": {"ce", "presence_source", "pseudo_ce", "presence_target"},
    "drsl": {"ce", "modes_source", "mode_classes_source", "pseudo_ce", "modes_target", "mode_classes_target"},
}
LOSSES["drsl+"] = LOSSES["drsl"] | {"consistency"}
FP32 = choose_precision(torch.device("cpu"), False)


def recipe(method, model="deeplab_resnet18"):
    """The papers' recipe in a network of eight times fewer channels, with a small bank and head."""
    options = argparse.Namespace(method=method, model=model, checkpointing=False, covariance="diag")
    found = step_memory.papers_recipe(options)
    small = {"model": replace(found.model, width=0.125), "cpsl": replace(found.cpsl, bank=1500)}
    return replace(found, **small, mlsl=replace(found.mlsl, head_width=8), drsl=replace(found.drsl, channels=8))


@pytest.mark.slow
@pytest.mark.parametrize("method", step_memory.PAPERS)
def test_one_step_of_the_main_stage(method, monkeypatch):
    seen = {}

    def remember(name):
        work = getattr(step_memory, name)

        def call(*arguments):
            seen[name] = arguments
            return work(*arguments)

        monkeypatch.setattr(step_memory, name, call)

    remember("prepare")
    remember("step")
    sizes = step_memory.PAPERS[method]._replace(source=(160, 192), target=(160, 160))
    found = step_memory.measure(recipe(method), sizes, FP32)
    assert set(found["losses"]) == LOSSES[method] and all(value > 0 for value in found["losses"].values())
    assert 0 < found["before_step_mib"] <= found["peak_mib"] and (found["source"], found["target"]) == sizes[1:]

    built, _, target = seen["prepare"]
    stage, _, source, shown = seen["step"]
    assert stage.name == sizes.stage and source.images.shape == (1, 3, 160, 192) and shown.images is target.images
    assert (shown.labels is None) == (method in ("sdca", "spcl", "cpsl")) and (shown.scores is None) == (
        method != "cpsl"
    )
    torch.manual_seed(0)
    before = dict(build_method(recipe(method), step_memory.CLASSES).named_parameters())
    moved = [name for name, value in built.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith("network") for name in moved)
    if method == "cpsl":
        bank = built.bank.features()
        assert built.bank.filled == 1500 and torch.allclose(bank.norm(dim=1), torch.ones(1500), atol=1e-5)
        assert any(name.startswith("teacher.") for name in moved), "the moving average did not follow"
    if method == "spcl":
        assert built.prototypes.mean.abs().amax(1).min() > 0
    if method == "mlsl":
        assert built.presence.any() and not built.presence.all()


def test_the_papers_sizes_and_networks():
    sizes = {name: (paper.source, paper.target) for name, paper in step_memory.PAPERS.items()}
    assert sizes["sdca"] == sizes["spcl"] == ((720, 1280), (512, 1024))
    assert sizes["cpsl"] == ((512, 896), (512, 896)) and sizes["mlsl"] == sizes["drsl"] == ((512, 512), (512, 512))
    assert recipe("mlsl").warm_up.lovasz == 0.0 and recipe("sdca").sdca.confidence == 0.0
    assert recipe("mlsl", "resnet38").model.name == "resnet38"


def test_a_loss_that_is_not_finite_is_an_error(monkeypatch):
    monkeypatch.setattr(step_memory, "step", lambda *arguments: {"ce": float("nan")})
    sizes = step_memory.PAPERS["sdca"]._replace(source=(80, 80), target=(80, 80))
    with pytest.raises(ValueError, match="not finite"):
        step_memory.measure(recipe("sdca"), sizes, FP32)


def test_the_usual_form_computes_the_usual_statistics(monkeypatch):
    shapes = []
    monkeypatch.setattr(step_memory, "usual_statistics", lambda x, y: shapes.append((x.shape[0], y.shape[0])))
    sizes = step_memory.PAPERS["sdca"]._replace(source=(160, 192), target=(160, 160))
    usual, ours = (step_memory.measure(recipe("sdca"), sizes, FP32, usual) for usual in (True, False))
    preparation, step = (512, 512), (480, 480)  # the stage is prepared on small images first
    assert shapes == [preparation, step] and usual["losses"] == ours["losses"]


def test_the_usual_statistics_are_mean_and_variance():
    features, labels = torch.randn(60, 4), torch.randint(0, 3, (60,))
    labels[::5] = 255
    mean, variance = step_memory.usual_statistics(features, labels)
    for k in range(3):
        own = features[labels == k]
        torch.testing.assert_close(mean[k], own.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(variance[k], own.var(0, unbiased=False), rtol=1e-4, atol=1e-5)


def test_labels_come_in_the_share_asked_for():
    torch.manual_seed(0)
    assert step_memory.batch((400, 800), 0.0).labels is None
    labels = step_memory.batch((400, 800), 0.5).labels
    assert labels.shape == (1, 400, 800) and 0.35 < (labels != 255).float().mean() < 0.65
    assert (step_memory.batch((400, 800), 1.0).labels < step_memory.CLASSES).all()
