"""Measure this machine's bandwidth of reading, copying and writing, its rate of multiply-adds, and whether it is idle.

    python benchmarks/roofline.py [--device cuda] [--threads 1]

Benchmarks state their times as a share of these ceilings. Each is the best of several readings, from the fastest code
known for it, because a bound that some kernel exceeds is no bound.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import _peaks
import torch

DRIFT = 0.15  # largest difference of a ceiling before and after, as a share of the larger one
FOREIGN_CORES = 0.3  # processor time of other processes, in cores, above which the machine is called loaded
FIGURES = ("read_gb_s", "copy_gb_s", "write_gb_s", "fma_gflop_s", "fp32_gflop_s", "bf16_gflop_s")
# A float32 product in full precision takes at least three products of 16-bit parts: high x high, and high x low twice.
SPLIT_PRODUCTS = 3
_BYTES = {"cpu": 2**27, "cuda": 2**30}
_SIDE = {"cpu": {torch.float32: 1024, torch.bfloat16: 512}, "cuda": {torch.float32: 4096, torch.bfloat16: 8192}}
_BUDGET = 0.4  # seconds of one figure of the probe


@dataclass(frozen=True)
class Probe:
    """Ceilings of one device with the current number of threads, and the cores that other processes used meanwhile.

    read, copy and write: GB/s (1e9 bytes) of DRAM; a copy counts the bytes it reads and the bytes it writes.
    fma: GFLOP/s of float32 multiply-adds in registers. fp32 and bf16: GFLOP/s of the library's matrix product, float32
    without tensor cores. taken: seconds since 1970 when the probe ended.
    """

    device: str
    threads: int
    read_gb_s: float
    copy_gb_s: float
    fp32_gflop_s: float
    bf16_gflop_s: float
    foreign_cores: float
    write_gb_s: float
    fma_gflop_s: float
    taken: float = 0.0

    def ceilings(self) -> dict[str, float]:
        return {figure: getattr(self, figure) for figure in FIGURES}


def best(probes: Iterable[Probe]) -> Probe:
    """The largest value of each ceiling among the probes."""
    probes = list(probes)
    return replace(probes[0], **{figure: max(getattr(probe, figure) for probe in probes) for figure in FIGURES})


@dataclass(frozen=True)
class Work:
    """The least that any implementation must do: bytes read, bytes written, operations, and their precision."""

    read: int
    written: int
    flops: float
    dtype: torch.dtype = torch.float32

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def floor(self, probe: Probe) -> tuple[float, str]:
        """Milliseconds that the work takes at least, and what bounds it: "read", "copy", "write" or "operations".

        Bytes that are read and as many that are written go at the copy's rate, the rest at its own. float32 operations
        go at the multiply-add peak or, where that is faster, as three products of 16-bit parts by the matrix units.
        """
        copied = min(self.read, self.written)
        seconds = 2 * copied / probe.copy_gb_s + (self.read - copied) / probe.read_gb_s
        seconds = (seconds + (self.written - copied) / probe.write_gb_s) / 1e9
        vector = max(probe.fma_gflop_s, probe.fp32_gflop_s)
        split = probe.bf16_gflop_s / SPLIT_PRODUCTS if self.dtype == torch.float32 else probe.bf16_gflop_s
        operations = self.flops / (max(vector, split) * 1e9)
        if operations > seconds:
            return 1e3 * operations, "operations"
        share = self.written / max(self.bytes, 1)
        return 1e3 * seconds, "read" if share < 0.1 else "write" if share > 0.9 else "copy"

    def floor_ms(self, probe: Probe) -> float:
        return self.floor(probe)[0]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device | str) -> str:
    """The name that the processor or the card reports."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")


def slug(name: str) -> str:
    """A device's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@contextlib.contextmanager
def pinned(device: torch.device, threads: int) -> Iterator[None]:
    """Keep the calling thread on one processor while it is timed; nothing where several threads or a GPU work."""
    if device.type != "cpu" or threads != 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class ForeignLoad:
    """Processor time used by other processes (and stolen by the host) between start and ``cores()``, in cores."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        own_seconds = sum(os.times()[:4])
        stat = Path("/proc/stat")
        if not stat.exists():
            return time.perf_counter(), own_seconds
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - own_seconds

    def cores(self) -> float:
        if not Path("/proc/stat").exists():  # otherwise the load average, less this process
            return max(0.0, os.getloadavg()[0] - 1) if hasattr(os, "getloadavg") else 0.0
        wall, others = (b - a for a, b in zip(self.start, self._now(), strict=True))
        return max(0.0, others / wall) if wall > 0 else 0.0


def _readings(call: Callable[[int], object], device: torch.device, budget: float, most: int = 25) -> list[float]:
    """Readings of the seconds of one call; on a GPU each is the mean of several calls, which hides the host's wait."""
    batch = 8 if device.type == "cuda" else 1
    call(0)
    synchronise(device)
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while len(seconds) < 3 or (len(seconds) < most and time.perf_counter() < end):
        start = time.perf_counter()
        for i in range(batch):
            call(len(seconds) + i)
        synchronise(device)
        seconds.append((time.perf_counter() - start) / batch)
        if batch * seconds[0] > budget:  # one reading is enough for a call this slow
            break
    return seconds


