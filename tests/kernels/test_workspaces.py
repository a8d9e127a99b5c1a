"""What Triton's launchers allocate beside their results is no more than the memory forecast says of the operator."""

from __future__ import annotations

from unittest import mock

import aot
import pytest
import torch
import triton_room
from torch.utils._pytree import tree_leaves

from fastuda.ops._dispatch import TRITON
from fastuda.train.memory.trace import MemoryTrace
from fastuda.train.memory.workspaces import MULTIPROCESSORS, inside

# Statistics split into three parts of 16 bits, and partial sums of fixed chunks where CUDA C++ counts multiprocessors.
SLACK = 2 << 20
CASES = [case for table in triton_room.tables("launch_cases") for case in table.CASES]


def workspace(call, *arguments, **options) -> tuple[int, object]:
    """Most bytes that lived beside the results while the launcher ran."""
    trace = MemoryTrace(block=1)
    with trace:
        out = call(*arguments, **options)
        kept = trace.alive()
    most = max((max(totals) for _, totals in trace.timeline()), default=0)
    return most - kept, out


def operator_of(form: str) -> str:
    return form.replace("bound_full", "bound")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_launchers_stay_within_the_table(case):
    triton_room.use_kernels()
    module = triton_room.kernel_module(case.module)
    seen = []

    def watched(form, launcher):
        def call(*arguments, **options):
            found, out = workspace(launcher, *arguments, **options)
            seen.append((form, found, inside(operator_of(form), arguments)))
            return out

        return call

    with mock.patch.multiple(
        module,
        **{
            launcher: watched(form, getattr(module, launcher))
            for form, (where, launcher, _) in TRITON.items()
            if where == case.module
        },
    ):
        aot.launches(case, 90)
    assert seen
    for form, found, stated in seen:
        if not callable(stated):
            assert found <= stated + SLACK, f"{form} takes {found} bytes, the table says {stated}"


def test_the_watch_sees_a_workspace():
    def call(x):
        scratch = torch.empty(1000, device="meta")
        return x + scratch.sum()

    assert workspace(call, torch.empty(5, device="meta"))[0] >= 4000 and MULTIPROCESSORS >= 132
    assert tree_leaves(workspace(call, torch.empty(5, device="meta"))[1])[0].shape == (5,)
