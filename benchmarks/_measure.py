"""Timing shared by all operator benchmarks: one setup feeds every provider, inputs rotate, rows carry their spread.

An operator's benchmark file defines ``OPERATOR = Operator(...)`` and one test that calls ``harness.run``; conftest.py
makes a test of each case, direction and provider, probes the machine before and after, and writes the rows.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _memory
import _results
import roofline
import torch
from torch import Tensor

from fastuda.ops import use_backend

ROTATION = 4  # at least; more for small inputs, so that all of them together exceed a cache
ROTATED_BYTES = {"cpu": 2**27, "cuda": 2**28}
BUDGET = {"smoke": 0.0, "quick": 0.4, "full": 4.0}  # seconds a row is timed for
ROUNDS = {"smoke": (3, 3), "quick": (3, 25), "full": (7, 51)}  # fewest and most
RETRIES = 2


class UnavailableError(Exception):
    """A provider cannot serve a case here; the message says why."""


@dataclass(frozen=True)
class Operator:
    """What the harness must know of an operator.

    cases: scale (smoke, quick, full) -> {name: case}, a case being anything that ``setup`` understands.
    setup: (case, generator) -> inputs on the generator's device; the first tensor is the one gradients are taken of.
    providers: (case, device type) -> {name: function of the inputs}, or to the UnavailableError that says why not.
    work: (case, direction) -> roofline.Work. truth: (case, inputs) -> (results, gradient or None), float64 throughout.
    truths: provider -> its own truth, for those that mean to compute something else (an approximation).
    results: picks from a provider's output what is compared with truth's results.
    tolerance: error against float64 above which a provider computes something else, relative to the largest magnitude;
        one number, or one for each dtype that a case may have, where a 16-bit result's own rounding is larger.
    """

    name: str
    cases: dict[str, dict[str, Any]]
    setup: Callable[[Any, torch.Generator], tuple]
    providers: Callable[[Any, str], dict[str, Callable | UnavailableError]]
    work: Callable[[Any, str], roofline.Work]
    truth: Callable[[Any, tuple], tuple[Sequence[Tensor], Tensor | None]]
    results: Callable[[Any], Sequence[Tensor]] = lambda output: _memory.tensors(output)
    directions: tuple[str, ...] = ("forward",)
    names: tuple[str, ...] = ()  # every provider's name, for the test ids
    tolerance: float | Mapping[torch.dtype, float] = 1e-3
    truths: Mapping[str, Callable[[Any, tuple], tuple[Sequence[Tensor], Tensor | None]]] = field(default_factory=dict)

    def allowed(self, case: Any) -> float:
        """The tolerance for a case."""
        return self.tolerance[case.dtype] if isinstance(self.tolerance, Mapping) else self.tolerance


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 20 % and 80 % quantiles in milliseconds."""
    if len(seconds) == 1:
        seconds = [*seconds, *seconds]
    cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return {"ms": cuts[4] * 1e3, "ms_20": cuts[1] * 1e3, "ms_80": cuts[7] * 1e3}


