"""Peak memory of one call beyond its inputs and results.

On a GPU the caching allocator counts it. On a CPU the call runs in a forked child that first returns free pages to the
system, so that the peak of its resident set is the call's own; scratch memory of native code counts like any tensor.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

MIB = 2**20
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt's names for them


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value for t in tensors(item)] if isinstance(value, tuple | list) else []


def result_bytes(value: object) -> int:
    """Bytes of the distinct storages behind a result."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(value)}
    return sum(storages.values())


def extra_mib(prepare: Callable, call: Callable, inputs: tuple, limit: float = 60) -> float | None:
    """Peak of ``call(*prepare(*inputs))`` beyond what was there before ``call`` and beyond its result, in MiB.

    None where it cannot be measured: no fork, no /proc, or a child that died or took more than ``limit`` seconds.
    """
    if inputs[0].is_cuda:
        return _on_gpu(prepare, call, inputs)
    if not hasattr(os, "fork") or not Path("/proc/self/clear_refs").exists():
        return None
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads; the child waits for none
        child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.write(writer, str(_in_child(prepare, call, inputs)).encode())
        finally:
            os._exit(0)  # without the parent's exit handlers and buffered output
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], limit)
        text = os.read(reader, 64).decode() if ready else ""
        if not ready:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reader)
        os.waitpid(child, 0)
    return max(0.0, float(text)) if text else None


def _on_gpu(prepare: Callable, call: Callable, inputs: tuple) -> float:
    arguments = prepare(*inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call(*arguments)
    torch.cuda.synchronize()
    return max(0.0, (torch.cuda.max_memory_allocated() - before - result_bytes(result)) / MIB)


def _in_child(prepare: Callable, call: Callable, inputs: tuple) -> float:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print at exit is no output of the benchmark
    torch.set_num_threads(1)  # threads do not survive a fork: parallel code would wait for them
    c = ctypes.CDLL(None)
    for name, value in ((_MMAP_MAX, 2**16), (_MMAP_THRESHOLD, 2**16), (_TRIM_THRESHOLD, 2**17)):
        c.mallopt(name, value)
    call(*prepare(*inputs))  # loads the code's pages, which count as resident memory too
    arguments = prepare(*inputs)
    c.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = _status("VmRSS")
    result = call(*arguments)
    return (_status("VmHWM") - before - result_bytes(result)) / MIB


def _status(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
