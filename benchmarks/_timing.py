"""How one call is timed: its time on the device, the clock's time of several calls in a row, and its launches."""

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
REPEATS = 3  # repetitions; the median counts


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 20 % and 80 % quantiles in milliseconds."""
    if len(seconds) == 1:
        seconds = [*seconds, *seconds]
    cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return {"ms": cuts[4] * 1e3, "ms_20": cuts[1] * 1e3, "ms_80": cuts[7] * 1e3}


def directed(function: Callable, direction: str) -> tuple[Callable, Callable]:
    """(prepare, call): ``prepare`` runs before the clock starts, ``call`` is timed on what it returned.

    A function's attribute ``backend``, if it has one, names the backend of the backward pass.
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
    """Times one call: by the clock on a CPU, by events on a GPU.

    A GPU is given other work first, which also flushes its cache, so that the call's launches are queued before the
    first of them runs. Launches beyond what that work hides cost time, as they do in a training step.
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
    """Milliseconds of one of several calls in a row by the clock, with one wait at the end: the median of repetitions.

    It exceeds the device's time where the host is slower. ``elapsed``: seconds of one call; ``budget`` over ``elapsed``
    gives the number of calls. All results of ``prepare`` must exist before the clock starts, so a backward pass has
    only as many calls as autograd graphs fit into half of the free memory.
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
    """Bytes of memory that a provider may still take: three quarters of what is free."""
    if device_type == "cuda":
        torch.cuda.empty_cache()
        return 0.75 * torch.cuda.mem_get_info()[0]
    information = Path("/proc/meminfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("MemAvailable"):
            return 0.75 * 1024 * int(line.split()[1])
    return 2.0**32
