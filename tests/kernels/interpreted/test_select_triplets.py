"""select_triplets in Triton: the operator's own tests and the cases of the mutants, run on the launcher."""

from __future__ import annotations

import pytest
import torch
import triton_room

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_select_triplets.py", "ops_select_triplets")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_samplers.py", "triton_room_kernel_cases_samplers")

test_partners_are_allowed = ops_tests.test_partners_are_allowed
test_missing_partners = ops_tests.test_missing_partners
test_reproducible_and_fresh = ops_tests.test_reproducible_and_fresh


@pytest.mark.parametrize("options", cases.PARTNERS.values(), ids=cases.PARTNERS)
def test_partners_are_those_of_the_definition(options):
    cases.check_partners(**options)


def test_the_launcher_served(served):
    """Up to 4096 classes x modes: beyond, the definition does."""
    rows, seed = [torch.zeros(2, dtype=torch.int64)] * 4, torch.tensor([1, 2])
    for classes, modes in ((5, 3), (4097, 1)):
        torch.ops.fastuda.select_triplets(*rows, seed, classes, modes)
    assert dict(served) == {"fastuda.kernels.select_triplets.select_triplets": 1}
    serves = triton_room.kernel_module("select_triplets").serves
    assert serves(*rows, seed, 512, 8) and not serves(*rows, seed, 513, 8)
