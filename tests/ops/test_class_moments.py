import os
import subprocess
import sys

import pytest
import torch
from close import assert_as_accurate
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.ops import class_moments
from fastuda.ops._library import has_kernel
from fastuda.reference.class_moments import class_moments as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("nchw", "channels_last", "rows", "sliced", "strided", "channel_slice")
EPS = 16 * torch.finfo(torch.float32).eps  # of the largest statistic: the 2e-6 of a shifted one-pass sum in float32


def make(shape, num_classes, dtype=torch.float32, label_dtype=torch.int64, seed=0):
    """Features with a different offset in each class and channel, labels with ignored and out-of-range values."""
    g = torch.Generator().manual_seed(seed)
    n, channels, height, width = shape
    low, high = (0, 256) if label_dtype == torch.uint8 else (-2, num_classes + 2)
    labels = torch.randint(low, high, (n, height, width), generator=g)
    some = torch.rand(labels.shape, generator=g) < 0.8
    labels = torch.where(some, torch.randint(0, num_classes, labels.shape, generator=g), labels)
    offset = 3 * torch.randn(num_classes, channels, generator=g)
    features = torch.randn(n, height, width, channels, generator=g) + offset[labels.clamp(0, num_classes - 1)]
    return features.permute(0, 3, 1, 2).contiguous().to(dtype), labels.to(label_dtype)


def lay_out(features, labels, layout):
    if layout == "channels_last":
        return features.contiguous(memory_format=torch.channels_last), labels
    if layout == "rows":
        return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]), labels.reshape(-1)
    if layout == "sliced":
        return features[:, :, 1:, 2:], labels[:, 1:, 2:]
    if layout == "strided":
        return features[:, :, ::2, ::3], labels[:, ::2, ::3]
    if layout == "channel_slice":
        return features.contiguous(memory_format=torch.channels_last)[:, 1:], labels
    return features, labels


def check(features, labels, num_classes, covariance="diag", ignore_index=255):
    ours = class_moments(features, labels, num_classes, covariance=covariance, ignore_index=ignore_index)
    truth = reference(features.double(), labels, num_classes, covariance, ignore_index)
    plain = reference(features, labels, num_classes, covariance, ignore_index)
    assert ours.count.dtype == torch.int64
    assert torch.equal(ours.count, truth.count)
    assert_as_accurate(ours.mean, plain.mean, truth.mean, EPS, "mean")
    if covariance is None:
        assert ours.m2 is None
    else:
        assert_as_accurate(ours.m2, plain.m2, truth.m2, EPS, "m2")
    return ours


def by_definition(features, labels, num_classes):
    """The N x K x A formulation in float64: what the reference itself is checked against."""
    rows = features.double().permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    member = (labels.reshape(-1, 1) == torch.arange(num_classes)).double()
    count = member.sum(0)
    mean = (member.T @ rows) / count.clamp_min(1).unsqueeze(1)
    centred = (rows.unsqueeze(1) - mean) * member.unsqueeze(2)
    return count.long(), mean, centred.square().sum(0), torch.einsum("pka,pkb->kab", centred, centred)


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("class_moments", "CPU"), (
        "the CPU key holds no compiled kernel: every test would test the reference"
    )


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


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_layouts_and_dtypes(dtype, layout, label_dtype):
    features, labels = lay_out(*make((2, 37, 19, 23), 13, dtype, label_dtype), layout)
    check(features, labels, 13)


@pytest.mark.parametrize("layout", ["nchw", "rows"])
@pytest.mark.parametrize("channels", [1, 19, 64, 256, 2048])
@pytest.mark.parametrize("num_classes", [2, 13, 16, 19, 150])
def test_classes_and_channels(num_classes, channels, layout):
    features, labels = lay_out(*make((1, channels, 17, 29), num_classes), layout)
    check(features, labels, num_classes)


@pytest.mark.parametrize("covariance", ["diag", "full", None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_covariances(dtype, covariance):
    features, labels = make((2, 19, 13, 11), 5, dtype)
    check(features, labels, 5, covariance)


def test_many_chunks_with_a_large_offset():
    # 30,000 pixels a thousand standard deviations from zero: sums of squares that are not centred lose everything.
    features, labels = make((2, 96, 100, 150), 19)
    out = check(features + 1000, labels, 19)
    spread = out.m2 / out.count.unsqueeze(1)
    assert ((spread - 1).abs() < 0.2).all()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 7, 1, 1), (1, 3, 1, 257), (3, 5, 127, 1), (0, 4, 3, 3), (2, 4, 0, 3)]
)
def test_ugly_shapes(shape):
    for layout in ("nchw", "channels_last", "rows"):
        features, labels = lay_out(*make(shape, 3), layout)
        check(features, labels, 3)


def test_all_ignored_and_missing_class():
    features, labels = make((1, 8, 5, 6), 3)
    out = check(features, torch.full_like(labels, 255), 3)
    assert not out.count.any()
    assert not out.mean.any()
    assert not out.m2.any()
    out = check(features, torch.where(labels == 1, 2, labels), 3)
    assert out.count[1] == 0
    assert not out.mean[1].any()


