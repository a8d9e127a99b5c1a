"""The streamed confidence histogram against exact quantiles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.metrics import ConfidenceHistogram
from fastuda.nn import confident_labels


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


def test_update_takes_the_predicted_class():
    logits = 3 * torch.randn(2, 5, 6, 7, dtype=torch.float64)
    histogram = ConfidenceHistogram(5)
    histogram.update(logits[:1])
    histogram.update(logits[1:].half())
    confidence, label = logits.softmax(1).max(1)
    assert torch.equal(histogram.counts.sum(1), torch.bincount(label.reshape(-1), minlength=5))
    median = histogram.median()
    for k in range(5):
        exact = confidence[label == k].median() if (label == k).any() else 1.0
        assert abs(median[k] - exact) < 1 / 1024 + 1e-3  # half-precision logits of the second image
    assert torch.equal(median, histogram.quantile(0.5))
    kept = confident_labels(logits, median)
    for k in range(5):
        assert (kept == k).sum() >= 0.45 * (label == k).sum()


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


def test_what_does_not_count():
    histogram = ConfidenceHistogram(2, 8)
    histogram.add(torch.tensor([0.5, float("nan"), 0.5, 0.5]), torch.tensor([0, 1, 255, -1]))
    assert histogram.counts.sum() == 1 and histogram.counts[0, 4] == 1
    assert histogram.median().tolist() == [0.5, 1.0]


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
    with pytest.raises(ValueError, match="cannot merge"):
        histogram.merge(ConfidenceHistogram(3, 8))
