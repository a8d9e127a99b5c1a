"""class_thresholds against sorted lists and against its definition."""

import math

import gpu
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.ops import class_thresholds
from fastuda.ops._library import has_kernel
from fastuda.reference.class_thresholds import class_thresholds as definition

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int32, torch.int64)
RAW = torch.ops.fastuda.class_thresholds
RULES = ((0.5, False), (0.2, True), (1.0, True), (0.0, True), (1.0, False), (0.0, False), (1 / 3, True))
# What confidences look like: even, nearly sure, all sure, few values, tiny, any number, all in one last place of 1.
SHAPES = {
    "even": lambda x: x,
    "sure": lambda x: torch.sigmoid(20 * x),
    "certain": lambda x: torch.ones_like(x),
    "steps": lambda x: (x * 5).round() / 5,
    "tiny": lambda x: x * 1e-41,
    "any": lambda x: torch.erfinv(2 * x - 1) * 10 ** (10 * x),
    "next to 1": lambda x: 1 - (x * 4).round() * 2**-24,
    "above 1": lambda x: 1 + x.round() * 2**-23 + (x > 0.9) * x,
    "equal": lambda x: torch.full_like(x, 0.7123),
}


def pixels(shape, classes: int, kind: str = "even", seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences with NaN, labels with ignored and out-of-range ones; the last of several classes is missing."""
    g = torch.Generator().manual_seed(seed)
    confidence = SHAPES[kind](torch.rand(shape, generator=g))
    confidence = confidence.masked_fill(torch.rand(shape, generator=g) < 0.05, torch.nan)
    label = torch.randint(0, max(1, classes - 1), shape, generator=g)
    odd = torch.tensor([255, -1, classes, 2**31 - 1])[torch.randint(0, 4, label.shape, generator=g)]
    return confidence, torch.where(torch.rand(shape, generator=g) < 0.15, odd, label)


def check(
    confidence: torch.Tensor, label: torch.Tensor, classes: int, rules=RULES[:2], ignore: int = 255, backend=None
) -> None:
    for portion, from_top in rules:
        options = classes, portion, from_top, ignore
        ours = gpu.run(backend, lambda c, y, options=options: RAW(c, y, *options), confidence, label)
        assert ours.dtype == torch.float32 and ours.shape == (classes,)
        truth = definition(confidence, label, *options)
        assert torch.equal(ours, truth), f"portion {portion}, {'top' if from_top else 'bottom'}: {ours} is not {truth}"


@settings(max_examples=40, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 19]),
    count=st.integers(0, 200),
    kind=st.sampled_from(list(SHAPES)),
    portion=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_ranks_of_a_sorted_list(classes, count, kind, portion, seed):
    confidence, label = pixels((count,), classes, kind, seed)
    median = class_thresholds(confidence, label, classes)
    top = class_thresholds(confidence, label, classes, rule="portion", portion=portion)
    for k in range(classes):
        own = sorted(v for v in confidence[label == k].tolist() if not math.isnan(v))
        assert median[k] == (own[math.ceil(len(own) / 2) - 1] if own else 1.0)
        assert top[k] == (own[-max(1, math.floor(portion * len(own)))] if own else 1.0)


def test_the_median_is_torchs_and_a_cap_is_an_upper_bound():
    confidence, label = torch.rand(999), torch.randint(0, 3, (999,))
    median = class_thresholds(confidence, label, 4)
    assert median[:3].tolist() == [confidence[label == k].median().item() for k in range(3)] and median[3] == 1
    capped = class_thresholds(confidence, label, 4, cap=0.5)
    assert torch.equal(capped, median.clamp(max=0.5)) and capped[3] == 0.5


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, label_dtype):
    for kind in ("even", "sure"):
        confidence, label = pixels((2, 60, 83), 19, kind)
        check(confidence.to(dtype), label.to(label_dtype), 19)
    between = torch.tensor([0.3, 0.3 + 2**-40], dtype=torch.float64)
    assert torch.equal(class_thresholds(between, torch.zeros(2, dtype=torch.uint8), 1), between[:1].float())


@pytest.mark.parametrize("kind", SHAPES)
def test_rules_and_distributions(kind):
    check(*pixels((1, 90, 91), 5, kind), 5, RULES)


@pytest.mark.parametrize("kind", SHAPES)
def test_many_pixels(kind):
    """More than are collected in the first bin, in every bin, or ever."""
    check(*pixels((2, 400, 500), 3, kind), 3)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype, label_dtype):
    confidence, label = pixels((3, 33, 41), 7)
    confidence, label = confidence.to(dtype), label.to(label_dtype)
    views = {
        "plain": lambda t: t,
        "transposed": lambda t: t.mT.contiguous().mT,
        "inside": lambda t: torch.ones((4, 35, 90), dtype=t.dtype)[1:, 1:-1, 3:85:2].copy_(t),
        "images last": lambda t: t.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    }
    for one in views.values():
        for two in views.values():
            check(one(confidence), two(label), 7, RULES[:1])
    check(confidence[:, :, :1], label[:, :, :1], 7)
    check(confidence[:1, 5:6], label[:1, 5:6], 7)
    assert torch.equal(class_thresholds(confidence[0], label[0], 7), class_thresholds(confidence[:1], label[:1], 7))


def test_every_length_at_the_end_of_everything():
    for count in (*range(35), 1023, 1024, 1025, 2049):
        check(*pixels((count,), 2), 2)


@pytest.mark.parametrize("classes", [1, 2, 64, 150, 300])
def test_numbers_of_classes(classes):
    confidence, label = pixels((1, 150, 200), classes)
    check(confidence, label, classes, ignore=-100)
    check(confidence, label.clamp(-1, 255).to(torch.uint8), classes)


def test_infinities_and_zeros():
    inf = float("inf")
    confidence = torch.tensor([-inf, -3.0, -0.0, 0.0, 0.5, 1.0, 1.5, inf, inf, torch.nan])
    label = torch.zeros(10, dtype=torch.int64)
    for portion in (0.0, 0.12, 0.23, 0.34, 0.45, 0.56, 0.67, 0.78, 0.89, 1.0):
        check(confidence, label, 1, ((portion, False), (portion, True)))
    many = confidence.repeat(20000)
    check(
        many, torch.zeros_like(many, dtype=torch.uint8), 1, ((0.05, False), (0.15, False), (0.35, True), (0.7, False))
    )


def test_what_does_not_count():
    confidence, label = pixels((1, 60, 61), 4)
    plain = class_thresholds(confidence, label.masked_fill(label == 1, 255), 4)
    assert plain[1] == 1
    for value in (-1, -(2**40), 4, 256, 2**31, 2**40):
        assert torch.equal(class_thresholds(confidence, label.masked_fill(label == 1, value), 4), plain)
    assert torch.equal(class_thresholds(confidence, label, 4, ignore_index=1), plain)
    check(confidence, torch.full_like(label, 255), 4)
    check(torch.full_like(confidence, torch.nan), label, 4)


def test_any_number_of_threads():
    confidence, label = pixels((2, 400, 500), 19, "sure")
    first = class_thresholds(confidence, label, 19)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(class_thresholds(confidence, label, 19), first)
    finally:
        torch.set_num_threads(threads)


def test_opcheck_and_compile():
    confidence, label = pixels((2, 9, 11), 5)
    for dtype in DTYPES:
        torch.library.opcheck(RAW.default, (confidence.to(dtype), label, 5, 0.5, False, 255))
    torch.library.opcheck(RAW.default, (confidence.mT, label.mT, 5, 0.2, True, 255))
    torch.library.opcheck(RAW.default, (confidence.flatten(), label.flatten(), 5, 0.2, True, 255))
    step = torch.compile(lambda c, y: class_thresholds(c, y, 5, cap=0.9) + 0, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(confidence, label), class_thresholds(confidence, label, 5, cap=0.9))


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("kind", SHAPES)
def test_gpu_rules_and_distributions(backend, kind):
    check(*pixels((2, 300, 200), 19, kind), 19, RULES, backend=backend)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_dtypes_and_layouts(backend, dtype):
    confidence, label = pixels((3, 33, 41), 19, "sure")
    for label_dtype in LABEL_DTYPES if dtype == torch.float32 else LABEL_DTYPES[:1]:
        check(confidence.to(dtype), label.to(label_dtype), 19, RULES[:1], backend=backend)
    inside = torch.ones((4, 35, 90), dtype=dtype)[1:, 1:-1, 3:85:2].copy_(confidence)
    check(inside, label.mT.contiguous().mT, 19, RULES[:1], ignore=1, backend=backend)


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_classes_and_lengths(backend):
    for count, classes in ((0, 19), (1, 19), (1025, 2), (5000, 150)):
        confidence, label = pixels((count,), classes)
        check(confidence, label, classes, RULES[:1], backend=backend)
    check(confidence, torch.full_like(label, 255), classes, RULES[:1], backend=backend)


@pytest.mark.parametrize(
    "message, change",
    {
        "confidence must be float32": {"confidence": torch.zeros(2, 3, dtype=torch.int64)},
        "label must be uint8": {"label": torch.zeros(2, 3)},
        r"must have one shape, got \(2, 3\) and \(3, 2\)": {"label": torch.zeros(3, 2, dtype=torch.int64)},
        "label is on meta but confidence is on cpu": {"label": torch.zeros(2, 3, dtype=torch.int64, device="meta")},
        "num_classes must be at least 1": {"num_classes": 0},
        'rule must be "median" or "portion"': {"rule": "mean"},
        "portion must be between 0 and 1": {"rule": "portion", "portion": 1.5},
    }.items(),
)
def test_bad_input_is_named(message, change):
    arguments = {"confidence": torch.zeros(2, 3), "label": torch.zeros(2, 3, dtype=torch.int64), "num_classes": 2}
    with pytest.raises(ValueError, match=message):
        class_thresholds(**(arguments | change))


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("class_thresholds", "CPU"), "no compiled kernel, every test would test the reference"
