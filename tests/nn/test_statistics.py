"""Running class statistics: a merge of batches equals one pass, and nothing else happens."""

import copy
import socket

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.nn import ClassStatistics
from fastuda.nn.statistics import all_reduce
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


def test_labels_at_full_resolution():
    features = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 4, (2, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    large = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    large[:, 1::8] = 255  # an eighth of each cell, and none of the pixels that "nearest" picks
    expected = ClassStatistics(4, 3)
    expected.update(features, labels)
    for options in ({"downsample": "nearest"}, {"downsample": "ratio"}, {"downsample": "ratio", "min_ratio": 0.875}):
        statistics = ClassStatistics(4, 3)
        statistics.update(features, large, **options)
        for name, value in statistics.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])
        prototypes = ClassStatistics(4, 3, None)
        prototypes.merge_exponential(prototypes.moments(features, large, **options))
        assert torch.equal(prototypes.mean, expected.mean)
    statistics.reset()
    statistics.update(features, large, downsample="ratio", min_ratio=0.9)
    assert not statistics.count.any()
    with pytest.raises(ValueError, match="labels must have shape"):
        statistics.update(features, large)


def test_means_alone():
    statistics, full = ClassStatistics(3, 2, None), ClassStatistics(3, 2)
    for seed in (0, 1):
        statistics.update(*batch(30, 2, 2, seed))
        full.update(*batch(30, 2, 2, seed))
    assert set(statistics.state_dict()) == {"count", "mean"} and statistics.covariance is None
    assert torch.equal(statistics.mean, full.mean) and torch.equal(statistics.count, full.count)
    statistics.reset()
    assert not statistics.mean.any() and not statistics.count.any()


def test_prototypes_start_from_the_mean_over_images():
    """SPCL: the mean over images of the per-image class means, whatever their numbers of pixels."""
    parts = [batch(size, 3, 2, size, size) for size in (5, 40, 11)]
    statistics = ClassStatistics(2, 3, None)
    for part in parts:
        moments = statistics.moments(*part)
        statistics.merge(moments._replace(count=moments.count.clamp(max=1)))
    for k in range(2):
        means = [x[y == k].mean(0) for x, y in parts if (y == k).any()]
        torch.testing.assert_close(statistics.mean[k], torch.stack(means).mean(0))