def test_labels_out_of_range_are_never_an_index():
    features, labels = make((1, 8, 5, 6), 3)
    for value in (-1, -(2**40), 3, 256, 2**31, 2**40):
        out = check(features, labels.masked_fill(labels == 0, value), 3)
        assert out.count[0] == 0
    assert check(features, labels.clamp(0, 2), 3, ignore_index=1).count[1] == 0
    check(features, labels.to(torch.uint8), 300, ignore_index=-100)  # more classes than uint8 has values


def test_ignored_features_are_not_read_into_any_class():
    features, labels = make((1, 20, 9, 9), 3)
    clean = class_moments(features, labels, 3)
    ignored = ((labels < 0) | (labels >= 3)).unsqueeze(1)
    for dirty in (features.masked_fill(ignored, float("nan")), features.masked_fill(ignored, float("inf"))):
        for x in (dirty, dirty.contiguous(memory_format=torch.channels_last)):
            for ours in (class_moments(x, labels, 3), reference(x, labels, 3)):
                assert ours.m2.isfinite().all()
                torch.testing.assert_close(ours.mean, clean.mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_finite_sixteen_bit_value_is_read_exactly(dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[values.isfinite() & (values.abs() < 2.0**60)].unsqueeze(1)
    for x in (values, values.expand(-1, 20).contiguous()):
        out = class_moments(x, torch.arange(len(values)), len(values), ignore_index=-1)
        assert torch.equal(out.mean, x.float())


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24)),
    num_classes=st.integers(1, 30),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS[:5]),
    seed=st.integers(0, 2**16),
)
def test_any_shape(shape, num_classes, dtype, layout, seed):
    check(*lay_out(*make(shape, num_classes, dtype, seed=seed), layout), num_classes)


@pytest.mark.parametrize("name", ["class_moments", "class_moments_full"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(name, dtype):
    op = getattr(torch.ops.fastuda, name).default
    for features, labels in (make((2, 6, 5, 4), 3, dtype), lay_out(*make((2, 6, 5, 4), 3, dtype), "rows")):
        torch.library.opcheck(op, (features, labels, 3, 255))


@pytest.mark.parametrize("covariance", ["diag", "full", None])
def test_compile_fullgraph(covariance):
    features, labels = make((1, 8, 9, 7), 4)

    def f(x, y):
        out = class_moments(x * 2, y, 4, covariance=covariance)
        return out.mean + 1, out

    eager, compiled = f(features, labels), torch.compile(f, fullgraph=True, backend="aot_eager")(features, labels)
    torch.testing.assert_close(compiled[0], eager[0])
    for a, b in zip(compiled[1], eager[1], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def test_no_gradient_and_autocast():
    features, labels = make((1, 8, 9, 7), 4)
    plain = class_moments(features, labels, 4, covariance="full")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = class_moments(features.requires_grad_(), labels, 4, covariance="full")
    assert not cast.mean.requires_grad
    assert torch.equal(cast.m2, plain.m2)


def test_nan_filled_allocations():
    features, labels = make((1, 21, 40, 50), 40)
    plain = class_moments(features, labels, 40)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        for layout in ("nchw", "channels_last"):
            check(*lay_out(features, labels, layout), 40)
        assert torch.equal(class_moments(features, labels, 40).m2, plain.m2)
    finally:
        torch.use_deterministic_algorithms(False)


def test_same_bits_for_every_number_of_threads():
    features, labels = make((2, 300, 60, 80), 19)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(class_moments(features, labels, 19))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other.mean, results[0].mean)
        assert torch.equal(other.m2, results[0].m2)


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_each_instruction_set(isa, compiled):
    code = (
        f"from fastuda.ops import build_facts; assert build_facts()['cpu_isa'] in ('portable', '{isa}');"
        "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--import-mode=importlib', "
        f"r'{__file__}', '-k', 'layouts_and_dtypes or sixteen_bit or large_offset']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"FASTUDA_CPU_ISA": isa}, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_agrees_with_cpu(dtype, covariance):
    features, labels = make((2, 64, 31, 29), 19, dtype)
    ours = class_moments(features.cuda(), labels.cuda(), 19, covariance=covariance)
    again = class_moments(features.cuda(), labels.cuda(), 19, covariance=covariance)
    truth = reference(features.double(), labels, 19, covariance)
    plain = reference(features, labels, 19, covariance)
    assert torch.equal(ours.m2, again.m2)
    assert torch.equal(ours.count.cpu(), truth.count)
    assert_as_accurate(ours.mean.cpu(), plain.mean, truth.mean, EPS, "mean")
    assert_as_accurate(ours.m2.cpu(), plain.m2, truth.m2, EPS, "m2")


def test_user_errors():
    features, labels = make((1, 4, 3, 3), 2)
    with pytest.raises(ValueError, match="features must be float32"):
        class_moments(features.long(), labels, 2)
    with pytest.raises(ValueError, match="labels must be uint8"):
        class_moments(features, labels.float(), 2)
    with pytest.raises(ValueError, match=r"labels must have shape \(1, 3, 3\)"):
        class_moments(features, labels[:, :2], 2)
    with pytest.raises(ValueError, match="features must be"):
        class_moments(features[0], labels[0], 2)
    with pytest.raises(ValueError, match="num_classes"):
        class_moments(features, labels, 0)
    with pytest.raises(ValueError, match="covariance"):
        class_moments(features, labels, 2, covariance="tied")
    with pytest.raises(ValueError, match="labels are on meta"):
        class_moments(features, labels.to("meta"), 2)
