"""SDCA's stages and losses against the formulas, on a network small enough to check by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from methods.small_world import K, MemoryPasses, batch
from torch.nn import functional as F

from fastuda.methods import build_method
from fastuda.methods.config import Recipe, SDCAConfig, SelfTrainingConfig
from fastuda.models.config import ModelConfig


def recipe(**sdca) -> Recipe:
    return Recipe(method="sdca", model=ModelConfig(width=0.25), sdca=replace(SDCAConfig(), **sdca))


def method(**sdca):
    torch.manual_seed(0)
    return build_method(recipe(**sdca), K).train()


def nearest(labels: torch.Tensor, stride: int) -> torch.Tensor:
    return labels[:, ::stride, ::stride]


def bound_fp64(q, labels, mean, covariance, tau):
    """Eq. 14 pixel by pixel in fp64 with unit vectors and a full covariance, as the paper writes it."""
    mean = mean.double() / mean.double().norm(dim=1, keepdim=True).clamp(min=1e-12)
    losses = []
    for vector, label in zip(q.double().movedim(1, -1).reshape(-1, q.shape[1]), labels.reshape(-1), strict=True):
        if label >= K:
            continue
        vector = vector / vector.norm()
        total = 0.0
        for k in range(K):
            sigma = covariance[k].double()
            sigma = sigma / sigma.norm().clamp(min=1e-12)
            exponent = vector @ (mean[k] - mean[int(label)]) / tau + vector @ sigma @ vector / (2 * tau**2)
            total += math.exp(exponent)
        losses.append(math.log(total))
    return sum(losses) / len(losses)


def test_stage_list_and_rows():
    names = [(s.name, s.prepared_row, s.row) for s in method().stages()]
    assert names == [
        ("warm_up", "", "source"),
        ("adapt", "target_statistics", "aligned"),
        ("self_training_1", "", "adapted"),
    ]
    rounds = method(self_training=replace(SelfTrainingConfig(), rounds=0)).stages()
    assert [s.row for s in rounds] == ["source", "adapted"]


def test_statistics_come_before_the_loss_and_only_from_the_source():
    sdca = method(temperature=1.0)
    before = sdca.feature_statistics.count.clone()
    parts = sdca.adapt(batch(0), batch(1, labelled=False))
    first = next(parts)["network"]
    output = sdca.run(batch(0).images, "source")
    labels = nearest(batch(0).labels, 2)
    assert (sdca.feature_statistics.count - before).sum() == (labels < K).sum()
    assert set(first) == {"ce", "lovasz", "features_source", "outputs_source"}
    for level, pixels, statistics in (
        ("features", output.features, sdca.feature_statistics),
        ("outputs", output.logits, sdca.output_statistics),
    ):
        direct = bound_fp64(pixels.detach(), labels, statistics.mean, statistics.covariance, 1.0)
        assert first[f"{level}_source"].item() == pytest.approx(direct, rel=1e-4)
    count = sdca.feature_statistics.count.clone()
    second = next(parts)["network"]
    assert set(second) == {"features_target", "outputs_target"}
    assert torch.equal(count, sdca.feature_statistics.count)
    assert next(parts, None) is None


def test_no_gradient_into_the_statistics_and_weights_scale_the_terms():
    sdca = method(features=0.0, outputs=3.0, temperature=1.0)
    losses = next(sdca.adapt(batch(0), batch(1, labelled=False)))["network"]
    assert "features_source" not in losses
    assert not sdca.output_statistics.mean.requires_grad
    losses["outputs_source"].backward()
    gradient = sdca.network.classifier.weight.grad.clone()
    other = method(features=0.0, outputs=1.0, temperature=1.0)
    next(other.adapt(batch(0), batch(1, labelled=False)))["network"]["outputs_source"].backward()
    torch.testing.assert_close(gradient, 3 * other.network.classifier.weight.grad)
    assert gradient.abs().max() > 0


def test_unconfident_target_gives_exactly_zero():
    sdca = method(confidence=1.0)
    parts = sdca.adapt(batch(0), batch(1, labelled=False))
    next(parts)
    losses = next(parts)["network"]
    assert all(loss.item() == 0.0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in sdca.network.parameters())


def test_preparation_gathers_both_domains():
    sdca = method().eval()
    assert not sdca.has_target_statistics
    sdca.prepare(sdca.stages()[1], MemoryPasses())
    assert sdca.has_target_statistics
    expected = sum((nearest(b.labels, 2) < K).sum() for b in MemoryPasses().source())
    assert sdca.feature_statistics.count.sum() == expected == sdca.output_statistics.count.sum()
    state = {name: value for name, value in sdca.state_dict().items()}
    other = method()
    other.load_state_dict(state)
    torch.testing.assert_close(other.eval().predict(batch(1).images), sdca.predict(batch(1).images))
    assert torch.equal(other.feature_statistics.mean, sdca.feature_statistics.mean)


def full_size(logits, images):
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("cap", [1.0, 0.3])
def test_pseudo_labels_keep_the_confident_half_of_each_class(cap):
    sdca = method(self_training=replace(SelfTrainingConfig(), threshold_cap=cap)).eval()
    sdca.prepare(sdca.stages()[1], MemoryPasses())
    passes = MemoryPasses()
    sdca.pseudo_label(passes)
    assert sorted(passes.saved) == [0, 1, 2, 3]
    predictions = [
        full_size(sdca.predict_augmented(b.images, sdca.labelling), b.images) for b in MemoryPasses().target()
    ]
    logits = torch.cat(predictions).detach()
    confidence, predicted = logits.double().softmax(1).max(1)
    labels = torch.stack([passes.saved[i] for i in range(4)])
    for k in range(K):
        of_class = predicted == k
        if not of_class.any():
            continue
        threshold = min(confidence[of_class].median().item(), cap)
        kept = labels[of_class] == k
        assert torch.equal(kept | (labels[of_class] == 255), torch.ones_like(kept))
        wanted = confidence[of_class] >= threshold
        # The histogram's bins bound the threshold's error.
        unsure = (confidence[of_class] - threshold).abs() <= 2e-3
        assert torch.equal(kept[~unsure], wanted[~unsure])


def test_pseudo_labels_of_a_mirrored_image_mirror():
    sdca = method(self_training=replace(SelfTrainingConfig(), flip=True, scales=(0.5, 1.0))).eval()
    sdca.prepare(sdca.stages()[1], MemoryPasses())
    images = batch(1).images
    both = sdca.predict_augmented(images, sdca.labelling)
    torch.testing.assert_close(sdca.predict_augmented(images.flip(-1), sdca.labelling), both.flip(-1))
    plain = method().eval()
    plain.load_state_dict(sdca.state_dict())
    logits = plain.predict(images)
    torch.testing.assert_close(both.exp().sum(1), torch.ones(2, *logits.shape[-2:]))
    assert not torch.allclose(plain.predict_augmented(images, plain.labelling).exp(), both.exp(), atol=1e-4)
    once = full_size(plain.predict_augmented(images, plain.labelling), images).softmax(1)
    torch.testing.assert_close(once, full_size(logits, images).softmax(1))


def test_an_impossible_class_stays_finite():
    sdca = method().eval()
    sdca.predict = lambda images: torch.tensor([0.0, 200.0, -200.0]).view(1, 3, 1, 1).expand(2, 3, 4, 6)
    assert sdca.predict_augmented(batch(1).images, sdca.labelling).isfinite().all()


def test_restart_and_norm_of_self_training_survive_the_state_dict():
    sdca = method(self_training=replace(SelfTrainingConfig(), restart=True, norm="trained")).eval()
    sdca.prepare(sdca.stages()[1], MemoryPasses())
    weight = sdca.network.classifier.weight.clone()
    sdca.pseudo_label(MemoryPasses())
    assert not torch.equal(weight, sdca.network.classifier.weight)
    assert sdca.norm == "per_domain"
    sdca.stages()[-1].optimisers()
    assert sdca.norm == "trained"
    other = method()
    other.load_state_dict(sdca.state_dict())
    assert other.norm == "trained" and other.network.stride2[1].mode == "trained"


def test_self_training_sees_the_source_only_on_request():
    sdca = method()
    pseudo = batch(1)
    parts = list(sdca.self_training(None, pseudo))
    assert [set(p["network"]) for p in parts] == [{"pseudo_ce"}]
    stage = sdca.stages()[-1]
    assert stage.source is None and stage.target.labels == "pseudo"
    with_source = method(self_training=replace(SelfTrainingConfig(), source=True))
    assert with_source.stages()[-1].source.labels == "truth"
    assert len(list(with_source.self_training(batch(0), pseudo))) == 2


def test_shared_statistics_from_the_adaptation_on():
    sdca = method(norm="trained").eval()
    sdca.prepare(sdca.stages()[1], MemoryPasses())
    layer = sdca.network.stride2[1]
    target = layer.target_running_mean.clone()
    sdca.stages()[1].optimisers()
    for part in sdca.train().adapt(batch(0), batch(1, labelled=False)):
        assert part
    assert torch.equal(layer.target_running_mean, target)
    assert layer.num_batches_tracked == 2
