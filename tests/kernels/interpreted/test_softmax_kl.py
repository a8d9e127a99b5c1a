"""symmetric_kl and distillation_kl in Triton: the contract at small sizes, extremes, and the cases of the mutants."""

from __future__ import annotations

import functools

import pytest
import torch
import triton_room
from contract import make
from small_contract import at_small_sizes

from fastuda.ops import distillation_kl, symmetric_kl

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_softmax_kl.py", "ops_softmax_kl")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_dense.py", "triton_room_kernel_cases_dense")
FORWARD, BACKWARD = (f"fastuda.kernels.softmax_kl.{name}" for name in ("forward", "backward"))

test_torchs_kl_div = ops_tests.test_torchs_kl_div
test_nearly_the_same_logits = ops_tests.test_nearly_the_same_logits
test_the_same_logits_are_exactly_zero = ops_tests.test_the_same_logits_are_exactly_zero
test_pixels_that_do_not_count_may_be_anything = ops_tests.test_pixels_that_do_not_count_may_be_anything
test_masks_of_any_strides = ops_tests.test_masks_of_any_strides
test_only_the_student_learns = ops_tests.test_only_the_student_learns
test_the_incoming_gradient_comes_before_the_rounding = ops_tests.test_the_incoming_gradient_comes_before_the_rounding


class TestContract(at_small_sizes(ops_tests.TestContract, ((19, 256), (3, 150)))):
    pass


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_any_size_of_logits(scale, shift, monkeypatch):
    """The gaps of nearly equal softmaxes are differences of rounded numbers: four times the usual epsilon."""
    eps = ops_tests.EPS * (4 if scale < 1 else 1)
    monkeypatch.setattr(ops_tests, "compare", functools.partial(ops_tests.compare, eps=eps))
    ops_tests.test_any_size_of_logits(scale, shift)


@pytest.mark.parametrize("options", cases.DIVERGENCES.values(), ids=cases.DIVERGENCES)
def test_as_accurate_as_the_definition(options):
    cases.check_divergence(**options)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows", "inside_nan", "transposed"])
def test_both_gradients(layout):
    ops_tests.test_both_gradients(layout, torch.bfloat16)


def test_the_launchers_served(served):
    for dtype, classes in ((torch.float32, 5), (torch.bfloat16, 256), (torch.float64, 5), (torch.float32, 257)):
        first, second = (make((1, classes, 2, 3), 3, dtype, seed=seed)[0].requires_grad_() for seed in (0, 1))
        symmetric_kl(first, second).backward()
        distillation_kl(first, second).backward()
    assert dict(served) == {FORWARD: 4, BACKWARD: 4}
