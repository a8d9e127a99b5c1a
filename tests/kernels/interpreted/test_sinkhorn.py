"""sinkhorn in Triton: the operator's own tests at sizes that the interpreter can do, run on the launcher."""

from __future__ import annotations

import pytest
import torch
import triton_room
from torch import Tensor

from fastuda.ops import sinkhorn

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_sinkhorn.py", "ops_sinkhorn")
problem, formula, ROUNDING = ops_tests.problem, ops_tests.formula, ops_tests.ROUNDING
LAUNCHER = "fastuda.kernels.sinkhorn.sinkhorn"

test_exactly_the_stated_rounds = ops_tests.test_exactly_the_stated_rounds
test_a_class_without_a_share_gets_nothing = ops_tests.test_a_class_without_a_share_gets_nothing
test_constant_scores_give_the_marginal = ops_tests.test_constant_scores_give_the_marginal
test_any_spread_is_safe = ops_tests.test_any_spread_is_safe
test_wider_than_float64_holds = ops_tests.test_wider_than_float64_holds
test_layouts = ops_tests.test_layouts
test_only_the_current_rows_are_returned = ops_tests.test_only_the_current_rows_are_returned
test_problems_of_a_batch_do_not_touch_each_other = ops_tests.test_problems_of_a_batch_do_not_touch_each_other
test_the_marginal_counts_by_its_ratios_only = ops_tests.test_the_marginal_counts_by_its_ratios_only
test_a_large_offset_costs_no_digits = ops_tests.test_a_large_offset_costs_no_digits
test_what_is_not_finite_is_treated_as_in_the_definition = (
    ops_tests.test_what_is_not_finite_is_treated_as_in_the_definition
)
test_nobody_has_a_share = ops_tests.test_nobody_has_a_share
test_nan_filled_allocations = ops_tests.test_nan_filled_allocations


def error(scores: Tensor, marginal: Tensor, **options) -> float:
    return (sinkhorn(scores, marginal=marginal, **options).double() - formula(scores, marginal)).abs().max().item()


@pytest.mark.parametrize("rows", [1, 256, 1500])
@pytest.mark.parametrize("classes", [1, 2, 16, 19, 150, 256])
def test_three_rounds_are_the_formula(rows, classes):
    dtype = (torch.float32, torch.float16, torch.bfloat16)[(rows + classes) % 3]
    assert error(*problem(min(rows, 300) if classes > 19 else rows, classes, dtype=dtype)) <= ROUNDING


@pytest.mark.parametrize("spread, ratio", [(50.0, 1e30), (64.5, 1.0), (95.0, 1e4), (300.0, 1e30)])
def test_float32_is_left_where_it_does_not_hold(spread, ratio):
    ops_tests.test_float32_is_left_where_it_does_not_hold(spread, ratio)


def test_more_rows_than_programs(monkeypatch):
    """Programs of several tiles, the last one short, and more of them than are added at once."""
    module = triton_room.kernel_module("sinkhorn")
    monkeypatch.setattr(module, "TILE", 256)
    scores, marginal = problem(300, 33)
    whole = sinkhorn(scores, marginal=marginal)
    monkeypatch.setattr(module, "MOST_PROGRAMS", 3)
    few = sinkhorn(scores, marginal=marginal)
    for ours in (whole, few):
        assert (ours.double() - formula(scores, marginal)).abs().max() <= ROUNDING


def test_the_launcher_served(served):
    for dtype, classes in ((torch.float32, 5), (torch.bfloat16, 256), (torch.float64, 5), (torch.float32, 257)):
        sinkhorn(*problem(9, classes, dtype=dtype)[:1], marginal=torch.ones(classes))
    assert dict(served) == {LAUNCHER: 2}
