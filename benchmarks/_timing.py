"""How one call is timed: its time on the device, calls in a row by the clock, and how many launches it makes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from roofline import synchronise
from torch import Tensor

from fastuda.ops import use_backend

ROW = {"cpu": (1, 32), "cuda": (4, 64)}  # fewest and most calls in a row
REPEATS = 3  # rows of calls, of which the median counts


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 20 % and 80 % quantiles in milliseconds."""
    if len(seconds) == 1:
        seconds = [*seconds, *seconds]
    cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return {"ms": cuts[4] * 1e3, "ms_20": cuts[1] * 1e3, "ms_80": cuts[7] * 1e3}


def directed(function: Callable, direction: str) -> tuple[Callable, Callable]:
    """(prepare, call): what is done before the clock starts, and what is timed on what ``prepare`` returned.

    A function's attribute ``backend``, if it has one, serves the backward pass too.
    """
    backend = getattr(function, "backend", None)

    def gradient(loss: Tensor, q: Tensor) -> Tensor:
        with use_backend(backend) if backend else nullcontext():
            return torch.autograd.grad(loss, q)[0]

    if direction == "forward":
        return lambda *inputs: inputs, torch.no_grad()(function)
    if direction == "backward":
        return lambda *inputs: (function(*inputs), inputs[0]), gradient
    return lambda *inputs: inputs, lambda *inputs: gradient(function(*inputs), inputs[0])


class Sampler:
    """Runs the call once and notes the seconds: a clock on the CPU, events on a GPU.

    A GPU gets a head start of other work, which also empties its cache, so that the host's launches are queued before
    the first of them runs; more launches than that covers cost time, as they do in a training step.
    """

    def __init__(self, call: Callable, device: torch.device, size: float = 1.0) -> None:
        self.call, self.device, self.seconds = call, device, []
        on_gpu = device.type == "cuda"
        self.ahead = torch.empty(int(2**30 * size), dtype=torch.int8, device=device) if on_gpu else None

    def __call__(self, *inputs: object) -> object:
        if self.ahead is None:
            start = time.perf_counter()
            result = self.call(*inputs)
            self.seconds.append(time.perf_counter() - start)
            return result
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        self.ahead.zero_()
        start.record()
        result = self.call(*inputs)
        end.record()
        torch.cuda.synchronize(self.device)
        self.seconds.append(start.elapsed_time(end) / 1e3)
        return result


def calls_in_a_row(
    prepare: Callable, call: Callable, sets: Sequence[tuple], device: torch.device, elapsed: float, budget: float
) -> float:
    """Milliseconds by the clock of one of several calls in a row, with one wait at the end: the median of some rows.

    The host's time shows wherever it exceeds the device's. ``elapsed``: seconds of one call, which with ``budget``
    (seconds in all) makes how many there are. What ``prepare`` returns must be there before the clock starts, so a
    backward pass has only as many calls as graphs fit into half of the free memory.
    """
    fewest, most = ROW[device.type]
    count = max(fewest, min(most, int(budget / REPEATS / max(elapsed, 1e-6))))
    free = available_bytes(device.type)
    arguments = [prepare(*sets[0])]
    held = free - available_bytes(device.type)
    if held > 0:
        count = max(1, min(count, int(0.5 * free / held)))
    seconds = []
    for _ in range(REPEATS if count > 1 else 1):
        arguments += [prepare(*inputs) for inputs in itertools.islice(itertools.cycle(sets), len(arguments), count)]
        synchronise(device)
        start = time.perf_counter()
        while arguments:
            call(*arguments.pop())
        synchronise(device)
        seconds.append((time.perf_counter() - start) / count)
    return 1e3 * statistics.median(seconds)


def count_launches(call: Callable, arguments: tuple) -> int | None:
    """Kernels, copies and fills that one call starts on a GPU; None on a CPU."""
    if not arguments[0].is_cuda:
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        call(*arguments)
        torch.cuda.synchronize()
    on_device = (e for e in trace.events() if e.device_type == torch.autograd.DeviceType.CUDA)
    return sum(not getattr(e, "is_user_annotation", False) for e in on_device)


def available_bytes(device_type: str) -> float:
    """Memory that a provider may still take, a quarter left to others."""
    if device_type == "cuda":
        torch.cuda.empty_cache()
        return 0.75 * torch.cuda.mem_get_info()[0]
    information = Path("/proc/meminfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("MemAvailable"):
            return 0.75 * 1024 * int(line.split()[1])
    return 2.0**32
