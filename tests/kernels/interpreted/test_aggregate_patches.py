"""aggregate_patches in Triton: the cases of the mutants, which hold it against its definition."""

from __future__ import annotations

import pytest
import torch
import triton_room
from near_labels import logits

from fastuda.ops import aggregate_patches

cases = triton_room.load_file(triton_room.HERE / "kernel_cases_labels.py", "triton_room_kernel_cases_labels")


@pytest.mark.parametrize("options", cases.PATCHES.values(), ids=cases.PATCHES)
def test_votes_are_those_of_the_definition(options):
    cases.check_patches(**options)


def test_the_launcher_served(served):
    offsets = torch.zeros(1, 1, 2, dtype=torch.int64)
    for dtype, full in ((torch.float32, torch.float64), (torch.bfloat16, None), (torch.float64, None)):
        whole = None if full is None else logits(1, 5, 1, 3, dtype=full)
        aggregate_patches(logits(1, 1, 5, 2, 2, dtype=dtype), offsets, (3, 5), stride=2, full=whole)
    assert dict(served) == {"fastuda.kernels.aggregate_patches.aggregate_patches": 2}
