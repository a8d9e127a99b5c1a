"""CCD, PDD and self-entropy against the papers' formulas, pixel by pixel in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fastuda.metrics import PixelDiscrimination, SelfEntropy, class_center_distance
from fastuda.nn.statistics import ClassStatistics
from fastuda.ops import class_moments
from fastuda.ops.class_moments import Moments

K, A = 4, 6


def pixels(seed: int = 0, count: int = 90, missing: int | None = None):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (count,), generator=generator)
    features = (torch.randn(count, A, generator=generator) + 2 * labels.unsqueeze(1) % 5).abs()
    if missing is not None:
        labels[labels == missing] = 255
    labels[::11] = 255
    return features, labels


def centres(features, labels):
    return {k: features[labels == k].double().mean(0) for k in range(K) if (labels == k).any()}


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("missing", [None, 2])
def test_class_center_distance(covariance, missing):
    features, labels = pixels(missing=missing)
    found = class_center_distance(class_moments(features, labels, K, covariance=covariance))
    mu = centres(features, labels)
    for c in range(K):
        if c not in mu:
            assert found[c].isnan()
            continue
        spread = (features[labels == c].double() - mu[c]).square().sum(1).mean()
        ratios = [spread / (mu[c] - mu[k]).square().sum() for k in mu if k != c]
        assert found[c].item() == pytest.approx(sum(ratios).item() / len(ratios), rel=1e-5)


def test_class_center_distance_streams_and_refuses_means_alone():
    features, labels = pixels()
    statistics = ClassStatistics(K, A, "diag")
    for part, of_part in zip(features.split(17), labels.split(17), strict=True):
        statistics.update(part, of_part)
    whole = class_center_distance(class_moments(features, labels, K))
    streamed = class_center_distance(Moments(statistics.count, statistics.mean, statistics.m2))
    torch.testing.assert_close(streamed, whole, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="m2"):
        class_center_distance(class_moments(features, labels, K, covariance=None))
    alone = class_center_distance(class_moments(features, torch.zeros_like(labels), K))
    assert alone.isnan().all()


@pytest.mark.parametrize("missing", [None, 1])
def test_pixel_discrimination(missing):
    features, labels = pixels(1, missing=missing)
    mean = class_moments(features, labels, K).mean
    metric = PixelDiscrimination(mean)
    for part, of_part in zip(features.split(29), labels.split(29), strict=True):
        metric.update(part, of_part)
    found = metric.compute()
    unit = mean.double() / mean.double().norm(dim=1, keepdim=True).clamp(min=1e-12)
    for k in range(K):
        of_class = features[labels == k].double()
        if not len(of_class):
            assert found[k].isnan()
            continue
        ratios = []
        for x in of_class:
            cosine = unit @ (x / x.norm())
            ratios.append((cosine[k] / (cosine.sum() - cosine[k])).item())
        assert found[k].item() == pytest.approx(sum(ratios) / len(ratios), rel=1e-5)


def test_pixel_discrimination_takes_maps_and_refuses_what_does_not_fit():
    features, labels = pixels(2, 48)
    mean = class_moments(features, labels, K).mean
    rows, maps = PixelDiscrimination(mean), PixelDiscrimination(mean)
    rows.update(features, labels)
    maps.update(features.view(2, 4, 6, A).permute(0, 3, 1, 2), labels.view(2, 4, 6).to(torch.uint8))
    torch.testing.assert_close(maps.compute(), rows.compute())
    with pytest.raises(ValueError, match="channels"):
        rows.update(features[:, 1:], labels)
    with pytest.raises(ValueError, match="mean"):
        PixelDiscrimination(mean[0])


def test_self_entropy():
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, K, 5, 7, generator=generator)
    labels = torch.randint(0, K, (2, 5, 7), generator=generator)
    labels[:, 0] = 255
    every, kept = SelfEntropy(), SelfEntropy()
    for image, of_image in zip(logits.split(1), labels.split(1), strict=True):
        every.update(image)
        kept.update(image, of_image)
    p = logits.double().softmax(1)
    entropy = -(p * p.log()).sum(1) / math.log(K)
    assert every.compute().item() == pytest.approx(entropy.mean().item(), rel=1e-6)
    assert kept.compute().item() == pytest.approx(entropy[labels < K].mean().item(), rel=1e-6)


def test_self_entropy_of_the_extremes():
    certain, uniform = SelfEntropy(), SelfEntropy()
    certain.update(torch.tensor([0.0, -math.inf, -300.0]).view(1, 3, 1, 1))
    uniform.update(torch.zeros(1, 3, 2, 2))
    assert certain.compute() == 0 and uniform.compute().item() == pytest.approx(1)
    assert SelfEntropy().compute().isnan()
    with pytest.raises(ValueError, match="labels"):
        uniform.update(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, dtype=torch.uint8))
