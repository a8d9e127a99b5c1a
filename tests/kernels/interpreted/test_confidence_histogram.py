"""confidence_histogram in Triton: some of the operator's own tests and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room
from near_labels import logits

from fastuda.ops import confidence_histogram

ops_tests = triton_room.load_file(
    triton_room.ROOT / "tests/ops/test_confidence_histogram.py", "ops_confidence_histogram"
)
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_labels.py", "triton_room_kernel_cases_labels")

test_uniform_images_and_the_last_bin = ops_tests.test_uniform_images_and_the_last_bin
test_nan_is_left_out = ops_tests.test_nan_is_left_out


@pytest.mark.parametrize("options", cases.HISTOGRAMS.values(), ids=cases.HISTOGRAMS)
def test_counts_are_those_of_the_definition(options):
    cases.check_histogram(**options)


@pytest.mark.parametrize("bins, classes", [(1, 2), (1024, 19)])
def test_what_pseudo_labels_returns_is_counted(bins, classes):
    ops_tests.check(logits(1, classes, 2, 5), (5, 21), bins)


def test_the_launcher_served(served):
    for dtype, classes in ((torch.float32, 5), (torch.float16, 7), (torch.float64, 5), (torch.float32, 256)):
        assert confidence_histogram(logits(1, classes, 2, 2, dtype=dtype)).sum() == 4
    assert dict(served) == {"fastuda.kernels.confidence_histogram.confidence_histogram": 2}