def relative_error(values: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """max |value - truth| / max |truth|, the worst of the results; NaN in a value is an infinite error."""
    if len(values) != len(truths):
        raise ValueError(f"a provider returned {len(values)} results where {len(truths)} are compared")
    worst = 0.0
    for value, truth in zip(values, truths, strict=True):
        difference = (value.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-300)
        worst = max(worst, float("inf") if difference.isnan() else difference.item())
    return worst


def label_counts(label: Tensor) -> Tensor:
    """uint8 labels as counts in eight bands of rows, where a pixel between two classes does not matter."""
    bands = label.flatten().split(label.numel() // 8)
    return torch.stack([torch.bincount(band.long(), minlength=256) for band in bands[:8]]).double()


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

    def __init__(self, call: Callable, device: torch.device) -> None:
        self.call, self.device, self.seconds = call, device, []
        self.ahead = torch.empty(2**30, dtype=torch.int8, device=device) if device.type == "cuda" else None

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


def fits(function: Callable, nbytes: float, device_type: str) -> Callable | UnavailableError:
    """The function, or why it cannot run: ``nbytes`` of intermediates are more than there is."""
    if nbytes <= available_bytes(device_type):
        return function
    return UnavailableError(f"its intermediates take about {nbytes / 2**30:.1f} GiB")


def compiled(function: Callable) -> Callable:
    """torch.compile for one shape, afresh: nothing that an earlier case left behind makes shapes dynamic."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def ours(raw: str, function: Callable, device_type: str) -> dict[str, Callable | UnavailableError]:
    """The operator's compiled backends on this device: "cpu", or "cuda" and "triton".

    raw: the dispatcher's name of the operator whose kernel makes a backend compiled,
        or on a GPU of its form with kernels of its own.
    """
    import fastuda.ops as ops
    from fastuda.ops import _library

    if device_type == "cpu":
        missing = UnavailableError("the CPU key holds no compiled kernel")
        return {"cpu": function if _library.has_kernel(raw, "CPU") else missing}
    names = ops.backends(raw)

    def bind(name: str) -> Callable:
        def run(*inputs: object) -> object:
            try:
                with ops.use_backend(name):
                    return function(*inputs)
            except RuntimeError as error:
                if "does not serve" in str(error):
                    raise UnavailableError(str(error)) from error
                raise

        run.backend = name  # under which ``directed`` runs the backward pass
        return run

    missing = UnavailableError(f"{raw} has no such kernel here")
    return {name: bind(name) if name in names else missing for name in ("cuda", "triton")}


@dataclass
class Harness:
    """One session of benchmarks on one device."""

    device: torch.device
    scale: str
    threads: int
    size: float = 1.0  # of the probe's buffers
    rows: list[dict] = field(default_factory=list)
    probes: list[roofline.Probe] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    _cache: tuple = ()

    def probe(self) -> roofline.Probe:
        self.probes.append(roofline.probe(self.device, self.size))
        return self.probes[-1]

    def prepared(self, operator: Operator, name: str) -> tuple[list[tuple], tuple, dict]:
        """At least four input sets of a case on the device, the truth of the first, and the providers.

        The last case is kept, with what its providers compiled.
        """
        if self._cache[:2] == (operator.name, name):
            return self._cache[2]
        self._cache = ()
        case = operator.cases[self.scale][name]
        sets: list[tuple] = []
        limit, total = ROTATED_BYTES[self.device.type] if self.scale != "smoke" else 0, 0
        while len(sets) < ROTATION or (len(sets) < 4 * ROTATION and total < limit):
            fresh = operator.setup(case, torch.Generator(self.device).manual_seed(len(sets)))
            total += sum(t.nbytes for t in fresh)
            sets.append(fresh)
        providers = operator.providers(case, self.device.type)
        self._cache = (operator.name, name, (sets, operator.truth(case, sets[0]), providers))
        return self._cache[2]

    def run(self, benchmark: Any, operator: Operator, name: str, direction: str, provider: str) -> dict:
        """Measure one row: correctness first, then determinism, memory and time. UnavailableError where it cannot."""
        case = operator.cases[self.scale][name]
        if not self.probes:
            self.probe()
        sets, (results, slope), providers = self.prepared(operator, name)
        if provider in operator.truths:
            results, slope = operator.truths[provider](case, sets[0])
        function = providers.get(provider, UnavailableError("not for this case"))
        if isinstance(function, UnavailableError):
            raise function
        prepare, call = directed(function, direction)
        first = call(*prepare(*sets[0]))
        start = time.perf_counter()
        second = call(*prepare(*sets[0]))
        roofline.synchronise(self.device)
        elapsed = time.perf_counter() - start
        picked = operator.results(first) if direction == "forward" else [first]
        error = relative_error(picked, results if direction == "forward" else [slope])
        if not error <= operator.allowed(case):
            raise ValueError(f"{provider} computes something else in {name}: its error against float64 is {error:.1e}")
        same = all(torch.equal(a, b) for a, b in zip(_memory.tensors(first), _memory.tensors(second), strict=True))
        del first, second, picked
        extra = _memory.extra_mib(prepare, call, sets[0])
        seconds, steady = self._time(benchmark, prepare, call, sets, elapsed)
        work = operator.work(case, direction)
        times = quantiles(seconds)
        floor = work.floor_ms(self.probes[0])
        row = {"operator": operator.name, "case": name, "direction": direction, "provider": provider, **times}
        row |= {"bytes": work.bytes, "flops": work.flops, "ceiling_share": floor / times["ms"], "floor_ms": floor}
        row |= {"extra_mib": extra, "error_fp64": error, "deterministic": same, "rounds": len(seconds)}
        row |= {"launches": count_launches(call, prepare(*sets[0])), "sets": len(sets), **self._facts()}
        if not steady:
            self.busy.append(f"{operator.name} {name} {direction} {provider}")
        self.rows.append(row)
        return row

    def _time(
        self, benchmark: Any, prepare: Callable, call: Callable, sets: list[tuple], elapsed: float
    ) -> tuple[list[float], bool]:
        """Seconds of each round, and whether the bandwidth was the same before and after them."""
        fewest, most = ROUNDS[self.scale]
        rounds = int(min(most, max(fewest, BUDGET[self.scale] / max(elapsed, 1e-6))))
        for attempt in range(1 + RETRIES):
            sampler, turn = Sampler(call, self.device), itertools.cycle(sets)
            with roofline.pinned(self.device, self.threads):
                before = self._pulse()
                # pytest-benchmark times a fixture once: earlier attempts and other callers go without it
                if benchmark is not None and attempt == 0:
                    benchmark.pedantic(sampler, setup=lambda t=turn: (prepare(*next(t)), {}), rounds=rounds)
                else:
                    for _ in range(rounds):
                        sampler(*prepare(*next(turn)))
                steady = roofline.drift(before, self._pulse()) <= roofline.DRIFT
            if steady or self.scale == "smoke":
                break
        return sampler.seconds, steady

    def _pulse(self) -> float:
        nbytes = 2**26 if self.device.type == "cpu" else 2**28  # beyond any cache
        return roofline.read_gb_s(self.device, int(nbytes * self.size), budget=0.06)

    def _facts(self) -> dict:
        versions = {"torch": torch.__version__}
        if self.device.type == "cuda":
            versions |= {"cuda": str(torch.version.cuda)}
        name = roofline.device_name(self.device)
        return {"device": name, "device_type": self.device.type, "threads": self.threads, "scale": self.scale} | {
            "versions": versions,
        }

    def objections(self) -> list[str]:
        """Why this session's figures must not be reported."""
        found = roofline.objections(self.probes)
        return found + [f"the bandwidth moved while {name} was timed" for name in self.busy]

    def save(self, path: Path, gated: bool, run: str) -> Path:
        """Write the rows into ``path``, or into ``path/<device>.json`` if it is a folder."""
        if path.is_dir():
            path = path / f"{roofline.slug(roofline.device_name(self.device))}.json"
        commit = _results.commit()
        _results.write(path, [row | {"gated": gated, "run": run, "commit": commit} for row in self.rows])
        return path
