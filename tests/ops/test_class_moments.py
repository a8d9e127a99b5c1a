import instruction_sets
import pytest
import torch
from contract import LABEL_DTYPES, PixelContract, make, rows
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastuda.labels import nearest_labels
from fastuda.ops.class_moments import class_moments, downsample_labels
from fastuda.reference.class_moments import class_moments as reference
from fastuda.reference.class_moments import dominant_labels


class TestContract(PixelContract):
    settings = ("diag", "none", "full")
    compiled = ("class_moments", "class_moments_full")
    same_bits_for_threads = True  # of the compiled kernel, which serves "diag"

    @staticmethod
    def call(function, features, labels, classes, form, ignore_index):
        covariance = None if form == "none" else form
        out = function(features, labels, classes, covariance=covariance, ignore_index=ignore_index)
        assert (out.m2 is None) == (covariance is None)
        return {name: value for name, value in out._asdict().items() if value is not None}

    def operator(self, features, labels, classes, form, ignore_index=255):
        return self.call(class_moments, features, labels, classes, form, ignore_index)

    def reference(self, features, labels, classes, form, ignore_index=255):
        return self.call(reference, features, labels, classes, form, ignore_index)

    def raw(self, features, labels, classes, form):
        op = torch.ops.fastuda.class_moments_full if form == "full" else torch.ops.fastuda.class_moments
        return [(op.default, (features, labels, classes, 255))]


def by_definition(features, labels, num_classes):
    """The N x K x A formulation in float64: what the reference itself is checked against."""
    pixels = rows(features.double())
    member = (labels.reshape(-1, 1) == torch.arange(num_classes)).double()
    count = member.sum(0)
    mean = (member.T @ pixels) / count.clamp_min(1).unsqueeze(1)
    centred = (pixels.unsqueeze(1) - mean) * member.unsqueeze(2)
    return count.long(), mean, centred.square().sum(0), torch.einsum("pka,pkb->kab", centred, centred)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reference_is_the_definition(dtype):
    features, labels = make((2, 5, 7, 11), 4, torch.float64)
    count, mean, diag, full = by_definition(features.to(dtype), labels, 4)
    eps = 16 * torch.finfo(dtype).eps
    for covariance, m2 in (("diag", diag), ("full", full)):
        out = reference(features.to(dtype), labels, 4, covariance)
        assert torch.equal(out.count, count)
        assert out.mean.dtype == dtype
        torch.testing.assert_close(out.mean.double(), mean, rtol=0, atol=mean.abs().max().item() * eps)
        torch.testing.assert_close(out.m2.double(), m2, rtol=0, atol=m2.abs().max().item() * eps)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_reference_gradcheck(covariance):
    features, labels = make((1, 3, 3, 4), 3, torch.float64)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference(x, labels, 3, covariance)[1:], (features,))


def test_many_chunks_with_a_large_offset():
    # 30,000 pixels a thousand standard deviations from zero: sums of squares that are not centred lose everything.
    features, labels = make((2, 96, 100, 150), 19)
    out = class_moments(features + 1000, labels, 19)
    TestContract().check(features + 1000, labels, 19)
    spread = out.m2 / out.count.unsqueeze(1)
    assert ((spread - 1).abs() < 0.2).all()


