"""pseudo_labels and select_balanced: against float64, for every size, dtype, layout and rule."""

from __future__ import annotations

import gpu
import pytest
import torch
from close import assert_as_accurate
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

from fastuda.ops import pseudo_labels, select_balanced
from fastuda.ops._library import has_kernel
from fastuda.reference.pseudo_labels import pseudo_labels as reference


def spread(classes: int, seed: int = 0) -> Tensor:
    """Thresholds that keep some pixels of each class and drop others."""
    return torch.rand(classes, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1


def check(
    scores: Tensor, size, threshold: Tensor, probabilities=False, balanced=False, align_corners=True, backend=None
) -> Tensor:
    """Run the operator and hold it against PyTorch's own upsampling and softmax in float64."""

    def call(x: Tensor, least: Tensor, with_confidence: bool) -> tuple[Tensor, Tensor] | Tensor:
        options = {"size": size, "probabilities": probabilities, "align_corners": align_corners}
        rule = {"thresholds" if balanced else "threshold": least}
        return (select_balanced if balanced else pseudo_labels)(x, return_confidence=with_confidence, **options, **rule)

    label, confidence = gpu.run(backend, call, scores, threshold, True)
    size = tuple(scores.shape[2:]) if size is None else size
    up = upsample(scores, size, align_corners)
    p = up if probabilities else up.softmax(1)
    double = scores.dtype == torch.float64
    unit = torch.finfo(torch.float64).eps * 4 if double else ULP
    steps = 4 * unit * up.abs().max().clamp(min=1).item()
    keys = p.log() - threshold.double().log().view(-1, 1, 1) if balanced else up
    band = 4 * steps if not probabilities else steps
    only = gpu.run(backend, call, scores, threshold, False)
    for found in (label, only):
        assert_labels(found, keys, 4 * steps if balanced else steps, p, threshold, band)
    best = p.gather(1, keys.argmax(1, keepdim=True)).squeeze(1)
    plain = reference(scores, threshold, *size, probabilities, balanced, align_corners, True)[1]
    if balanced:  # of two near quotients, either's probability
        best = best.where(label == 255, p.gather(1, label.long().clamp(max=p.shape[1] - 1).unsqueeze(1)).squeeze(1))
        assert (confidence.double() - best).abs().where(label != 255, 0).max() <= band
    else:
        assert_as_accurate(confidence, plain, best, 4 * unit, "confidence")
    assert confidence.dtype == (torch.float64 if double else torch.float32)
    assert backend or torch.equal(only, label), "other labels without the confidence"
    return label


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("source, size", SIZES)
def test_the_definition_at_every_size(source, size, align_corners):
    scores = logits(2, 7, *source)
    for balanced in (False, True):
        check(scores, size, spread(7), False, balanced, align_corners)
        label = check(scores.softmax(1), size, spread(7), True, balanced, align_corners)
    assert label.shape == (2, *size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(dtype, layout):
    scores = lay_out(logits(2, 19, 10, 21, dtype=dtype), layout)
    for balanced in (False, True):
        found = check(scores, (61, 83), spread(19), False, balanced)
        assert (found == 255).any() and len(found.unique()) > 10
        check(lay_out(logits(2, 19, 10, 21).softmax(1).to(dtype), layout), (61, 83), spread(19), True, balanced)


@pytest.mark.gpu
@gpu.each_backend_and_dtype
def test_gpu_dtypes_and_layouts(backend, dtype):
    for layout in LAYOUTS if dtype == torch.float32 else LAYOUTS[:2]:
        scores = lay_out(logits(2, 19, 10, 21, dtype=dtype), layout)
        for balanced in (False, True):
            with gpu.noted(layout=layout, balanced=balanced):
                found = check(scores, (61, 83), spread(19), False, balanced, backend=backend)
        shares = lay_out(logits(2, 19, 10, 21).softmax(1).to(dtype), layout)
        check(shares, (61, 83), spread(19), True, balanced, backend=backend)
    assert (found == 255).any() and len(found.unique()) > 10


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_sizes_and_classes(backend):
    for place, (source, size) in enumerate(SIZES):
        with gpu.noted(source=source, size=size):
            check(logits(2, 19, *source), size, spread(19), False, place % 2 == 0, place % 3 == 0, backend)
    for classes in (1, 2, 150, 255):
        for balanced in (False, True):
            check(logits(1, classes, 6, 17), (23, 47), spread(classes) / classes, False, balanced, backend=backend)


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 33, 150, 255])
def test_any_number_of_classes(classes):
    for layout in ("nchw", "channels_last"):
        scores = lay_out(logits(1, classes, 6, 17), layout)
        for balanced in (False, True):
            check(scores, (23, 47), spread(classes) / classes, False, balanced)
        check(scores, None, spread(classes))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 400.0])