def read_gb_s(device: torch.device, nbytes: int, budget: float = _BUDGET) -> float:
    """The usual read bandwidth: the better median of a sum and of a dot product over rotated buffers of ``nbytes``."""
    buffers = [torch.rand(2**18, device=device).repeat(max(1, nbytes // 2**20)) for _ in range(2)]
    reads = (lambda i: buffers[i % 2].sum(), lambda i: torch.dot(buffers[i % 2], buffers[i % 2]))
    return buffers[0].nbytes / 1e9 / min(statistics.median(_readings(read, device, budget / 2)) for read in reads)


def bandwidths(device: torch.device, nbytes: int, budget: float = _BUDGET) -> dict[str, float]:
    """The best GB/s of a read, a copy and a write: by PyTorch, on a CPU also by plain loops that bypass the caches."""
    source = [torch.rand(2**18, device=device).repeat(nbytes // 2**20) for _ in range(2)]
    target = torch.empty_like(source[0])
    calls: dict[str, list[Callable[[int], object]]] = {
        "read": [lambda i: source[i % 2].sum(), lambda i: torch.dot(source[i % 2], source[i % 2])],
        "copy": [lambda i: target.copy_(source[i % 2])],
        "write": [lambda i: target.fill_(float(i))],
    }
    found = {}
    for mode, mode_calls in calls.items():
        seconds = [min(_readings(call, device, budget / len(mode_calls))) for call in mode_calls]
        if device.type == "cpu":
            seconds += _plain_walks(mode, target, source, budget)
        found[f"{mode}_gb_s"] = (2 if mode == "copy" else 1) * target.nbytes / 1e9 / min(seconds)
    return found


def _plain_walks(mode: str, target: torch.Tensor, source: Sequence[torch.Tensor], budget: float) -> list[float]:
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while len(seconds) < 3 or (len(seconds) < 25 and time.perf_counter() < end):
        taken = _peaks.cpu_walk_seconds(mode, target, source[len(seconds) % 2], torch.get_num_threads())
        if taken is None:
            break
        seconds.append(taken)
    return seconds


def rates(device: torch.device, size: float, budget: float = _BUDGET) -> dict[str, float]:
    """The best GFLOP/s of a matrix product in float32 and bfloat16, and of multiply-adds on registers."""
    found = {}
    for dtype, name in ((torch.float32, "fp32_gflop_s"), (torch.bfloat16, "bf16_gflop_s")):
        side = max(64, int(_SIDE[device.type][dtype] * size))
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * side**3 / 1e9 / min(_readings(lambda _, a=a, b=b: a @ b, device, budget))
    if device.type == "cuda":
        peak = _peaks.gpu_fma_gflop_s(device, budget)
    else:
        peak = _peaks.cpu_fma_gflop_s(torch.get_num_threads(), budget)
    return found | {"fma_gflop_s": found["fp32_gflop_s"] if peak is None else peak}


def probe(device: torch.device | str = "cpu", size: float = 1.0) -> Probe:
    """Measure all ceilings (about 3 s); ``size`` scales the buffers down for a test of the harness itself."""
    device = torch.device(device)
    threads = torch.get_num_threads()
    nbytes = max(2**20, int(_BYTES[device.type] * size))
    if device.type == "cpu":
        _peaks.library()  # compiled before the load of other processes is counted
    load = ForeignLoad()
    with pinned(device, threads):
        if device.type == "cuda":  # an idle card needs a moment to raise its clocks
            read_gb_s(device, nbytes)
        figures = bandwidths(device, nbytes) | rates(device, size)
    return Probe(device=device_name(device), threads=threads, foreign_cores=load.cores(), taken=time.time(), **figures)


def drift(before: float, after: float) -> float:
    """The difference of two readings as a share of the larger."""
    return abs(before - after) / max(before, after)


def objections(probes: Sequence[Probe]) -> list[str]:
    """Why figures measured between these probes must not be published; empty if they may."""
    if len(probes) < 2:
        return ["the roofline was not probed before and after"]
    found = []
    for when, reading in (("before", probes[0]), ("after", probes[-1])):
        if reading.foreign_cores > FOREIGN_CORES:
            found.append(f"other processes used {reading.foreign_cores:.1f} cores {when} the run")
    for figure in FIGURES:
        before, after = getattr(probes[0], figure), getattr(probes[-1], figure)
        if drift(before, after) > DRIFT:
            found.append(f"{figure} moved from {before:.1f} to {after:.1f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    probes = [probe(options.device), probe(options.device)]
    for name, value in asdict(probes[-1]).items():
        print(f"{name:>14} {value:.2f}" if isinstance(value, float) else f"{name:>14} {value}")
    found = objections(probes)
    print("\n".join(f"not fit for figures: {reason}" for reason in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