@pytest.mark.parametrize("momentum", [0.1, 0.999, 0.0, 1.0])
def test_exponential_update(momentum):
    """mu <- a mu + (1 - a) batch mean, a the momentum; absent classes stay; a class's first mean is its batch's."""
    statistics = ClassStatistics(4, 3, None)
    expected, seen = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    for step in range(6):
        features, labels = batch(25, 3, 3, step, float(step))
        labels[labels == step % 3] = 255  # another class is absent each time, and class 3 always
        before = statistics.mean
        statistics.merge_exponential(statistics.moments(features, labels), momentum)
        for k in range(4):
            x = features[labels == k].double()
            if len(x):
                expected[k] = momentum * expected[k] + (1 - momentum) * x.mean(0) if seen[k] else x.mean(0)
                seen[k] += len(x)
            else:
                assert torch.equal(statistics.mean[k], before[k])
    torch.testing.assert_close(statistics.mean.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(statistics.count, seen) and seen[3] == 0
    default = ClassStatistics(4, 3, None)
    default.merge_exponential(statistics.moments(*batch(9, 3, 3, 0)))
    before = default.mean
    default.merge_exponential(default.moments(*batch(90, 3, 3, 1)))
    torch.testing.assert_close(
        default.mean[0], 0.1 * before[0] + 0.9 * naive(*batch(90, 3, 3, 1), 3, "diag")[1][0].float()
    )
    with pytest.raises(ValueError, match="momentum must be between 0 and 1"):
        statistics.merge_exponential(statistics.moments(*batch(9, 3, 3, 0)), 1.5)
    with pytest.raises(ValueError, match="covariance=None"):
        ClassStatistics(4, 3).merge_exponential(statistics.moments(*batch(9, 3, 3, 0)))


RANKS = 2


def shares(rank: int, offset: float = 4.0):
    """What a rank sees: other sizes and means on each, class 2 on rank 1 only, class 3 nowhere.

    The means are a few standard deviations from 0: further out, float32 means alone cost more than the 1e-6 asked for.
    """
    features, labels = batch(200 + 300 * rank, 5, 3, rank, offset + 3 * rank)
    return features, labels.where((labels != 2) | torch.tensor(rank == 1), 255)


def gather_on_a_rank(rank: int, port: int, directory: str) -> None:
    store = torch.distributed.TCPStore("localhost", port, RANKS, rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    result = {}
    for kind in ("diag", "full", None):
        statistics = ClassStatistics(4, 5, kind)
        for part in zip(*(values.split(64) for values in shares(rank)), strict=True):
            statistics.update(*part)
        statistics.all_reduce()
        by_step = ClassStatistics(4, 5, kind)
        by_step.merge(all_reduce(by_step.moments(*shares(rank))))
        by_step.merge(all_reduce(by_step.moments(*shares(rank, -6.0))))
        result[kind] = statistics.state_dict(), by_step.state_dict()
    many = by_step.moments(*shares(rank))
    result["large"] = all_reduce(many._replace(count=torch.full_like(many.count, 2**30 + 1))).count
    torch.save(result, f"{directory}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_all_reduce_equals_one_process(tmp_path):
    """Two gloo processes against one process that sees all pixels, to 1e-6 of the largest value."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    workers = [context.Process(target=gather_on_a_rank, args=(r, port, str(tmp_path))) for r in range(RANKS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * RANKS
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    assert (results[0].pop("large") == RANKS * (2**30 + 1)).all()
    pixels = [torch.cat(values) for values in zip(*map(shares, range(RANKS)), strict=True)]
    more = [torch.cat(v) for v in zip(pixels, *(shares(r, -6.0) for r in range(RANKS)), strict=True)]
    for kind in ("diag", "full", None):
        for actual, exact in zip(results[0][kind], (pixels, more), strict=True):
            truth = class_moments(exact[0].double(), exact[1], 4, covariance=kind)
            assert torch.equal(actual["count"], truth.count) and actual["count"][2] > 0 and actual["count"][3] == 0
            for name in set(actual) - {"count"}:
                assert actual[name].dtype == torch.float32
                expected = getattr(truth, name)
                error = (actual[name].double() - expected).abs().max() / expected.abs().max()
                assert error < 1e-6, (kind, name, error)
        for a, b in zip(results[0][kind], results[1][kind], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a), "the ranks differ"


def test_all_reduce_without_a_process_group_changes_nothing():
    statistics = ClassStatistics(2, 3)
    statistics.update(*batch(20, 3, 2, 0))
    before = copy.deepcopy(statistics.state_dict())
    statistics.all_reduce()
    assert all(torch.equal(value, before[name]) for name, value in statistics.state_dict().items())


@pytest.mark.parametrize("kind", ["diag", "full", None])
def test_statistics_follow_a_conversion_but_not_below_float32(kind):
    features, labels = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 4, (40,))
    for dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        statistics = torch.nn.Sequential(ClassStatistics(4, 3, kind)).to(dtype)[0]
        for part in range(2):
            rows = slice(20 * part, 20 * part + 20)
            statistics.update(features[rows].to(dtype), labels[rows])
        truth = class_moments(features.to(dtype).double(), labels, 4, covariance=kind)
        assert statistics.mean.dtype == kept and statistics.count.dtype == torch.int64
        torch.testing.assert_close(statistics.mean.double(), truth.mean, rtol=1e-5, atol=1e-6)
        if kind is not None:
            assert statistics.m2.dtype == kept
            torch.testing.assert_close(statistics.m2.double(), truth.m2, rtol=1e-4, atol=1e-4)