def test_any_spread_of_logits(scale):
    scores = logits(1, 11, 9, 20, scale=scale)
    check(scores, (40, 90), spread(11))
    check(scores, (40, 90), spread(11), balanced=True)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_ties_go_to_the_lowest_class(probabilities, balanced):
    scores = logits(1, 1, 5, 9).abs().expand(-1, 6, -1, -1).clone()
    scores[:, [0, 3]] -= 1 if not probabilities else 0.5 * scores[:, [0, 3]]
    if probabilities:
        scores /= 10
    rule = select_balanced if balanced else pseudo_labels
    least = torch.full((6,), 1e-3)
    assert (rule(scores, **{"thresholds" if balanced else "threshold": least}, probabilities=probabilities) == 1).all()
    up = {"size": (33, 70), "probabilities": probabilities}
    assert (rule(scores, **{"thresholds" if balanced else "threshold": least}, **up) == 1).all()


def test_a_confidence_equal_to_the_threshold_is_kept():
    scores = logits(2, 5, 20, 33).softmax(1)
    best, place = scores.max(1)
    least = torch.stack([best[place == k].min() for k in range(5)])
    for rule in (pseudo_labels(scores, threshold=least, probabilities=True), pseudo_labels(scores, probabilities=True)):
        assert torch.equal(rule.long(), place)
    dropped = pseudo_labels(scores, threshold=torch.nextafter(least, torch.tensor(2.0)), probabilities=True)
    assert (dropped == 255).sum() == sum(int((best == least[k]).logical_and(place == k).sum()) for k in range(5))


@pytest.mark.parametrize("size", [None, (90, 131)])
def test_the_returned_confidence_is_what_is_compared(size):
    """A threshold taken from the confidences keeps exactly the pixels that are not below it."""
    scores = logits(1, 4, 12, 18)
    label, confidence = pseudo_labels(scores, size=size, return_confidence=True)
    assert (label != 255).all()
    least = torch.stack([confidence[label == k].median() for k in range(4)])
    expected = label.where(confidence >= least[label.long()], 255)
    assert torch.equal(pseudo_labels(scores, size=size, threshold=least), expected)
    assert 0.3 < (expected == 255).float().mean() < 0.6


def test_one_threshold_for_all_is_a_number_or_as_many():
    scores = logits(2, 6, 7, 8)
    one = pseudo_labels(scores, size=(30, 40), threshold=0.6)
    many = torch.full((6,), 0.6)
    assert torch.equal(one, pseudo_labels(scores, size=(30, 40), threshold=many))
    assert torch.equal(one, pseudo_labels(scores, size=(30, 40), threshold=many.double()))
    assert torch.equal(one, select_balanced(scores, many, size=(30, 40)))


def test_a_small_threshold_wins_over_a_large_probability():
    p = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    for k, label in (
        ([0.5, 0.2, 0.5], 1),  # 1.2, 1.5, 0.2
        ([0.5, 0.28, 0.5], 0),  # 1.2, 1.07, 0.2
        ([0.7, 0.4, 0.3], 255),
        ([0.7, 0.31, 0.09], 2),
        ([0.5, 0.0, 0.5], 0),  # no threshold, no label
        ([0.9, 0.0, -1.0], 255),
    ):
        for scores, form in ((p, True), (p.log(), False)):
            found = select_balanced(scores, torch.tensor(k), probabilities=form, return_confidence=True)
            assert found.label.item() == label
            if label != 255:
                torch.testing.assert_close(found.confidence.item(), p.flatten()[label].item())


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("cls", [0, 2, 4])
def test_nan_is_never_a_label(cls, probabilities):
    scores = logits(1, 5, 6, 7).softmax(1)
    scores[0, cls, 2, 3] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # the NaN that CUDA makes
    for rule in (pseudo_labels, lambda *a, **k: select_balanced(*a, torch.full((5,), 0.01), **k)):
        clean = rule(scores.nan_to_num(0.1), size=(12, 14), probabilities=probabilities)
        found = rule(scores, size=(12, 14), probabilities=probabilities, return_confidence=True)
        touched = upsample(scores, (12, 14), True).isnan().any(1)
        assert touched.any() and (found.label[touched] == 255).all() and found.confidence[touched].isnan().all()
        assert torch.equal(found.label[~touched], clean[~touched]) and not found.confidence[~touched].isnan().any()