def test_a_missing_or_ignored_class_counts_nothing():
    features, labels = make((1, 8, 5, 6), 3)
    for out in (
        class_moments(features, torch.where(labels == 1, 2, labels), 3),
        class_moments(features, labels.clamp(0, 2), 3, ignore_index=1),
        *(class_moments(features, labels.masked_fill(labels == 1, v), 3) for v in (-1, -(2**40), 3, 2**31, 2**40)),
    ):
        assert out.count[1] == 0 and out.count[0] > 0
        assert not out.mean[1].any()
        assert not out.m2[1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_finite_sixteen_bit_value_is_read_exactly(dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[values.isfinite() & (values.abs() < 2.0**60)].unsqueeze(1)
    for x in (values, values.expand(-1, 20).contiguous()):
        out = class_moments(x, torch.arange(len(values)), len(values), ignore_index=-1)
        assert torch.equal(out.mean, x.float())


def test_no_gradient():
    features, labels = make((1, 8, 9, 7), 4)
    for covariance in ("diag", "full"):
        out = class_moments(features.requires_grad_(), labels, 4, covariance=covariance)
        assert not out.mean.requires_grad and not out.m2.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets.ISAS)
def test_each_instruction_set(isa, compiled):
    instruction_sets.assert_passes(isa, "layouts_and_dtypes or sixteen_bit or large_offset", __file__)


def test_user_errors():
    features, labels = make((1, 4, 3, 3), 2)
    with pytest.raises(ValueError, match="num_classes"):
        class_moments(features, labels, 0)
    with pytest.raises(ValueError, match="covariance"):
        class_moments(features, labels, 2, covariance="tied")


def full_resolution(height, width, num_classes=5, seed=0, dtype=torch.uint8):
    """Labels in blobs of about 6 x 6 pixels, some of them ignored, so that cells are pure, mixed and empty."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, num_classes + 1, (2, height // 6 + 1, width // 6 + 1), generator=g)
    labels = coarse.repeat_interleave(6, 1).repeat_interleave(6, 2)[:, :height, :width]
    noisy = torch.rand(labels.shape, generator=g) < 0.1
    labels = torch.where(noisy, torch.randint(0, num_classes, labels.shape, generator=g), labels)
    return labels.where(labels < num_classes, 255).to(dtype)


def ratio_by_definition(labels, height, width, num_classes, min_ratio, ignore_index=255):
    """DAFormer's rule with the one-hot of all labels: average pooling of K + 1 planes, the largest, the threshold."""
    index = labels.long()
    index = index.where((index >= 0) & (index < num_classes) & (index != ignore_index), num_classes)
    planes = F.one_hot(index, num_classes + 1).movedim(3, 1).float()
    share, label = F.avg_pool2d(planes, (labels.shape[1] // height, labels.shape[2] // width)).max(1)
    return label.where((label < num_classes) & (share >= min_ratio), -1)


@pytest.mark.parametrize("size", [(6, 8), (12, 16), (24, 64), (7, 13), (9, 63), (1, 1), (23, 33)])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_nearest_picks_the_floor_of_the_position(size, dtype):
    labels = full_resolution(24, 64, dtype=dtype)
    number = torch.arange(24 * 64.0).view(1, 24, 64)
    rows, columns = (torch.arange(new) * old // new for new, old in zip(size, (24, 64), strict=True))
    picked = number[:, rows][:, :, columns]
    assert torch.equal(downsample_labels(number, size, 5), picked)
    small = labels.flatten(1)[:, picked.long().flatten()].view(2, *size)
    assert torch.equal(downsample_labels(labels, size, 5), small)
    features = torch.randn(2, 3, *size)
    ours = class_moments(features, labels, 5, downsample="nearest", covariance="full")
    for a, b in zip(ours, class_moments(features, small, 5, covariance="full"), strict=True):
        assert torch.equal(a, b)


def test_nearest_is_exact_where_torch_rounds_to_a_pixel_below():
    """Every pair of sizes up to 70; at 26 -> 22, for example, torch is a pixel below floor(i H / h)."""
    inexact = 0
    for old in range(1, 71):
        line = torch.arange(float(old))
        for new in range(1, old + 1):
            exact = torch.tensor([i * old // new for i in range(new)])
            for labels, size in ((line.view(1, old, 1), (new, 1)), (line.view(1, 1, old), (1, new))):
                assert torch.equal(downsample_labels(labels, size, 2).flatten().long(), exact)
            torchs = F.interpolate(line.view(1, 1, old, 1), size=(new, 1), mode="nearest").flatten().long()
            inexact += not torch.equal(torchs, exact)
            assert ((exact - torchs >= 0) & (exact - torchs <= 1)).all()
    assert inexact > 5


def test_nearest_at_a_whole_factor_copies_no_label():
    labels = full_resolution(24, 64)
    small = downsample_labels(labels, (6, 8), 5)
    assert small.data_ptr() == labels.data_ptr() and small.stride() == (24 * 64, 4 * 64, 8)
    assert downsample_labels(labels, (24, 64), 5) is labels


@pytest.mark.parametrize("size", [(3, 8), (12, 16), (24, 64), (24, 32), (1, 1)])
@pytest.mark.parametrize("min_ratio", [0.0, 0.4, 0.55, 0.75, 1.0])
def test_ratio_rule(size, min_ratio):
    for dtype, labels in ((d, full_resolution(24, 64, dtype=d)) for d in LABEL_DTYPES):
        expected = ratio_by_definition(labels, *size, 5, min_ratio)
        found = downsample_labels(labels, size, 5, rule="ratio", min_ratio=min_ratio)
        assert found.dtype == torch.int32 and torch.equal(found.long(), expected), dtype
        features = torch.randn(2, 3, *size)
        ours = class_moments(features, labels, 5, downsample="ratio", min_ratio=min_ratio)
        for a, b in zip(ours, class_moments(features, expected, 5), strict=True):
            assert torch.equal(a, b)
    if size == (12, 16) and min_ratio == 0.55:
        assert 0 < (expected >= 0).float().mean() < 1 and len(expected.unique()) == 6


def test_ratio_rule_in_detail(monkeypatch):
    # One row of cells of 1 x 4 pixels: share exactly met, not met, a tie, ignored in the denominator, ignored leads.
    row = torch.tensor([[[1, 1, 1, 0, 1, 1, 0, 2, 2, 0, 0, 2, 1, 1, 255, 7, 255, -9, 1, 1]]])
    for min_ratio, expected in ((0.75, [1, -1, -1, -1, -1]), (0.5, [1, 1, 0, 1, 1]), (0.51, [1, -1, -1, -1, -1])):
        found = downsample_labels(row, (1, 5), 3, rule="ratio", min_ratio=min_ratio)
        assert found.flatten().tolist() == expected
    leads = torch.tensor([[[255, 255, 1, 2]]])
    assert downsample_labels(leads, (1, 1), 3, rule="ratio", min_ratio=0.0).item() == -1
    assert downsample_labels(leads, (1, 1), 256, rule="ratio", min_ratio=0.5, ignore_index=-1).item() == 255
    assert downsample_labels(leads, (1, 1), 256, rule="ratio", min_ratio=0.2, ignore_index=255).item() == -1
    # The comparison is in float32: 11 of 20 pixels are 0.55, though 0.55 * 20 is above 11 in float64.
    assert downsample_labels((torch.arange(20) > 10).long().view(1, 4, 5), (1, 1), 2, rule="ratio", min_ratio=0.55) == 0
    labels = full_resolution(24, 64)
    whole = downsample_labels(labels, (6, 8), 5, rule="ratio")
    monkeypatch.setattr("fastuda.reference.class_moments.CHUNK_COUNTERS", 1)
    assert torch.equal(downsample_labels(labels, (6, 8), 5, rule="ratio"), whole)


def test_ratio_rule_in_other_contexts():
    op = torch.ops.fastuda.dominant_labels.default
    for labels in (full_resolution(24, 64), full_resolution(64, 24, dtype=torch.int32).mT):
        torch.library.opcheck(op, (labels, 6, 8, 5, 0.75, 255))
    features, labels = torch.randn(2, 3, 6, 8), full_resolution(24, 64)
    for rule in ("nearest", "ratio"):
        call = torch.compile(lambda x, y: class_moments(x, y, 5, downsample=rule), fullgraph=True, backend="aot_eager")  # noqa: B023
        for a, b in zip(call(features, labels), class_moments(features, labels, 5, downsample=rule), strict=True):
            assert torch.equal(a, b)
    assert downsample_labels(labels[:0], (6, 8), 5, rule="ratio").shape == (0, 6, 8)
    assert downsample_labels(labels, (0, 8), 5).shape == (2, 0, 8)


def test_downsampling_makes_no_float_copy_and_no_one_hot():
    labels = full_resolution(240, 320)
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if t.untyped_storage().data_ptr() != labels.data_ptr():
                    largest = max(largest, t.untyped_storage().nbytes())
            return result

    with Largest():
        nearest_labels(labels, (30, 40)), dominant_labels(labels, 30, 40, 5, 0.75)
    assert 0 < largest <= 2 * 30 * 40 * 4 * (5 + 1) < labels.nbytes


@pytest.mark.parametrize(
    "message, change",
    {
        "downsample must be": {"downsample": "mode"},
        r"labels must have shape \(2, 6, 8\) to match": {},
        r"labels must have shape \(2, 6, 8\) or larger": {
            "downsample": "nearest",
            "labels": torch.zeros(2, 5, 9).byte(),
        },
        "must be a multiple": {"downsample": "ratio", "labels": torch.zeros(2, 25, 64).byte()},
        "min_ratio must be": {"downsample": "ratio", "min_ratio": 75},
    }.items(),
)
def test_downsampling_errors(message, change):
    arguments = {"features": torch.randn(2, 3, 6, 8), "labels": full_resolution(24, 64), "num_classes": 5}
    with pytest.raises(ValueError, match=message):
        class_moments(**arguments | change)
    with pytest.raises(ValueError, match="rule must be"):
        downsample_labels(arguments["labels"], (6, 8), 5, rule="mode")
    with pytest.raises(ValueError, match=r"at least \(6, 80\)"):
        downsample_labels(arguments["labels"], (6, 80), 5)
    with pytest.raises(ValueError, match="neither negative"):
        downsample_labels(arguments["labels"], (-1, 8), 5)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got -1"):
        downsample_labels(arguments["labels"], (6, 8), -1, rule="ratio")
    with pytest.raises(ValueError, match="labels must be uint8, int32 or int64, got torch.float32"):
        downsample_labels(arguments["labels"].float(), (6, 8), 5, rule="ratio")
