"""Running class statistics: a merge of batches equals one pass, and nothing else happens."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.nn import ClassStatistics
from fastuda.ops.class_moments import class_moments
from fastuda.ops.contrastive_bound import contrastive_bound


def batch(count: int, channels: int, classes: int, seed: int, offset: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    features = offset + torch.randn(count, channels, generator=generator)
    labels = torch.randint(0, classes + 1, (count,), generator=generator)
    return features, labels.where(labels < classes, 255).to(torch.uint8)


def naive(features, labels, classes: int, kind: str):
    """Two-pass float64 count, mean and population covariance of each class."""
    features = features.double()
    count = torch.zeros(classes, dtype=torch.int64)
    mean = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    covariance = torch.zeros(classes, features.shape[1], features.shape[1], dtype=torch.float64)
    for k in range(classes):
        x = features[labels == k]
        count[k] = len(x)
        if len(x):
            mean[k] = x.mean(0)
            covariance[k] = (x - mean[k]).T @ (x - mean[k]) / len(x)
    return count, mean, covariance if kind == "full" else covariance.diagonal(dim1=1, dim2=2)


@pytest.mark.parametrize("kind", ["diag", "full"])
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    classes=st.sampled_from([1, 2, 7]),
    channels=st.sampled_from([1, 3, 8]),
    offset=st.sampled_from([0.0, 300.0]),
)
def test_merge_equals_one_pass(kind, sizes, classes, channels, offset):
    parts = [batch(size, channels, classes, seed, offset + seed) for seed, size in enumerate(sizes)]
    statistics = ClassStatistics(classes, channels, kind)
    for part in parts:
        statistics.update(*part)
    features, labels = (torch.cat(values) for values in zip(*parts, strict=True))
    count, mean, covariance = naive(features, labels, classes, kind)
    assert torch.equal(statistics.count, count)
    torch.testing.assert_close(statistics.mean.double(), mean, rtol=1e-6, atol=1e-5)
    # The scale of the rounding is that of the features' offset from the first mean, not of the offset itself.
    torch.testing.assert_close(statistics.covariance.double(), covariance, rtol=2e-4, atol=2e-4)


def test_equation_4():
    """One merge written as in the paper: covariances weighted by counts plus the between term over (n + m)^2."""
    (x, first), (y, second) = batch(50, 3, 2, 0), batch(30, 3, 2, 1, 2.0)
    statistics = ClassStatistics(2, 3, "full")
    statistics.update(x, first)
    statistics.update(y, second)
    n, mu, sigma = naive(x, first, 2, "full")
    m, nu, tau = naive(y, second, 2, "full")
    n, m = n.view(-1, 1, 1), m.view(-1, 1, 1)
    d = (mu - nu).unsqueeze(2)
    expected = (n * sigma + m * tau) / (n + m) + n * m * d @ d.mT / (n + m) ** 2
    torch.testing.assert_close(statistics.covariance.double(), expected, rtol=1e-5, atol=1e-6)


def test_counts_beyond_float32():
    """2^30 pixels of mean 1, then as many of mean 3: exact counts, mean 2, variance 1."""
    statistics = ClassStatistics(1, 1)
    moments = class_moments(torch.ones(1, 1), torch.zeros(1, dtype=torch.uint8), 1)
    statistics.merge(moments._replace(count=torch.tensor([2**30 + 1])))
    statistics.merge(moments._replace(count=torch.tensor([2**30 + 1]), mean=torch.tensor([[3.0]])))
    assert statistics.count.item() == 2**31 + 2
    assert statistics.mean.item() == 2.0
    assert statistics.covariance.item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_images_state_and_absent_classes(kind):
    statistics = ClassStatistics(4, 3, kind)
    statistics.update(*batch(40, 3, 3, 0))
    before = copy.deepcopy(statistics.state_dict())
    assert set(before) == {"count", "mean", "m2"}
    for value in (before["mean"][3], before["m2"][3], statistics.covariance[3]):
        assert (value == 0).all()

    statistics.update(torch.randn(2, 3, 4, 5), torch.full((2, 4, 5), 255, dtype=torch.uint8))
    for name, value in statistics.state_dict().items():
        assert torch.equal(value, before[name])

    features, labels = batch(40, 3, 3, 1)
    copied = ClassStatistics(4, 3, kind)
    copied.load_state_dict(before)
    copied.update(features.view(2, 4, 5, 3).permute(0, 3, 1, 2), labels.view(2, 4, 5))
    statistics.update(features, labels)
    for name, value in statistics.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], value)
    statistics.reset()
    assert not any(value.any() for value in statistics.state_dict().values())


def test_updates_do_not_disturb_a_pending_backward():
    """The statistics of the next batch may be merged before the last loss is differentiated."""
    features, labels = batch(20, 3, 2, 0)
    statistics = ClassStatistics(2, 3)
    statistics.update(features, labels)

    def slope(disturb: bool):
        q = features.clone().requires_grad_()
        loss = contrastive_bound(q, labels, statistics.mean, statistics.covariance, temperature=1.0)
        if disturb:
            statistics.update(*batch(20, 3, 2, 5))
        return torch.autograd.grad(loss, q)[0]

    assert torch.equal(slope(False), slope(True))


def test_no_gradient_enters():
    features, labels = batch(20, 3, 2, 0)
    statistics = ClassStatistics(2, 3)
    statistics.update(features.requires_grad_(), labels)
    assert not any(value.requires_grad for value in statistics.buffers())
    assert not list(statistics.parameters())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 1"):
        ClassStatistics(0, 3)
    with pytest.raises(ValueError, match="covariance must be"):
        ClassStatistics(2, 3, "spherical")
    with pytest.raises(ValueError, match="features have 4 channels, the statistics 3"):
        ClassStatistics(2, 3).update(torch.zeros(5, 4), torch.zeros(5, dtype=torch.uint8))


def test_float64_features_are_accepted():
    features, labels = batch(20, 3, 2, 0)
    statistics, other = ClassStatistics(2, 3, "full"), ClassStatistics(2, 3, "full")
    statistics.update(features.double(), labels)
    other.update(features, labels)
    assert statistics.mean.dtype == statistics.m2.dtype == torch.float32
    torch.testing.assert_close(statistics.covariance, other.covariance)
