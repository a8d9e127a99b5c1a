"""Rates that no kernel can exceed: float32 multiply-adds on registers, and plain loops over memory.

A matrix library's rate is no such bound, since a good kernel may be faster than the library. The processor's peak comes
from ``peaks.cpp``, compiled for this machine at its first use; a GPU's from a kernel that NVRTC compiles. Without a
compiler, or without NVRTC, the function returns None and the roofline has PyTorch's figures alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("peaks.cpp")
OBJECTS = SOURCE.parent.parent / "build" / "benchmarks"
WALKS = ("read", "copy", "write")
_RUN = 0.004  # seconds of one reading: short, so that some readings are taken while nothing else runs
_CHAINS = 8  # independent multiply-adds of one GPU thread; the loop in peaks.cpp has about as many
_GPU_TURNS = 4096
_GPU_KERNEL = f"""
extern "C" __global__ void multiply_add(const float* start, float* sink, int turns) {{
  float sums[{_CHAINS}];
  const float factor = start[256], term = start[257];
  for (int i = 0; i < {_CHAINS}; ++i) sums[i] = start[threadIdx.x ^ i];
  for (int turn = 0; turn < turns; ++turn) {{
#pragma unroll
    for (int i = 0; i < {_CHAINS}; ++i) sums[i] = fmaf(sums[i], factor, term);
  }}
  float total = 0;
  for (int i = 0; i < {_CHAINS}; ++i) total += sums[i];
  sink[blockIdx.x * 256 + threadIdx.x] = total;
}}
"""


def _compiler() -> str | None:
    return next(
        (path for name in (os.environ.get("CXX", "c++"), "g++", "clang++") if (path := shutil.which(name))), None
    )


def _processor() -> str:
    """The processor's name and features, which -march=native depends on: another machine's library may not run here."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    told = {line.split(":", 1)[0].strip(): line for line in lines}
    return platform.machine() + "".join(told.get(name, "") for name in ("model name", "flags", "Features"))


@cache
def library() -> ctypes.CDLL | None:
    """peaks.cpp compiled for this processor, kept in build/benchmarks; None without a compiler."""
    compiler = _compiler()
    if compiler is None:
        return None
    named = hashlib.sha256((SOURCE.read_text() + _processor()).encode()).hexdigest()[:16]
    path = OBJECTS / f"peaks_{named}.so"
    if not path.exists():
        OBJECTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OBJECTS) as folder:
            fresh = Path(folder) / path.name
            flags = ["-O3", "-march=native", "-std=c++20", "-Wno-psabi", "-shared", "-fPIC", "-pthread"]
            subprocess.run([compiler, *flags, str(SOURCE), "-o", str(fresh)], check=True)
            os.replace(fresh, path)
    loaded = ctypes.CDLL(str(path))
    loaded.fastuda_fma.restype = loaded.fastuda_walk.restype = ctypes.c_double
    loaded.fastuda_fma.argtypes = [ctypes.c_int64, ctypes.c_int]
    loaded.fastuda_walk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return loaded


def cpu_fma_gflop_s(threads: int, budget: float) -> float | None:
    """GFLOP/s of float32 multiply-adds: the largest of the readings that fit into ``budget`` seconds."""
    loaded = library()
    if loaded is None:
        return None
    turns, best, end = 10_000, 0.0, time.perf_counter() + budget
    while best == 0 or time.perf_counter() < end:
        start = time.perf_counter()
        best = max(best, loaded.fastuda_fma(turns, threads))
        taken = time.perf_counter() - start
        turns = max(10_000, min(10 * turns, int(turns * _RUN / max(taken, 1e-6))))
    return best


def cpu_walk_seconds(mode: str, target: Tensor, source: Tensor, threads: int) -> float | None:
    """Seconds that one read of ``source``, one copy of it or one write of ``target`` takes; both start at 64 bytes."""
    loaded = library()
    if loaded is None or target.data_ptr() % 64 or source.data_ptr() % 64:
        return None
    nbytes = min(target.nbytes, source.nbytes)
    return loaded.fastuda_walk(WALKS.index(mode), target.data_ptr(), source.data_ptr(), nbytes, threads)


def gpu_fma_gflop_s(device: torch.device, budget: float) -> float | None:
    """As ``cpu_fma_gflop_s``, for a whole GPU; None where this torch or machine cannot compile the kernel."""
    compile_kernel = getattr(torch.cuda, "_compile_kernel", None)  # private in torch, from 2.9 on
    if compile_kernel is None:
        return None
    with torch.cuda.device(device):
        try:
            kernel = compile_kernel(_GPU_KERNEL, "multiply_add")
        except (RuntimeError, OSError) as error:
            warnings.warn(f"no multiply-add peak of this card: its kernel does not compile ({error})", stacklevel=2)
            return None
        blocks = 8 * torch.cuda.get_device_properties(device).multi_processor_count
        start = torch.full((258,), 0.999, device=device)
        sink = torch.empty(256 * blocks, device=device)
        best, end = 0.0, time.perf_counter() + budget
        while best == 0 or time.perf_counter() < end:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            kernel((blocks, 1, 1), (256, 1, 1), [start, sink, _GPU_TURNS])
            last.record()
            torch.cuda.synchronize(device)
            seconds = max(first.elapsed_time(last) / 1e3, 1e-9)
            best = max(best, 2e-9 * _GPU_TURNS * _CHAINS * 256 * blocks / seconds)
    return best
