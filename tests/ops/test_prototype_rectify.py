"""prototype_rectify: against the product of float64 probabilities, for every size, dtype and layout."""

from __future__ import annotations

import gpu
import pytest
import torch
from near_labels import (
    DTYPES,
    LAYOUTS,
    SIZES,
    ULP,
    assert_labels,
    assert_same_for_threads,
    assert_traces,
    assert_written,
    lay_out,
    logits,
    upsample,
)
from torch import Tensor

from fastuda.ops import prototype_rectify
from fastuda.ops._library import has_kernel


def check(
    scores: Tensor, soft: Tensor, size, temperature=1.0, align_corners: bool = True, backend: str | None = None
) -> Tensor:
    options = {"size": size, "temperature": temperature, "align_corners": align_corners}
    label = gpu.run(backend, lambda x, y: prototype_rectify(x, y, **options), scores, soft)
    size = tuple(scores.shape[2:]) if size is None else size
    up, share = (upsample(x, size, align_corners) for x in (scores, soft))
    keys = up / temperature + share.log()
    unit = torch.finfo(torch.float64).eps * 4 if scores.dtype == torch.float64 else ULP
    largest = (up.abs().max() / temperature).item() + share[share > 0].log().abs().max().item()
    assert_labels(label, keys, 6 * unit * max(1.0, largest))
    return label


