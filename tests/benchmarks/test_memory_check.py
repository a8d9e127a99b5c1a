"""The memory forecast agrees with what torch's CPU allocator really held in a step."""

from __future__ import annotations

import json
from dataclasses import replace

import memory_check
import pytest
import torch


def small(method: str, **options):
    config = memory_check.setting(method, "deeplab_resnet18", (96, 160), (64, 128), **options)
    return replace(
        config, model=replace(config.model, width=0.25), drsl=replace(config.drsl, channels=16),
        cpsl=replace(config.cpsl, bank=600),
    )  # fmt: skip


@pytest.mark.slow
# On the CPU a fused optimiser copies a gradient at a time, which is much of so small a network when checkpointed.
@pytest.mark.parametrize(
    ("method", "stage", "checkpointing", "within"), [("sdca", "adapt", False, 0.05), ("cpsl", "self_label", True, 0.1)]
)
def test_a_step_of_a_small_network(method, stage, checkpointing, within):
    config = small(method, checkpointing=checkpointing)
    found, with_scratch = memory_check.measured_growth(config, stage)
    assert memory_check.forecast_growth(config, stage) == pytest.approx(found, rel=within)
    assert found <= with_scratch


def test_the_profiler_sees_what_lives_at_once():
    def run():
        kept = [torch.empty(1 << 18) for _ in range(3)]
        torch.empty(1 << 19)
        return len(kept)

    most, with_scratch = memory_check.most_allocated(run)
    assert most == with_scratch == (3 << 20) + (2 << 20)


def test_scratch_of_one_call_is_told_apart():
    # (time, address, bytes, convolution): a result that stays, scratch of convolution 7, and a plain temporary.
    events = [(1, 10, 100, 7), (2, 11, 900, 7), (3, 11, -900, 7), (4, 12, 50, 0), (5, 12, -50, 0)]
    assert memory_check._most(events, True) == 150 and memory_check._most(events, False) == 1000


def test_the_committed_comparison():
    rows = json.loads((memory_check.RESULTS / "memory_check_cpu.json").read_text())
    tensors = [row for row in rows if row["compared"] == "tensors"]
    assert {row["method"] for row in tensors} == set(memory_check.PAPERS)
    assert all(abs(row["error"]) <= 0.1 for row in tensors)
    # Of the whole process only where holes and scratch are small beside the tensors: see the script's docstring.
    process = [row for row in rows if row["compared"] == "process" and row["method"] == "sdca" and not row["amp"]]
    assert len(process) == 2 and all(abs(row["error"]) <= 0.1 for row in process)
