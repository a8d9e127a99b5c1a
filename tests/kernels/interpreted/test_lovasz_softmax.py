"""lovasz_softmax in bins in Triton: the operator's own tests at small sizes and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room
from dense import DTYPES, LABEL_DTYPES, LAYOUTS, lay_out, lay_out_labels, make

from fastuda.ops import lovasz_softmax

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_lovasz_softmax.py", "ops_lovasz_softmax")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_dense.py", "triton_room_kernel_cases_dense")
contract = ops_tests.TestContract()
BINNED = ("binned", "binned probabilities")

test_perfect_and_worst = ops_tests.test_perfect_and_worst


@pytest.fixture(autouse=True)
def wide_tiles(monkeypatch):
    """The interpreter takes as long for a small tile as for a large one."""
    monkeypatch.setattr(triton_room.kernel_module("_cells"), "TILE", 1024)


@pytest.mark.parametrize("options", cases.ERRORS.values(), ids=cases.ERRORS)
def test_loss_and_slope_are_those_of_the_definition(options):
    cases.check_errors(**options)


@pytest.mark.parametrize("i, layout", list(enumerate(LAYOUTS))[::2])
def test_layouts_and_dtypes(i, layout):
    scores = lay_out(make((2, 9, 5, 9), dtype=DTYPES[i % 3])[0], layout)
    labels = make((len(scores), 9), (7, 11), label_dtype=LABEL_DTYPES[i // 3])[1]
    contract.check(scores, lay_out_labels(labels, layout), BINNED[i % 2])


@pytest.mark.parametrize("classes", [1, 17])
def test_ties(classes, monkeypatch):
    monkeypatch.setattr(ops_tests, "ties", lambda k, dtype, full=ops_tests.ties: full(k, (9, 11), dtype=dtype))
    ops_tests.test_ties_go_by_the_order_of_the_pixels(5, classes, torch.float32)


@pytest.mark.parametrize("bins", [1, 1024])
def test_bins_err_by_their_width_at_most(bins):
    scores, labels = make((1, 7, 4, 5), (10, 13))
    exact = lovasz_softmax(3 * scores.double(), labels)
    assert abs(lovasz_softmax(3 * scores, labels, bins=bins).item() - exact.item()) <= 1 / bins + 1e-5


def test_the_same_bits_again_and_nothing_unwritten():
    scores, labels = make((2, 3, 2, 3), (4, 6))
    for form in BINNED:
        first = contract.each(scores, labels, form)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            contract.same(contract.each(scores, labels, form), first, "other bits")
        finally:
            torch.use_deterministic_algorithms(False)


def test_the_launcher_served(served):
    """The exact form is the definition's."""
    for name, classes, bins in (("float32", 5, 9), ("bfloat16", 256, 9), ("float64", 5, 9), ("float32", 5, 0)):
        scores, labels = make((1, classes, 2, 2), (3, 3), getattr(torch, name))
        lovasz_softmax(scores.requires_grad_(), labels, bins=bins).backward()
    assert dict(served) == {"fastuda.kernels.lovasz_softmax.lovasz_softmax": 2}
