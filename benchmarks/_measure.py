"""Timing shared by all operator benchmarks: every provider gets the same inputs, and rows state their spread.

An operator's benchmark file defines ``OPERATOR = Operator(...)`` and one test that calls ``harness.run``; conftest.py
makes a test of each case, direction and provider, probes the machine before and after, and writes the rows.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import _gate
import _memory
import roofline
import torch
from _journal import KEY, Journal
from _timing import Sampler, available_bytes, calls_in_a_row, count_launches, directed, quantiles
from torch import Tensor

ROTATION = 4  # input sets at least; more for small inputs, so that all sets together exceed a cache
ROTATED_BYTES = {"cpu": 2**27, "cuda": 2**28}
BUDGET = {"smoke": 0.0, "quick": 0.4, "full": 4.0}  # seconds that a row is timed
ROUNDS = {"smoke": (3, 3), "quick": (3, 25), "full": (7, 51)}  # fewest and most
RETRIES = 2
PROBE_EVERY = 60.0  # seconds; rows are judged by the probes around them, so a busy minute affects only its own rows


class UnavailableError(Exception):
    """A provider cannot serve a case here; the message says why."""


@dataclass(frozen=True)
class Operator:
    """What the harness needs of an operator.

    cases: scale (smoke, quick, full) -> {name: case}, a case being anything that ``setup`` understands.
    setup: (case, generator) -> inputs on the generator's device; the first tensor is the one gradients are taken of.
    providers: (case, device type) -> {name: function of the inputs}, or to the UnavailableError that says why not.
    work: (case, direction) -> roofline.Work. truth: (case, inputs) -> (results, gradient or None), float64 throughout.
    truths: provider -> its own truth, for providers that compute something else on purpose (an approximation).
    results: the parts of a provider's output that are compared with truth's results.
    tolerance: error against float64, relative to the largest magnitude, above which a provider counts as wrong; one
        number, or one for each dtype that a case may have, where the rounding of 16-bit results is larger.
    """

    name: str
    cases: dict[str, dict[str, Any]]
    setup: Callable[[Any, torch.Generator], tuple]
    providers: Callable[[Any, str], dict[str, Callable | UnavailableError]]
    work: Callable[[Any, str], roofline.Work]
    truth: Callable[[Any, tuple], tuple[Sequence[Tensor], Tensor | None]]
    results: Callable[[Any], Sequence[Tensor]] = lambda output: _memory.tensors(output)
    directions: tuple[str, ...] = ("forward",)
    names: tuple[str, ...] = ()  # all providers, for the test ids
    tolerance: float | Mapping[torch.dtype, float] = 1e-3
    truths: Mapping[str, Callable[[Any, tuple], tuple[Sequence[Tensor], Tensor | None]]] = field(default_factory=dict)

    def allowed(self, case: Any) -> float:
        """The tolerance for a case."""
        return self.tolerance[case.dtype] if isinstance(self.tolerance, Mapping) else self.tolerance


def relative_error(values: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """max |value - truth| / max |truth|, the largest over the results; a NaN in a value is an infinite error."""
    if len(values) != len(truths):
        raise ValueError(f"a provider returned {len(values)} results where {len(truths)} are compared")
    worst = 0.0
    for value, truth in zip(values, truths, strict=True):
        difference = (value.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-300)
        worst = max(worst, float("inf") if difference.isnan() else difference.item())
    return worst


def label_counts(label: Tensor) -> Tensor:
    """Pixels of each class in eight bands of rows (8, 256): a pixel that rounding moves to a class changes little."""
    bands = label.flatten().split(label.numel() // 8)
    return torch.stack([torch.bincount(band.long(), minlength=256) for band in bands[:8]]).double()


def fits(function: Callable, nbytes: float, device_type: str) -> Callable | UnavailableError:
    """The function, or an UnavailableError where ``nbytes`` of intermediates exceed the memory that is available."""
    if nbytes <= available_bytes(device_type):
        return function
    return UnavailableError(f"its intermediates take about {nbytes / 2**30:.1f} GiB")


def compiled(function: Callable) -> Callable:
    """torch.compile for one shape; the compiler is reset, since after an earlier case it would make shapes dynamic."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def ours(raw: str, function: Callable, device_type: str) -> dict[str, Callable | UnavailableError]:
    """The operator's compiled backends on this device: "cpu", or "cuda" and "triton".

    raw: name of the raw operator that must have a kernel; on a GPU, of the form that has kernels of its own.
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

        run.backend = name  # ``directed`` runs the backward pass with it
        return run

    missing = UnavailableError(f"{raw} has no such kernel here")
    return {name: bind(name) if name in names else missing for name in ("cuda", "triton")}


@dataclass
class Harness:
    """One session of benchmarks on one device. When ``run`` returns, its row is in ``journal``, if there is one.

    commit: of the tree, as _results.commit() gives it. run_id: when the session began. dry: the device runs no kernel,
    so nothing is compared and no ceiling is measured; such rows are marked and never published. row_limit: seconds
    that a row may take once its inputs are made; then the process ends with a traceback on the file descriptor
    ``tracebacks``.
    """

    device: torch.device
    scale: str
    threads: int
    size: float = 1.0  # scale of the probe's buffers
    journal: Journal | None = None
    commit: str = "unknown"
    run_id: str = ""
    dry: bool = False
    row_limit: float | None = None
    tracebacks: int = 2
    rows: list[dict] = field(default_factory=list)
    probes: list[roofline.Probe] = field(default_factory=list)
    _cache: tuple = ()

    def __post_init__(self) -> None:
        if self.journal:
            self._note("session", argv=sys.argv[1:], commit=self.commit, run=self.run_id, **self._facts())

    def _note(self, kind: str, **values: object) -> None:
        if self.journal:
            self.journal.append(kind, **values)

    def probe(self) -> roofline.Probe:
        if self.dry:
            ones = dict.fromkeys(roofline.FIGURES, 1.0)
            name = roofline.device_name(self.device)
            found = roofline.Probe(name, self.threads, foreign_cores=0.0, taken=time.time(), **ones)
        else:
            found = roofline.probe(self.device, self.size)
        self.probes.append(found)
        self._note("probe", **asdict(found))
        return found

    def close(self) -> None:
        """End the session with a probe, so that the rows since the last probe can be judged."""
        if self.rows:
            self.probe()
        self._note("end", rows=len(self.rows))

    def prepared(self, operator: Operator, name: str) -> tuple[list[tuple], tuple, dict]:
        """At least four input sets of a case on the device, the truth of the first, and the providers.

        The last case stays in memory, with the code that its providers compiled.
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
        truth = ((), None) if self.dry else operator.truth(case, sets[0])
        self._cache = (operator.name, name, (sets, truth, providers))
        return self._cache[2]

    def run(self, benchmark: Any, operator: Operator, name: str, direction: str, provider: str) -> dict:
        """Measure one row: correctness first, then determinism, memory and time.

        Raises UnavailableError where the provider cannot serve the case.
        """
        if not self.probes or time.time() - self.probes[-1].taken > PROBE_EVERY:
            self.probe()
        names = dict(zip(KEY, (operator.name, name, direction, provider), strict=True))
        self._note("begin", **names)
        try:
            row = names | self._measured(benchmark, operator, name, direction, provider)
        except UnavailableError as why:
            self._note("skipped", **names, why=str(why))
            raise
        except Exception as error:
            self._note("failed", **names, why=f"{type(error).__name__}: {error}")
            raise
        self._note("row", **row)
        self.rows.append(row)
        return row

    def _measured(self, benchmark: Any, operator: Operator, name: str, direction: str, provider: str) -> dict:
        case = operator.cases[self.scale][name]
        sets, truth, providers = self.prepared(operator, name)
        if provider in operator.truths and not self.dry:
            truth = operator.truths[provider](case, sets[0])
        function = providers.get(provider, UnavailableError("not for this case"))
        if isinstance(function, UnavailableError):
            raise function
        prepare, call = directed(function, direction)
        with self._watched():
            elapsed, quality = self._checked(operator, name, direction, provider, prepare, call, sets[0], truth)
            quality |= {"extra_mib": _memory.extra_mib(prepare, call, sets[0])}
            seconds, wall, steady = self._time(benchmark, prepare, call, sets, elapsed)
        row = {**quantiles(seconds), "wall_ms": wall, **quality, "rounds": len(seconds), "sets": len(sets)}
        work = operator.work(case, direction)
        row |= {"bytes": work.bytes, "flops": work.flops, "work": _gate.work_values(work), "steady": steady}
        row |= {"launches": count_launches(call, prepare(*sets[0])), **self._facts()}
        row |= {"commit": self.commit, "run": self.run_id, "gate": "not judged: no probe followed", "gated": False}
        return _gate.bounded(row, work, self.probes[-1]) | ({"dry": True} if self.dry else {})

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """End the process after ``row_limit`` seconds by a thread: a kernel that hangs cannot be interrupted."""
        if self.row_limit:
            faulthandler.dump_traceback_later(self.row_limit, exit=True, file=self.tracebacks)
        try:
            yield
        finally:
            if self.row_limit:
                faulthandler.cancel_dump_traceback_later()

    def _checked(self, operator, name, direction, provider, prepare, call, inputs, truth) -> tuple[float, dict]:
        """Seconds of a warm call, its error against float64, and whether a second call gives the same bits.

        Raises ValueError where the error exceeds the operator's tolerance.
        """
        first = call(*prepare(*inputs))
        start = time.perf_counter()
        second = call(*prepare(*inputs))
        roofline.synchronise(self.device)
        elapsed = time.perf_counter() - start
        if self.dry:
            return elapsed, {"error_fp64": None, "deterministic": None}
        results, slope = truth
        picked = operator.results(first) if direction == "forward" else [first]
        error = relative_error(picked, results if direction == "forward" else [slope])
        if not error <= operator.allowed(operator.cases[self.scale][name]):
            raise ValueError(f"{provider} computes something else in {name}: its error against float64 is {error:.1e}")
        same = all(torch.equal(a, b) for a, b in zip(_memory.tensors(first), _memory.tensors(second), strict=True))
        return elapsed, {"error_fp64": error, "deterministic": same}

    def _time(
        self, benchmark: Any, prepare: Callable, call: Callable, sets: list[tuple], elapsed: float
    ) -> tuple[list[float], float, bool]:
        """Seconds of each round, milliseconds of calls in a row, and whether the memory bandwidth stayed constant."""
        fewest, most = ROUNDS[self.scale]
        rounds = int(min(most, max(fewest, BUDGET[self.scale] / max(elapsed, 1e-6))))
        for attempt in range(1 + RETRIES):
            sampler, turn = Sampler(call, self.device, self.size), itertools.cycle(sets)
            with roofline.pinned(self.device, self.threads):
                before = self._pulse()
                # pytest-benchmark accepts one timing for each fixture: it gets the first attempt
                if benchmark is not None and attempt == 0:
                    benchmark.pedantic(sampler, setup=lambda t=turn: (prepare(*next(t)), {}), rounds=rounds)
                else:
                    for _ in range(rounds):
                        sampler(*prepare(*next(turn)))
                wall = calls_in_a_row(prepare, call, sets, self.device, elapsed, BUDGET[self.scale] / 4)
                steady = roofline.drift(before, self._pulse()) <= roofline.DRIFT
            if steady or self.scale == "smoke":
                break
        return sampler.seconds, wall, steady

    def _pulse(self) -> float:
        if self.dry:
            return 1.0
        nbytes = 2**26 if self.device.type == "cpu" else 2**28  # larger than any cache
        return roofline.read_gb_s(self.device, int(nbytes * self.size), budget=0.06)

    def _facts(self) -> dict:
        versions = {"torch": torch.__version__}
        if self.device.type == "cuda":
            versions |= {"cuda": str(torch.version.cuda)}
        name = roofline.device_name(self.device)
        return {"device": name, "device_type": self.device.type, "threads": self.threads, "scale": self.scale} | {
            "versions": versions,
        }
