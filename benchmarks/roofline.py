"""What this machine can do, measured: read and copy bandwidth, fp32 and bf16 matrix rate, and whether it is idle.

    python benchmarks/roofline.py [--device cuda] [--threads 1]

Benchmarks state their times as a share of these ceilings, and the Gate refuses to report when they moved meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

DRIFT = 0.15  # ceilings before and after may differ by this share of the larger one
FOREIGN_CORES = 0.3  # processor time of other processes, in cores, above which the machine is called loaded
FIGURES = ("read_gb_s", "copy_gb_s", "fp32_gflop_s", "bf16_gflop_s")
_BYTES = {"cpu": 2**27, "cuda": 2**30}
_SIDE = {"cpu": {torch.float32: 1024, torch.bfloat16: 512}, "cuda": {torch.float32: 4096, torch.bfloat16: 8192}}
_BUDGET = 0.6  # seconds of one figure of the probe


@dataclass(frozen=True)
class Probe:
    """Ceilings of one device with the current number of threads, and the cores that others used meanwhile."""

    device: str
    threads: int
    read_gb_s: float
    copy_gb_s: float
    fp32_gflop_s: float
    bf16_gflop_s: float
    foreign_cores: float


@dataclass(frozen=True)
class Work:
    """What any implementation must do: bytes read once, bytes written once, operations, and in which precision."""

    read: int
    written: int
    flops: float
    dtype: torch.dtype = torch.float32

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def floor_ms(self, probe: Probe) -> float:
        """max(bytes / bandwidth, operations / rate): the read bandwidth where writes are below a tenth, else copy."""
        bandwidth = probe.read_gb_s if self.written < 0.1 * self.bytes else probe.copy_gb_s
        rate = probe.fp32_gflop_s if self.dtype == torch.float32 else max(probe.bf16_gflop_s, probe.fp32_gflop_s)
        return 1e3 * max(self.bytes / (bandwidth * 1e9), self.flops / (rate * 1e9))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device | str) -> str:
    """The processor's or the card's own name."""
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
        own = sum(os.times()[:4])
        stat = Path("/proc/stat")
        if not stat.exists():
            return time.perf_counter(), own
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - own

    def cores(self) -> float:
        if not Path("/proc/stat").exists():  # elsewhere the load average has to do; this process is 1 of it
            return max(0.0, os.getloadavg()[0] - 1) if hasattr(os, "getloadavg") else 0.0
        wall, others = (b - a for a, b in zip(self.start, self._now(), strict=True))
        return max(0.0, others / wall) if wall > 0 else 0.0


def _median_seconds(call: Callable[[int], object], device: torch.device, budget: float, most: int = 25) -> float:
    """Of one call; on a GPU of several in a row, or the host's wait would be part of it."""
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
        if batch * seconds[0] > budget:  # so slow that one reading is enough
            break
    return statistics.median(seconds)


def read_gb_s(device: torch.device, nbytes: int, budget: float = _BUDGET) -> float:
    """The better of a sum and a dot product over rotated buffers of ``nbytes`` each."""
    buffers = [torch.rand(2**18, device=device).repeat(max(1, nbytes // 2**20)) for _ in range(2)]
    reads = (lambda i: buffers[i % 2].sum(), lambda i: torch.dot(buffers[i % 2], buffers[i % 2]))
    return buffers[0].nbytes / 1e9 / min(_median_seconds(read, device, budget / 2) for read in reads)


def probe(device: torch.device | str = "cpu", size: float = 1.0) -> Probe:
    """Measure the four ceilings (about 2 s); ``size`` scales the buffers down for a test of the harness itself."""
    device = torch.device(device)
    load, threads = ForeignLoad(), torch.get_num_threads()
    nbytes = max(2**20, int(_BYTES[device.type] * size))
    with pinned(device, threads):
        if device.type == "cuda":  # an idle card needs a moment to raise its clocks
            read_gb_s(device, nbytes)
        read = read_gb_s(device, nbytes)
        source = [torch.rand(2**18, device=device).repeat(nbytes // 2**20) for _ in range(2)]
        target = torch.empty_like(source[0])
        copy = 2 * target.nbytes / 1e9 / _median_seconds(lambda i: target.copy_(source[i % 2]), device, _BUDGET)
        rates = {}
        for dtype, side in _SIDE[device.type].items():
            side = max(64, int(side * size))
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            rates[dtype] = 2 * side**3 / 1e9 / _median_seconds(lambda _, a=a, b=b: a @ b, device, _BUDGET)
    return Probe(
        device=device_name(device),
        threads=threads,
        read_gb_s=read,
        copy_gb_s=copy,
        fp32_gflop_s=rates[torch.float32],
        bf16_gflop_s=rates[torch.bfloat16],
        foreign_cores=load.cores(),
    )


def drift(before: float, after: float) -> float:
    """How far two readings are apart, as a share of the larger."""
    return abs(before - after) / max(before, after)


def objections(probes: Sequence[Probe]) -> list[str]:
    """Why figures taken between these probes must not be reported; empty if they may."""
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
