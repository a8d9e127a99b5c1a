"""confusion_matrix against a loop over pixels and against its definition."""

import gpu
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.ops import confusion_matrix
from fastuda.ops._library import has_kernel
from fastuda.reference.confusion_matrix import confusion_matrix as definition

DTYPES = (torch.uint8, torch.int32, torch.int64)
RAW = torch.ops.fastuda.confusion_matrix


def pair(shape, classes: int, run: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps of runs of about ``run`` pixels, with ignored, negative and out-of-range classes."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.Size(shape).numel()
    place = (torch.rand(pixels, generator=g) < 1 / run).cumsum(0)
    values = torch.randint(0, classes, (2, pixels + 2), generator=g)
    odd = torch.tensor([255, classes, -1, 2**31 - 1])[torch.randint(0, 4, values.shape, generator=g)]
    values = torch.where(torch.rand(values.shape, generator=g) < 0.2, odd, values)
    prediction = values[0][place + (torch.rand(pixels, generator=g) < 0.1 / run)]
    return prediction.view(shape), values[1][place].view(shape)


def check(prediction: torch.Tensor, truth: torch.Tensor, classes: int, backend: str | None = None) -> torch.Tensor:
    matrix = gpu.run(backend, lambda p, t: confusion_matrix(p, t, classes), prediction, truth)
    assert matrix.dtype == torch.int64 and matrix.shape == (classes, classes)
    assert torch.equal(matrix, definition(prediction, truth, classes))
    return matrix


@settings(max_examples=30, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 19]),
    shape=st.sampled_from([(1,), (15,), (16,), (17,), (2, 5, 7), (0,), (4, 30), (2, 1, 3, 9)]),
    run=st.sampled_from([1, 5, 40]),
    seed=st.integers(0, 99),
)
def test_counts_of_a_loop(classes, shape, run, seed):
    prediction, truth = pair(shape, classes, run, seed)
    matrix = check(prediction, truth, classes)
    expected = torch.zeros(classes, classes, dtype=torch.int64)
    for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if 0 <= p < classes and 0 <= t < classes:
            expected[t, p] += 1
    assert torch.equal(matrix, expected)


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
@pytest.mark.parametrize("run", [1, 60])
def test_dtypes(first, second, run):
    prediction, truth = pair((3, 40, 57), 19, run)
    # -1 becomes 255 as uint8, which is no class either
    assert check(prediction.to(first), truth.to(second), 19).sum() > 1000


@pytest.mark.parametrize("classes", [1, 13, 63, 64, 150, 254, 300])
@pytest.mark.parametrize("run", [1, 17])
def test_numbers_of_classes(classes, run):
    prediction, truth = pair((1, 97, 101), classes, run)
    check(prediction, truth, classes)
    if classes < 255:
        check(prediction.clamp(-1, 255).to(torch.uint8), truth.clamp(-1, 255).to(torch.uint8), classes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype):
    prediction, truth = (t.to(dtype) for t in pair((3, 33, 41), 7, 3))
    views = {
        "plain": lambda t: t,
        "transposed": lambda t: t.mT.contiguous().mT,
        "inside": lambda t: torch.full((4, 35, 90), 3, dtype=dtype)[1:, 1:-1, 3:85:2].copy_(t),
        "images last": lambda t: t.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "expanded": lambda t: t[:1].expand(3, -1, -1),
    }
    for one in views.values():
        for two in views.values():
            check(one(prediction), two(truth), 7)
    for part in (prediction[:, :, :1], prediction[:, :1], prediction[:1, 5:6]):
        check(part, part.clone(), 7)


def test_every_length_at_the_end_of_everything():
    for pixels in (*range(1, 35), 1023, 1024, 1025, 2049):
        for run in (1, 100):
            check(*pair((pixels,), 3, run), 3)
    same = torch.zeros(70, dtype=torch.uint8)
    assert check(same, same, 1).item() == 70


def test_more_than_one_task_and_any_number_of_threads():
    prediction, truth = pair((2, 500, 700), 19, 8)
    first = check(prediction, truth, 19)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(confusion_matrix(prediction, truth, 19), first)
    finally:
        torch.set_num_threads(threads)


def test_out_of_range_is_never_an_index():
    prediction, truth = pair((1, 30, 31), 5)
    plain = check(prediction.masked_fill(prediction == 2, 255), truth.masked_fill(truth == 1, 255), 5)
    for value in (-1, -(2**40), 5, 256, 2**31, 2**32, 2**40):
        again = confusion_matrix(
            prediction.masked_fill(prediction == 2, value), truth.masked_fill(truth == 1, value), 5
        )
        assert torch.equal(again, plain), f"{value} is counted"


def test_opcheck_and_compile():
    prediction, truth = pair((2, 9, 11), 5)
    for view in ((prediction, truth), (prediction.flatten(), truth.flatten()), (prediction.mT, truth.mT)):
        torch.library.opcheck(RAW.default, (*view, 5))
    step = torch.compile(lambda p, t: confusion_matrix(p, t, 5) + 0, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(prediction, truth), confusion_matrix(prediction, truth, 5))


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_dtypes_layouts_and_runs(backend, dtype):
    for run in (1, 5, 60):
        prediction, truth = pair((2, 300, 200), 19, run)
        assert check(prediction.to(dtype), truth.to(torch.uint8), 19, backend).sum() > 1000
    inside = torch.full((3, 302, 410), 3, dtype=dtype)[1:, 1:-1, 3:403:2].copy_(prediction)
    check(inside, truth.mT.contiguous().mT, 19, backend)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("classes", [1, 2, 63, 150, 300])
def test_gpu_classes_and_lengths(backend, classes):
    for pixels in (0, 1, 1023, 9797):
        check(*pair((pixels,), classes, 5), classes, backend)


@pytest.mark.parametrize(
    "message, change",
    {
        "prediction must be uint8": {"prediction": torch.zeros(2, 3)},
        "truth must be uint8": {"truth": torch.zeros(2, 3, dtype=torch.int16)},
        r"must have one shape, got \(2, 3\) and \(3, 2\)": {"truth": torch.zeros(3, 2, dtype=torch.int64)},
        "truth is on meta but prediction is on cpu": {"truth": torch.zeros(2, 3, dtype=torch.int64, device="meta")},
        "num_classes must be at least 1": {"num_classes": 0},
    }.items(),
)
def test_bad_input_is_named(message, change):
    arguments = {"prediction": torch.zeros(2, 3, dtype=torch.int64), "num_classes": 2}
    arguments["truth"] = arguments["prediction"]
    with pytest.raises(ValueError, match=message):
        confusion_matrix(**(arguments | change))


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("confusion_matrix", "CPU"), "no compiled kernel, every test would test the reference"
