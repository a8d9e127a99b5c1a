"""Full class moments in C++: panels, blocks, layouts and threads; the contract itself is in test_class_moments.py."""

import instruction_sets
import pytest
import torch
from close import assert_as_accurate

from fastuda.ops._library import has_kernel
from fastuda.reference.class_moments import class_moments as reference

EPS = 16 * torch.finfo(torch.float32).eps
FULL = torch.ops.fastuda.class_moments_full


@pytest.fixture(autouse=True)
def poisoned_memory(compiled):
    assert has_kernel("class_moments_full", "CPU")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make(pixels, channels, classes, dtype=torch.float32, seed=0):
    """Correlated features a few deviations from zero, labels of which some are ignored or out of range."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=g) / channels**0.5
    labels = torch.randint(-1, classes + 2, (pixels,), generator=g)
    offset = 3 * torch.randn(classes, channels, generator=g)
    features = torch.randn(pixels, channels, generator=g) @ mixing + offset[labels.clamp(0, classes - 1)]
    return features.to(dtype), labels


def check(features, labels, classes, eps=EPS):
    count, mean, m2 = FULL(features, labels, classes, 255)
    truth = reference(features.double(), labels, classes, "full")
    plain = reference(features, labels, classes, "full")
    assert torch.equal(count, truth.count)
    assert_as_accurate(mean, plain.mean, truth.mean, eps, "mean")
    assert_as_accurate(m2, plain.m2, truth.m2, eps, "m2")
    for ours, exact in zip(m2, truth.m2, strict=True):  # small classes too, each by its own scale
        error = (ours.double() - exact).abs().max().item()
        assert error <= 8 * eps * exact.abs().max().item(), f"a class's m2 is off by {error:.1e}"
    assert torch.equal(m2, m2.mT)
    return m2


# Columns go in strips of 48 (24 for float64), rows in panels of 512.
@pytest.mark.parametrize("channels", [1, 5, 15, 16, 17, 48, 49, 64, 97, 130])
def test_every_block_of_channels(channels):
    check(*make(700, channels, 3), 3)
    check(*make(300, channels, 3, torch.float64), 3, eps=1e-13)


@pytest.mark.parametrize("pixels", [1, 2, 63, 511, 512, 513, 1025, 3000])
def test_every_length_of_a_panel(pixels):
    features, labels = make(pixels, 20, 2)
    check(features, torch.zeros_like(labels), 2)  # the second class is missing
    check(features, labels, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced", "rows", "columns"])
def test_layouts_and_dtypes(layout, dtype):
    features, labels = make(2 * 9 * 14, 37, 4, dtype)
    image, classes = features.view(2, 9, 14, 37).permute(0, 3, 1, 2), labels.view(2, 9, 14)
    if layout == "nchw":
        check(image.contiguous(), classes.to(torch.int32), 4)
    elif layout == "channels_last":
        check(image, classes, 4)
    elif layout == "sliced":
        check(image.contiguous()[:, 1:, 1:, ::2], classes[:, 1:, ::2], 4)
    elif layout == "rows":
        check(features, labels.clamp(min=0).to(torch.uint8), 4)
    else:
        check(features.T.contiguous().T, labels, 4)


def test_a_large_offset_costs_no_digits():
    features, labels = make(2000, 40, 3)
    check(features + 1000, labels, 3, eps=4 * EPS)


def test_ignored_features_are_not_read_into_any_class():
    features, labels = make(600, 20, 3)
    clean = check(features, labels, 3)
    ignored = ((labels < 0) | (labels >= 3)).unsqueeze(1)
    assert torch.equal(FULL(features.masked_fill(ignored, float("nan")), labels, 3, 255)[2], clean)
    assert not FULL(features, torch.full_like(labels, 255), 3, 255)[2].any()
    assert FULL(features[:0], labels[:0], 3, 255)[2].shape == (3, 20, 20)


def test_same_bits_for_every_number_of_threads():
    features, labels = make(5000, 130, 4)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(FULL(features, labels, 4, 255))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets.ISAS)
def test_each_instruction_set(isa):
    instruction_sets.assert_passes(isa, "test", __file__)
