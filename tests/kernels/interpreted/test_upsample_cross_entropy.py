"""upsample_cross_entropy in Triton: the operator's own tests at small sizes and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room
from dense import DTYPES, LABEL_DTYPES, LAYOUTS, UGLY_SIZES, lay_out, lay_out_labels, make

from fastuda.ops import upsample_cross_entropy

ops_tests = triton_room.load_file(
    triton_room.ROOT / "tests/ops/test_upsample_cross_entropy.py", "ops_upsample_cross_entropy"
)
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_dense.py", "triton_room_kernel_cases_dense")
contract = ops_tests.TestContract()
SMALL = [(shape, size) for shape, size in UGLY_SIZES if size[0] * size[1] < 500]


@pytest.fixture(autouse=True)
def wide_tiles(monkeypatch):
    """The interpreter takes as long for a small tile as for a large one."""
    monkeypatch.setattr(triton_room.kernel_module("_cells"), "TILE", 1024)


test_any_spread_of_logits_is_safe = ops_tests.test_any_spread_of_logits_is_safe


@pytest.mark.parametrize("options", cases.LOSSES.values(), ids=cases.LOSSES)
def test_as_accurate_as_the_definition(options):
    cases.check_losses(**options)


@pytest.mark.parametrize("i, layout", list(enumerate(LAYOUTS)))
def test_layouts_and_dtypes(i, layout):
    scores = lay_out(make((2, 9, 5, 9), dtype=DTYPES[i % 3])[0], layout)
    labels = make((len(scores), 9), (7, 11), label_dtype=LABEL_DTYPES[i // 3])[1]
    contract.check(scores, lay_out_labels(labels, layout), tuple(ops_tests.FORMS)[i % 4])


@pytest.mark.parametrize("i, shape, size", [(i, *pair) for i, pair in enumerate(SMALL)])
def test_ugly_sizes(i, shape, size):
    scores, labels = make(shape, size)
    form = tuple(ops_tests.FORMS)[i % 4]
    contract.check(lay_out(scores, ("nchw", "channels_last")[i % 2]), labels, form, align_corners=i % 3 > 0)


@pytest.mark.parametrize("classes", [16, 17, 255])
def test_classes(classes):
    contract.check(*make((1, classes, 2, 9), (3, 17)))


def test_labels_that_do_not_count():
    scores, labels = make((1, 3, 3, 4), (5, 9))
    for form in ops_tests.FORMS:
        assert not any(value.any() for value in contract.check(scores, torch.full_like(labels, 255), form).values())
    ignored = contract.each(scores, labels.masked_fill((labels == 0) | (labels < 0) | (labels > 2), 255))
    for value in (-1, -(2**40), 3, 256, 2**31):
        contract.same(contract.each(scores, labels.masked_fill(labels == 0, value)), ignored, f"label {value}")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_ignored_scores_are_not_read_into_any_result(value):
    scores, labels = make((1, 5, 5, 5), (9, 9))
    labels[:, :5, :5] = 255
    dirty = scores.clone()
    dirty[:, :, :2, :2] = value
    for form in ("plain", "smooth"):
        contract.same(contract.each(dirty, labels, form), contract.each(scores, labels, form), f"an ignored {value}")


def test_the_same_bits_again_and_nothing_unwritten():
    scores, labels = make((2, 3, 2, 3), (4, 6))
    for form in ("smooth", "map"):
        first = contract.each(scores, labels, form)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            contract.same(contract.each(scores, labels, form), first, "other bits")
        finally:
            torch.use_deterministic_algorithms(False)


def test_the_launcher_served(served):
    for dtype, classes in ((torch.float32, 5), (torch.bfloat16, 256), (torch.float64, 5), (torch.float32, 257)):
        scores, labels = make((1, classes, 2, 2), (3, 3), dtype)
        upsample_cross_entropy(scores.requires_grad_(), labels).backward()
    assert dict(served) == {"fastuda.kernels.upsample_cross_entropy.upsample_cross_entropy": 2}