def test_infinite_logits():
    scores = torch.zeros(1, 3, 1, 40)
    scores[0, 1] = -torch.inf
    scores[0, 2, 0, ::2] = 1
    for value, expected in ((-torch.inf, 255), (torch.inf, 255)):
        assert (pseudo_labels(torch.full((1, 3, 1, 5), value)) == expected).all()
    assert set(pseudo_labels(scores).unique().tolist()) <= {255}  # interpolation of infinities is NaN
    far = scores.clamp(min=-1e30)
    assert torch.equal(pseudo_labels(far)[0, 0], torch.tensor([2, 0] * 20, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 2, 1, 1), (1, 1, 1, 1)])
def test_ugly_shapes(shape):
    for size in (None, (1, 1), (17, 16)):
        label, confidence = pseudo_labels(torch.zeros(shape), size=size, return_confidence=True)
        assert label.shape == confidence.shape == (shape[0], *(size or shape[2:]))
        assert not label.any() and (confidence == 1 / shape[1]).all()


def test_images_do_not_touch_each_other():
    scores = logits(5, 4, 6, 7)
    whole = pseudo_labels(scores, size=(29, 41), threshold=0.5)
    for i in range(5):
        assert torch.equal(pseudo_labels(scores[i : i + 1], size=(29, 41), threshold=0.5)[0], whole[i])


@pytest.mark.parametrize("balanced", [False, True])
def test_same_bits_for_threads_tracing_and_poisoned_memory(balanced):
    scores, thresholds = logits(2, 9, 30, 41), spread(9)

    def call():
        options = {"size": (120, 163), "return_confidence": True}
        if balanced:
            return tuple(select_balanced(scores * 1, thresholds, **options))
        return tuple(pseudo_labels(scores * 1, threshold=0.5, **options))

    assert_same_for_threads(call)
    assert_written(call)
    assert_traces(call)
    scores.requires_grad_()
    assert not call()[1].requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    scores = logits(2, 5, 6, 7, dtype=dtype)
    for layout in ("nchw", "channels_last"):
        for options in ((13, 20, False, False, True, True), (6, 7, True, True, False, False)):
            arguments = (lay_out(scores, layout), spread(5), *options)
            torch.library.opcheck(torch.ops.fastuda.pseudo_labels.default, arguments)


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("pseudo_labels", "CPU"), "no compiled kernel, every test would test the reference"


def test_the_raw_operator_refuses_what_it_would_misread(compiled):
    scores, options = logits(1, 3, 4, 5), (8, 9, False, False, True, True)
    for bad in (
        (scores[0], spread(3), *options),
        (scores.int(), spread(3), *options),
        (scores, spread(2), *options),
        (scores, spread(3).half(), *options),
        (scores, spread(3)[None], *options),
        (scores, spread(3), -1, 9, False, False, True, True),
        (logits(1, 256, 2, 2), spread(256), *options),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.fastuda.pseudo_labels(*bad)


BAD = {
    "scores must be float32": {"scores": torch.zeros(1, 3, 4, 5, dtype=torch.int64)},
    r"scores must be \(N, K, h, w\)": {"scores": torch.zeros(3, 4, 5)},
    "scores must have at most 255 classes": {"scores": torch.zeros(1, 256, 2, 2)},
    r"size must be \(height, width\)": {"size": (0, 5)},
    "threshold must be float32 or float64 of shape": {"threshold": torch.zeros(2)},
    "threshold is on meta": {"threshold": torch.zeros(3, device="meta")},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    with pytest.raises(ValueError, match=message):
        pseudo_labels(**({"scores": torch.zeros(1, 3, 4, 5)} | change))
    change = {"thresholds" if name == "threshold" else name: value for name, value in change.items()}
    with pytest.raises(ValueError, match=message.replace("threshold ", "thresholds ")):
        select_balanced(**({"scores": torch.zeros(1, 3, 4, 5), "thresholds": torch.ones(3)} | change))


def test_balanced_thresholds_are_a_tensor():
    with pytest.raises(ValueError, match="thresholds must be a tensor, got float"):
        select_balanced(torch.zeros(1, 3, 4, 5), 0.5)
