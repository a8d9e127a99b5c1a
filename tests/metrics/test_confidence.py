"""The streamed confidence histogram against exact quantiles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.metrics import ConfidenceHistogram
from fastuda.ops import class_thresholds, pseudo_labels


@settings(max_examples=40, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 11]),
    bins=st.sampled_from([1, 10, 1000, 1024]),
    q=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    count=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_quantiles_within_a_bin(classes, bins, q, count, seed):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(count, generator=generator)
    confidence[::7] = 1.0
    label = torch.randint(0, classes, (count,), generator=generator)
    histogram = ConfidenceHistogram(classes, bins)
    for c, k in zip(confidence.split(50), label.split(50), strict=True):
        histogram.add(c, k)
    quantile = histogram.quantile(q)
    assert quantile.dtype == torch.float32 and quantile.shape == (classes,)
    for k in range(classes):
        own = confidence[label == k]
        if not len(own):
            assert quantile[k] == 1.0
            continue
        exact = np.quantile(own.numpy(), q, method="inverted_cdf")
        assert exact - 1 / bins - 1e-6 <= quantile[k] <= exact + 1e-6
        assert (own >= quantile[k]).float().mean() >= 1 - q


@settings(max_examples=40, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 11]),
    bins=st.sampled_from([1, 10, 1000, 1024]),
    portion=st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]),
    count=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_thresholds_within_a_bin_of_the_exact_ones(classes, bins, portion, count, seed):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(count, generator=generator)
    label = torch.randint(0, classes, (count,), generator=generator)
    histogram = ConfidenceHistogram(classes, bins)
    histogram.add(confidence, label)
    for options in ({}, {"rule": "portion", "portion": portion}):
        exact = class_thresholds(confidence, label, classes, **options)
        binned = histogram.thresholds(**options)
        assert binned.dtype == torch.float32 and binned.shape == (classes,)
        assert (binned <= exact).all() and (binned >= exact - 1 / bins - 1e-6).all()
        assert torch.equal(histogram.thresholds(**options, cap=0.4), binned.clamp(max=0.4))


def test_update_takes_the_predicted_class():
    logits = 3 * torch.randn(2, 5, 6, 7, dtype=torch.float64)
    histogram = ConfidenceHistogram(5)
    histogram.update(logits[:1])
    histogram.update(logits[1:].half())
    confidence, label = logits.softmax(1).max(1)
    assert torch.equal(histogram.counts.sum(1), torch.bincount(label.reshape(-1), minlength=5))
    median = histogram.thresholds()
    for k in range(5):
        exact = confidence[label == k].median() if (label == k).any() else 1.0
        assert abs(median[k] - exact) < 1 / 1024 + 1e-3  # half-precision logits of the second image
    assert torch.equal(median, histogram.quantile(0.5))
    kept = pseudo_labels(logits, threshold=median)
    for k in range(5):
        assert (kept == k).sum() >= 0.45 * (label == k).sum()


def test_update_upsamples_on_the_way():
    logits = torch.randn(2, 5, 6, 7)
    at_once, before = ConfidenceHistogram(5, 64), ConfidenceHistogram(5, 64)
    at_once.update(logits.double(), size=(13, 20), align_corners=False)
    large = torch.nn.functional.interpolate(logits.double(), (13, 20), mode="bilinear", align_corners=False)
    before.update(large.softmax(1), probabilities=True)
    assert torch.equal(at_once.counts, before.counts) and at_once.counts.sum() == 2 * 13 * 20


def test_merge_equals_one_histogram():
    logits = torch.randn(3, 4, 5, 6)
    parts = [ConfidenceHistogram(4, 64) for _ in range(3)]
    whole = ConfidenceHistogram(4, 64)
    for part, image in zip(parts, logits.split(1), strict=True):
        part.update(image)
    whole.update(logits)
    parts[0].merge(parts[1])
    parts[2].merge(parts[0])
    assert torch.equal(parts[2].counts, whole.counts)
    copied = ConfidenceHistogram(4, 64)
    copied.load_state_dict(whole.state_dict())
    assert torch.equal(copied.counts, whole.counts) and whole.counts.dtype == torch.int64


def test_pooled_is_the_histogram_of_one_class():
    logits = torch.randn(2, 4, 5, 6)
    histogram, one = ConfidenceHistogram(4, 64), ConfidenceHistogram(1, 64)
    confidence, label = logits.softmax(1).max(1)
    histogram.add(confidence, label)
    one.add(confidence, torch.zeros_like(confidence, dtype=torch.uint8))
    pooled = histogram.pooled()
    assert torch.equal(pooled.counts, one.counts) and pooled.counts.shape == (1, 64)
    pooled.counts += 1
    assert histogram.counts.sum() == 60
    exact = confidence.flatten().sort(descending=True).values[int(0.3 * 60) - 1]
    assert 0 <= exact - histogram.pooled().thresholds(rule="portion", portion=0.3) <= 1 / 64 + 1e-6


def test_what_does_not_count():
    histogram = ConfidenceHistogram(2, 8)
    histogram.add(torch.tensor([0.5, float("nan"), 0.5, 0.5]), torch.tensor([0, 1, 255, -1]))
    assert histogram.counts.sum() == 1 and histogram.counts[0, 4] == 1
    assert histogram.thresholds().tolist() == [0.5, 1.0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 1"):
        ConfidenceHistogram(0)
    histogram = ConfidenceHistogram(3)
    with pytest.raises(ValueError, match="logits must be"):
        histogram.update(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="one shape"):
        histogram.add(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="q must be"):
        histogram.quantile(1.5)
    with pytest.raises(ValueError, match="rule must be"):
        histogram.thresholds(rule="mean")
    with pytest.raises(ValueError, match="portion must be"):
        histogram.thresholds(rule="portion", portion=-1.0)
    with pytest.raises(ValueError, match="cannot merge"):
        histogram.merge(ConfidenceHistogram(3, 8))


def test_confidences_beyond_one_are_in_the_last_bin():
    histogram = ConfidenceHistogram(2, bins=8)
    histogram.add(torch.tensor([1e30, -1e30, torch.inf, -torch.inf, 1.0]), torch.zeros(5, dtype=torch.uint8))
    assert histogram.counts[0].tolist() == [2, 0, 0, 0, 0, 0, 0, 3]
