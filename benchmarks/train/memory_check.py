"""The memory forecast against what was measured on the CPU: python benchmarks/train/memory_check.py

Two comparisons, written to benchmarks/results/memory_check_cpu.json:

- "process": the records of step_memory.py, VmHWM of one ResNet-101 step, against the forecast of the same step plus
  the memory of the process before it.  The process also holds memory of no tensor: scratch of convolutions and gaps of
  malloc.  That is 2 % of SDCA's fp32 steps, 3 to 27 % in bf16 and 43 % of a checkpointed step, for which torch's own
  allocator held at most 1106.7 MiB and the forecast is 1106.5.
- "tensors": one step of a small network of each method under torch.profiler, which records every allocation of torch's
  CPU allocator.  Memory that a convolution allocates and frees within one call (oneDNN's scratch) is counted apart; the
  workspaces of the operators' C++ are not included.

The forecast is that of a CPU: no rounding of blocks, no workspaces of GPU kernels, no foreach optimisers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import records
import torch
from step_memory import PAPERS, Measured
from torch.profiler import ProfilerActivity, profile

from fastuda.data.config import Augment
from fastuda.methods.protocol import Stage
from fastuda.train.config import Config, task_config
from fastuda.train.memory.bundle import split_batches
from fastuda.train.memory.trace import MemoryTrace, Watcher, tracing
from fastuda.train.memory.walk import Walk
from fastuda.train.precision import Precision

RESULTS = Path(__file__).resolve().parents[1] / "results"
MIB = 2**20
SMALL = (256, 512)
CPU = torch.device("cpu")


def setting(method: str, model: str, source, target, checkpointing=False, covariance="diag", amp=False) -> Config:
    """One image of each domain at these sizes and no colour augmentation, as in step_memory.py."""
    config = split_batches(task_config("gta5_cityscapes", method), 1)
    data = config.data
    data = replace(
        data, source=replace(data.source, size=tuple(source)), target=replace(data.target, size=tuple(target))
    )
    views = replace(config.views, source=Augment(), target=Augment(), self_training=Augment())
    network = replace(config.model, name=model, checkpointing=checkpointing)
    sdca = replace(config.sdca, covariance=covariance)
    return replace(config, data=data, views=views, model=network, sdca=sdca, amp=amp)


def precision(config: Config) -> Precision:
    return Precision("cpu", torch.bfloat16 if config.amp else None, False, "")


def stage_of(walk: Walk, name: str) -> Stage:
    return next(stage for stage in walk.method.stages() if stage.name == name)


def forecast_growth(config: Config, stage: str) -> int:
    """The forecast peak of one step of a stage, its images included, over the bytes before it."""
    trace = MemoryTrace(block=1)
    with tracing(trace):
        walk = Walk(config, CPU, precision(config), trace)
        before = trace.alive()
        walk.steps(stage_of(walk, stage), 1)
    peak = max(trace.peaks().values(), key=lambda peak: peak.bytes if peak.phase.stage == stage else 0)
    return peak.bytes - before


def images_bytes(config: Config) -> int:
    """Bytes of a step's images and labels, which step_memory.py allocates before it starts to count."""
    sides = (config.data.source.size, config.data.target.size)
    return sum(height * width * (3 * 4 + 1) for height, width in sides)


def measured_growth(config: Config, stage: str) -> tuple[int, int]:
    """``forecast_growth`` measured in a real step: without and with the scratch of convolutions."""
    torch.manual_seed(0)
    walk = Walk(config, CPU, precision(config), Watcher())
    return most_allocated(lambda: walk.steps(stage_of(walk, stage), 1))


def most_allocated(run: Callable[[], None]) -> tuple[int, int]:
    """The most bytes of torch's CPU allocator in use during ``run``: without and with the scratch of convolutions.

    Scratch is memory that one call of a convolution allocates and frees: oneDNN's buffers and reordered weights.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    found: list[tuple[int, int, int, int]] = []  # time, address, bytes, number of the convolution around it

    def collect(event, inside: int) -> None:
        name = event.name
        if not inside and "conv" in name and name.startswith("aten::"):
            inside = event.id
        if name == "[memory]":
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size, inside))
        for child in event.children:
            collect(child, inside)

    for root in profiler.profiler.kineto_results.experimental_event_tree():
        collect(root, 0)
    found.sort()
    return _most(found, True), _most(found, False)


def _most(events: list[tuple[int, int, int, int]], without_scratch: bool) -> int:
    live: dict[int, tuple[int, int]] = {}  # address -> place in the steps, convolution
    steps: list[int] = []
    for _, address, size, inside in events:
        steps.append(size)
        if size > 0:
            live[address] = len(steps) - 1, inside
        elif address in live:
            born, around = live.pop(address)
            if without_scratch and inside and around == inside:
                steps[born] = steps[-1] = 0
    most = now = 0
    for size in steps:
        now += size
        most = max(most, now)
    return most


def process_records() -> list[dict]:
    rows = []
    for record in json.loads((RESULTS / "step_memory_cpu.json").read_text()):
        if record["form"] != "ours":
            continue
        method, amp = record["method"], not record["precision"].startswith("fp32")
        options = {"checkpointing": record["checkpointing"], "covariance": record.get("covariance", "diag"), "amp": amp}
        config = setting(method, record["model"], record["source"], record["target"], **options)
        growth = forecast_growth(config, record.get("stage", PAPERS[method].stage)) - images_bytes(config)
        told = record["before_step_mib"] + growth / MIB
        rows.append(
            {
                "compared": "process",
                "method": method,
                "model": record["model"],
                **options,
                "forecast_mib": round(told),
                "measured_mib": record["peak_mib"],
                "error": round(told / record["peak_mib"] - 1, 4),
            }
        )
    return rows


def tensor_records(methods=tuple(PAPERS), model: str = "deeplab_resnet18") -> list[dict]:
    rows = []
    for method in methods:
        for checkpointing in (False, True):
            sizes = Measured(PAPERS[method].stage, SMALL, SMALL)
            config = setting(method, model, sizes.source, sizes.target, checkpointing)
            told = forecast_growth(config, sizes.stage) / MIB
            found, with_scratch = (size / MIB for size in measured_growth(config, sizes.stage))
            rows.append(
                {
                    "compared": "tensors",
                    "method": method,
                    "model": model,
                    "checkpointing": checkpointing,
                    "forecast_mib": round(told, 1),
                    "measured_mib": round(found, 1),
                    "with_scratch_mib": round(with_scratch, 1),
                    "error": round(told / found - 1, 4),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=records.output, default=str(RESULTS / "memory_check_cpu.json"))
    options = parser.parse_args()
    rows = [records.stamped(row) for row in (*tensor_records(), *process_records())]
    for row in rows:
        print(row)
    records.write(options.output, rows)


if __name__ == "__main__":
    main()
