"""pixel_mean in Triton: exact sums, and the operators' reduced losses that it serves."""

from __future__ import annotations

import pytest
import triton_room

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_pixel_mean.py", "ops_pixel_mean")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_means.py", "triton_room_kernel_cases_means")


@pytest.mark.parametrize("options", cases.MEANS.values(), ids=cases.MEANS)
def test_exact_sums(options):
    cases.check_mean(**options)


def test_the_launcher_served(served):
    losses, labels, _ = ops_tests.problem((2, 5, 7))
    ops_tests.OP(losses[0], losses[1], labels, 5, 255, True)
    ops_tests.OP(losses[0].double(), None, labels, 5, 255, True)
    assert dict(served) == {"fastuda.kernels.pixel_mean.pixel_mean": 1}
