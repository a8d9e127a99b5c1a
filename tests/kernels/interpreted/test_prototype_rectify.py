"""prototype_rectify in Triton: some of the operator's own tests and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room
from near_labels import logits

from fastuda.ops import prototype_rectify

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_prototype_rectify.py", "ops_prototype_rectify")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_labels.py", "triton_room_kernel_cases_labels")

test_it_is_the_product_of_both = ops_tests.test_it_is_the_product_of_both
test_no_class_has_any = ops_tests.test_no_class_has_any


@pytest.mark.parametrize("options", cases.RECTIFIED.values(), ids=cases.RECTIFIED)
def test_labels_are_those_of_the_definition(options):
    cases.check_rectify(**options)


@pytest.mark.parametrize("least", [1e-44])
def test_a_class_without_probability_never_wins_over_one_with(least):
    ops_tests.test_a_class_without_probability_never_wins_over_one_with(least)


def test_the_launcher_served(served):
    for dtype, soft, classes in (
        (torch.float32, torch.float64, 5), (torch.float16, torch.bfloat16, 5), (torch.float64, torch.float32, 5)
    ):  # fmt: skip
        prototype_rectify(logits(1, classes, 2, 2, dtype=dtype), ops_tests.soft_labels(1, classes, 3, 1, dtype=soft))
    assert dict(served) == {"fastuda.kernels.prototype_rectify.prototype_rectify": 2}
