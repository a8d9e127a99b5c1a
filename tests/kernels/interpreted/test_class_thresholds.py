"""class_thresholds in Triton: the operator's own tests at small sizes and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room

from fastuda.ops import class_thresholds

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_class_thresholds.py", "ops_class_thresholds")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_dense.py", "triton_room_kernel_cases_dense")

test_the_median_is_torchs_and_a_cap_is_an_upper_bound = ops_tests.test_the_median_is_torchs_and_a_cap_is_an_upper_bound
test_what_does_not_count = ops_tests.test_what_does_not_count


@pytest.mark.parametrize("options", cases.THRESHOLDS.values(), ids=cases.THRESHOLDS)
def test_thresholds_are_those_of_the_definition(options):
    cases.check_thresholds(**options)


@pytest.mark.parametrize("kind", ops_tests.SHAPES)
def test_distributions(kind):
    ops_tests.check(*ops_tests.pixels((1, 40, 41), 5, kind), 5)


@pytest.mark.parametrize("i, dtype", list(enumerate(ops_tests.DTYPES)))
def test_dtypes(i, dtype):
    label_dtype = ops_tests.LABEL_DTYPES[i % 3]
    confidence, label = ops_tests.pixels((2, 20, 43), 19, "sure")
    ops_tests.check(confidence.to(dtype), label.to(label_dtype), 19)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 2047, 2048, 2049])
def test_lengths(count):
    ops_tests.check(*ops_tests.pixels((count,), 2), 2)


def test_the_same_again():
    pixels = ops_tests.pixels((1, 60, 70), 19, "sure")
    assert torch.equal(class_thresholds(*pixels, 19), class_thresholds(*pixels, 19))


def test_the_launcher_served(served):
    """Up to 256 classes: beyond, the definition does."""
    for classes in (5, 256, 257):
        class_thresholds(*ops_tests.pixels((9,), classes), classes)
    assert dict(served) == {"fastuda.kernels.class_thresholds.class_thresholds": 2}
