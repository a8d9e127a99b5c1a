"""Every operator on a GPU as its benchmark calls it: no wait for the device, a second stream, a CUDA graph.

The calls are those of ``benchmarks/profile_ops.py --once``, and so of the profile and of compute-sanitizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gpu
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _measure  # noqa: E402
import profile_ops  # noqa: E402

OPERATORS = {operator.name: operator for operator in profile_ops.operators()}
CASES = [(name, case) for name, operator in OPERATORS.items() for case in operator.cases["smoke"]]
REHEARSED = gpu.MODE == "rehearsal"  # there are no streams then: the calls are made one after the other


def problem(name: str, case: str, backend: str) -> tuple[Callable, tuple, tuple]:
    """The call, forward and, where there is one, backward, and two sets of inputs; skips where nothing serves it."""
    operator = OPERATORS[name]
    given = operator.cases["smoke"][case]
    function = operator.providers(given, "cuda")[backend]
    if isinstance(function, _measure.UnavailableError):
        pytest.skip(f"{backend} does not serve {name}: {function}")
    _, call = _measure.directed(function, "both" if "both" in operator.directions else "forward")
    return call, *(operator.setup(given, torch.Generator(gpu.DEVICE).manual_seed(seed)) for seed in (0, 1))


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """A call that waits for the device in the block is an error."""
    if REHEARSED:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_second_stream(call: Callable, inputs: tuple) -> object:
    if REHEARSED:
        return call(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = call(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    return result


def replayed(call: Callable, inputs: tuple, others: tuple) -> object:
    """The call captured on some inputs, replayed after these were overwritten by others."""
    if REHEARSED:
        return call(*others)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(*inputs)
    with torch.no_grad():
        for ours, other in zip(inputs, others, strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    return result


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("name, case", CASES)
def test_streams_graphs_and_no_waiting(name, case, backend):
    call, inputs, others = problem(name, case, backend)
    with gpu.serving(backend):
        try:
            first, second = call(*inputs), call(*others)
        except _measure.UnavailableError as why:
            pytest.skip(str(why))
        with no_synchronisation():
            again = call(*inputs)
        gpu.same(again, first, "two calls differ")
        gpu.same(on_second_stream(call, inputs), first, "another result on a second stream")
        gpu.same(replayed(call, inputs, others), second, "a graph's replay is not the call on the new inputs")
