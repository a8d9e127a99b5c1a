"""confidence_histogram: against the labels and confidences that it counts, and against float64."""

from __future__ import annotations

import gpu
import pytest
import torch
from near_labels import (
    DTYPES,
    LAYOUTS,
    SIZES,
    assert_same_for_threads,
    assert_traces,
    assert_written,
    lay_out,
    logits,
    upsample,
)
from torch import Tensor

from fastuda.ops import confidence_histogram, pseudo_labels
from fastuda.ops._library import has_kernel


def by_hand(label: Tensor, confidence: Tensor, classes: int, bins: int) -> Tensor:
    counts = torch.zeros(classes, bins, dtype=torch.int64)
    for k in range(classes):
        own = (confidence[label == k].float() * bins).long().clamp(max=bins - 1)
        counts[k] = torch.bincount(own, minlength=bins)
    return counts


def check(
    scores: Tensor, size, bins: int, probabilities: bool = False, align_corners: bool = True, backend: str | None = None
) -> Tensor:
    options = {"size": size, "probabilities": probabilities, "align_corners": align_corners}
    counts = gpu.run(backend, lambda x: confidence_histogram(x, bins=bins, **options), scores)
    assert counts.dtype == torch.int64
    if backend is None:  # compilers of GPUs may round the same formula otherwise in another kernel
        label, confidence = pseudo_labels(scores, return_confidence=True, **options)
        assert torch.equal(counts, by_hand(label, confidence, scores.shape[1], bins)), "not what pseudo_labels returns"
    up = upsample(scores, size or scores.shape[2:], align_corners)
    best, place = (up if probabilities else up.softmax(1)).max(1)
    # A pixel at a bin's edge or between two classes moves by one bin or one class: no more than a few of them do.
    moved = (counts - by_hand(place, best.clamp(max=1), scores.shape[1], bins)).abs().sum() / 2
    assert moved <= 2 + place.numel() / 500, f"{moved} pixels are in other bins than in float64"
    return counts


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("source, size", SIZES)
def test_every_size(source, size, align_corners):
    scores = logits(2, 7, *source)
    assert check(scores, size, 64, False, align_corners).sum() == 2 * size[0] * size[1]
    check(scores.softmax(1), size, 64, True, align_corners)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(dtype, layout):
    check(lay_out(logits(2, 19, 7, 11, dtype=dtype), layout), (31, 45), 32)


@pytest.mark.gpu
@gpu.each_backend_and_dtype
def test_gpu_dtypes_and_layouts(backend, dtype):
    for layout in LAYOUTS if dtype == torch.float32 else LAYOUTS[:2]:
        with gpu.noted(layout=layout):
            check(lay_out(logits(2, 19, 10, 21, dtype=dtype), layout), (61, 83), 32, backend=backend)


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_sizes_bins_and_classes(backend):
    for place, (source, size) in enumerate(SIZES):
        with gpu.noted(source=source, size=size):
            scores = logits(2, 19, *source)
            assert check(scores, size, 64, False, place % 2 == 0, backend).sum() == 2 * size[0] * size[1]
    check(scores.softmax(1), size, 64, True, backend=backend)
    for bins in (1, 1024, 5000):
        check(logits(1, 19, 11, 13), (20, 70), bins, backend=backend)
    for classes in (1, 2, 150, 255):
        check(logits(1, classes, 5, 21), (15, 30), 16, backend=backend)


@pytest.mark.parametrize("bins", [1, 2, 1000, 1024, 5000])
def test_any_number_of_bins(bins):
    check(logits(1, 5, 11, 13), (20, 70), bins)


@pytest.mark.parametrize("classes", [1, 2, 150, 300])
def test_any_number_of_classes(classes):
    scores = logits(1, classes, 5, 21)
    if classes <= 255:
        check(scores, (15, 30), 16)
    counts = confidence_histogram(scores, size=(15, 30), bins=16)
    assert counts.shape == (classes, 16) and counts.sum() == 450


def test_uniform_images_and_the_last_bin():
    """All pixels alike, which a kernel may count at once; a confidence of 1 belongs to the last bin."""
    scores = torch.zeros(1, 3, 4, 5)
    scores[:, 1] = 40
    assert confidence_histogram(scores, size=(37, 83), bins=10)[1, 9] == 37 * 83
    scores[:, 1] = 0
    assert confidence_histogram(scores, size=(37, 83), bins=10)[0, 3] == 37 * 83
    odd = torch.tensor([0.2, 1.0, 1.5, 7e37, -0.5]).view(1, 1, 1, 5)
    assert confidence_histogram(odd, bins=10, probabilities=True)[0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 3]


def test_nan_is_left_out():
    scores = logits(1, 4, 6, 9)
    scores[0, 2, 3, 4] = torch.nan
    touched = int(upsample(scores, (24, 36), True).isnan().any(1).sum())
    assert confidence_histogram(scores, size=(24, 36), bins=8).sum() == 24 * 36 - touched


def test_images_add_up():
    scores = logits(3, 4, 6, 9)
    parts = [confidence_histogram(scores[i : i + 1], size=(20, 31)) for i in range(3)]
    assert torch.equal(torch.stack(parts).sum(0), confidence_histogram(scores, size=(20, 31)))
    assert not confidence_histogram(scores[:0], size=(20, 31)).any()


def test_same_bits_for_threads_tracing_and_poisoned_memory():
    scores = logits(2, 9, 30, 41)

    def call():
        return (confidence_histogram(scores * 1, size=(120, 163)),)

    assert_same_for_threads(call)
    assert_written(call)
    assert_traces(call)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    raw = torch.ops.fastuda.confidence_histogram.default
    for layout in ("nchw", "channels_last"):
        scores = lay_out(logits(2, 5, 6, 7, dtype=dtype), layout)
        torch.library.opcheck(raw, (scores, 13, 20, 32, False, True))
        torch.library.opcheck(raw, (scores, 6, 7, 8, True, False))


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("confidence_histogram", "CPU"), "no compiled kernel, every test would test the reference"


def test_the_raw_operator_refuses_what_it_would_misread(compiled):
    scores = logits(1, 3, 4, 5)
    for bad in (
        (scores[0], 8, 9, 16, False, True),
        (scores.int(), 8, 9, 16, False, True),
        (scores, -1, 9, 16, False, True),
        (scores, 8, 9, 0, False, True),
        (scores, 8, 9, 2**31, False, True),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.fastuda.confidence_histogram(*bad)


BAD = {
    "scores must be float32": {"scores": torch.zeros(1, 3, 4, 5, dtype=torch.int64)},
    r"scores must be \(N, K, h, w\)": {"scores": torch.zeros(3, 4, 5)},
    r"size must be \(height, width\)": {"size": (5,)},
    r"size must be of fewer than 2\^31 pixels": {"size": (2**31, 2)},
    "bins must be at least 1": {"bins": 0},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    with pytest.raises(ValueError, match=message):
        confidence_histogram(**({"scores": torch.zeros(1, 3, 4, 5)} | change))