def soft_labels(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return logits(*shape, seed=seed).softmax(1).to(dtype)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("source, size", SIZES)
@pytest.mark.parametrize("other", [(8, 11), (90, 40)])
def test_the_definition_at_every_size(source, size, other, align_corners):
    scores = logits(2, 7, *source)
    check(scores, soft_labels(2, 7, *other), size, 1.0, align_corners)
    check(scores, soft_labels(2, 7, *source), size, 1.0, align_corners)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(dtype, layout):
    for soft in DTYPES:
        shares = lay_out(soft_labels(2, 19, 8, 21, dtype=soft), layout)
        found = check(lay_out(logits(2, 19, 10, 21, dtype=dtype), layout), shares, (61, 83))
    assert len(found.unique()) > 10


@pytest.mark.gpu
@gpu.each_backend_and_dtype
def test_gpu_dtypes_and_layouts(backend, dtype):
    for layout in LAYOUTS if dtype == torch.float32 else LAYOUTS[:2]:
        for soft in DTYPES if layout == "nchw" else DTYPES[:1]:
            shares = lay_out(soft_labels(2, 19, 8, 21, dtype=soft), layout)
            with gpu.noted(layout=layout, soft=soft):
                found = check(lay_out(logits(2, 19, 10, 21, dtype=dtype), layout), shares, (61, 83), backend=backend)
    assert len(found.unique()) > 10


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_sizes_classes_and_temperatures(backend):
    for place, (source, size) in enumerate(SIZES):
        soft = soft_labels(2, 19, *((8, 11), (90, 40), source)[place % 3])
        with gpu.noted(source=source, size=size, soft=soft.shape):
            check(logits(2, 19, *source), soft, size, 1.0, place % 2 == 0, backend)
    for classes, temperature in ((1, 1.0), (2, 0.08), (150, 30.0), (255, 0.5)):
        scores = logits(1, classes, 6, 17, scale=0.5)
        check(scores, soft_labels(1, classes, 9, 9), (23, 47), temperature, backend=backend)


@pytest.mark.parametrize("classes", [1, 2, 16, 33, 150, 255])
@pytest.mark.parametrize("temperature", [0.08, 1.0, 30.0])
def test_classes_and_temperatures(classes, temperature):
    scores = logits(1, classes, 6, 17, scale=0.5)
    found = check(scores, soft_labels(1, classes, 9, 9), (23, 47), temperature)
    check(scores, soft_labels(1, classes, 6, 17), None, temperature)
    if classes > 2:
        assert not torch.equal(found, check(scores, torch.full((1, classes, 1, 1), 0.1), (23, 47), temperature))


def test_it_is_the_product_of_both():
    scores = torch.tensor([1.0, 2.0, 0.0]).log().clamp(min=-9).view(1, 3, 1, 1)
    for soft, label in (([0.5, 0.2, 0.3], 0), ([0.5, 0.26, 0.24], 1), ([0.3, 0.0, 0.7], 0), ([0.0, 0.0, 1.0], 2)):
        assert prototype_rectify(scores, torch.tensor(soft).view(1, 3, 1, 1)).item() == label


@pytest.mark.parametrize("least", [1e-3, 1e-20, 1e-38, 1e-44])
def test_a_class_without_probability_never_wins_over_one_with(least):
    """However unlikely the other factor makes it: the product itself is 0 in float32, even in float64."""
    for gap in (10.0, 200.0, 5000.0):
        scores = torch.zeros(1, 4, 1, 20)
        scores[:, 2] = -gap
        soft = torch.zeros(1, 4, 1, 20)
        soft[:, 2] = least
        assert (prototype_rectify(scores, soft, size=(3, 41)) == 2).all()
        soft[:, 0] = -0.5
        assert (prototype_rectify(scores, soft, size=(3, 41)) == 2).all()
        soft[:, 3] = least
        assert (prototype_rectify(scores, soft, size=(3, 41)) == 3).all()


def test_small_probabilities_keep_their_order():
    scores = torch.zeros(1, 3, 1, 1)
    for exponent in range(-140, 0, 3):
        for factor, label in ((0.5, 1), (2.0, 2)):
            soft = torch.tensor([0.0, 2.0**exponent, factor * 2.0**exponent]).view(1, 3, 1, 1)
            assert prototype_rectify(scores, soft).item() == label


def test_no_class_has_any():
    soft = soft_labels(1, 4, 6, 8)
    soft[:, :, :3] = 0
    found = prototype_rectify(logits(1, 4, 6, 8), soft)
    assert (found[:, :3] == 255).all() and (found[:, 3:] < 4).all()


def test_ties_go_to_the_lowest_class():
    scores = logits(1, 1, 4, 5).expand(-1, 5, -1, -1).clone()
    soft = soft_labels(1, 5, 4, 5)[:, :1].expand(-1, 5, -1, -1).clone()
    scores[:, 0] -= 1
    soft[:, 1] *= 0.5
    assert (prototype_rectify(scores, soft, size=(17, 40)) == 2).all()


@pytest.mark.parametrize("cls", [0, 3])
def test_nan_is_never_a_label(cls):
    for where in (0, 1):
        pair = [logits(1, 4, 6, 7), soft_labels(1, 4, 6, 7)]
        clean = prototype_rectify(*pair, size=(12, 14))
        pair[where][0, cls, 2, 3] = torch.nan
        found = prototype_rectify(*pair, size=(12, 14))
        touched = upsample(pair[where], (12, 14), True).isnan().any(1)
        assert touched.any() and (found[touched] == 255).all() and torch.equal(found[~touched], clean[~touched])


def test_same_bits_for_threads_tracing_and_poisoned_memory():
    scores, soft = logits(2, 9, 30, 41), soft_labels(2, 9, 15, 20)

    def call():
        return (prototype_rectify(scores * 1, soft, size=(120, 163)),)

    assert_same_for_threads(call)
    assert_written(call)
    assert_traces(call)
    scores.requires_grad_()
    assert not call()[0].requires_grad
    assert prototype_rectify(scores[:0], soft[:0]).shape == (0, 30, 41)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    raw = torch.ops.fastuda.prototype_rectify.default
    for layout in ("nchw", "channels_last"):
        scores = lay_out(logits(2, 5, 6, 7, dtype=dtype), layout)
        torch.library.opcheck(raw, (scores, soft_labels(2, 5, 3, 9), 13, 20, 0.5, True))
        torch.library.opcheck(raw, (scores, lay_out(scores, "inside_nan"), 6, 7, 1.0, False))


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("prototype_rectify", "CPU"), "no compiled kernel, every test would test the reference"


def test_the_raw_operator_refuses_what_it_would_misread(compiled):
    scores, soft = logits(1, 3, 4, 5), soft_labels(1, 3, 2, 2)
    for bad in (
        (scores[0], soft, 8, 9, 1.0, True),
        (scores.int(), soft, 8, 9, 1.0, True),
        (scores, soft.int(), 8, 9, 1.0, True),
        (scores, soft[:, :2], 8, 9, 1.0, True),
        (scores, soft[:0], 8, 9, 1.0, True),
        (scores, soft, 8, -1, 1.0, True),
        (scores, soft, 8, 9, 0.0, True),
        (logits(1, 256, 2, 2), soft_labels(1, 256, 2, 2), 8, 9, 1.0, True),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.fastuda.prototype_rectify(*bad)


BAD = {
    "scores must be float32": {"scores": torch.zeros(1, 3, 4, 5, dtype=torch.int64)},
    "scores must have at most 255": {"scores": torch.zeros(1, 256, 2, 2)},
    r"soft must be \(N, K, h, w\)": {"soft": torch.zeros(3, 4, 5)},
    r"soft must be \(1, 3\) \+ \(h, w\)": {"soft": torch.zeros(1, 2, 4, 5)},
    "soft is on meta": {"soft": torch.zeros(1, 3, 4, 5, device="meta")},
    r"size must be \(height, width\)": {"size": (0, 5)},
    "temperature must be positive": {"temperature": 0.0},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    with pytest.raises(ValueError, match=message):
        prototype_rectify(**({"scores": torch.zeros(1, 3, 4, 5), "soft": torch.zeros(1, 3, 2, 2)} | change))
