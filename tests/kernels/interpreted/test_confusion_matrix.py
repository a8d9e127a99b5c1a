"""confusion_matrix in Triton: the operator's own tests and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room

from fastuda.ops import confusion_matrix

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_confusion_matrix.py", "ops_confusion_matrix")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_labels.py", "triton_room_kernel_cases_labels")

test_out_of_range_is_never_an_index = ops_tests.test_out_of_range_is_never_an_index


@pytest.mark.parametrize("options", cases.CONFUSIONS.values(), ids=cases.CONFUSIONS)
def test_counts_are_those_of_the_definition(options):
    cases.check_confusion(**options)


@pytest.mark.parametrize("dtype", [torch.uint8])
def test_layouts(dtype):
    ops_tests.test_layouts(dtype)


@pytest.mark.parametrize("pixels", [1, 1023, 1024, 1025, 2049])
def test_every_length(pixels):
    ops_tests.check(*ops_tests.pair((pixels,), 3, 5), 3)


def test_the_launcher_served(served):
    labels = torch.zeros(5, dtype=torch.int32)
    for classes in (3, 1023, 1024):
        assert confusion_matrix(labels, labels, classes)[0, 0] == 5
    assert dict(served) == {"fastuda.kernels.confusion_matrix.confusion_matrix": 2}
