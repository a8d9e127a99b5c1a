"""Runs the CUDA C++ kernels of csrc/cuda on the CPU: g++ builds them against tests/emulation, ctypes calls them.

A fault that the emulation finds (race, missing barrier, access out of bounds, read of what was never written) raises
``Fault``. Results are torch tensors that started as NaN or, for counts, as nonsense.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
ENTRIES = (
    "class_moments", "class_moments_full", "contrastive_bound_forward", "contrastive_bound_backward",
    "contrastive_bound_full_forward", "contrastive_bound_full_backward",
)  # fmt: skip
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
PASCAL = (28, 48 * 1024)  # multiprocessors, shared memory of a block
HOPPER = (132, 227 * 1024)
PLAN = ("width", "staged", "in_shared", "warps", "chunks", "slices")
FULL_PLAN = ("edge", "squares", "tiles", "group", "panel_rows", "panels", "chunks")
# -O1: a kernel runs a few thousand threads here, and compiling it is most of the time.
FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-Wall", "-Wno-unknown-pragmas"]


class Fault(AssertionError):
    """What the emulation reports about a kernel."""


class Array(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("bytes", "height", "width")),
        ("stride", ctypes.c_longlong * 4),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_longlong)
            for name in (
                "seed", "type", "label_bytes", "pixels", "channels", "classes", "ignore_index", "multiprocessors",
                "shared_limit", "normalize", "wide_statistics", "budget",
            )
        ),
        ("temperature", ctypes.c_double),
    ]  # fmt: skip


def have_compiler() -> bool:
    return shutil.which("g++") is not None


def build(name: str, target: Path, sources: Path = ROOT / "csrc", flags: tuple[str, ...] = ()) -> Path:
    """Compile csrc/cuda/<name>.cu of ``sources`` for the CPU; RuntimeError with the compiler's words if it fails."""
    command = ["g++", *FLAGS, *flags, "-include", str(ROOT / "tests/emulation/emulation.h")]
    command += [f"-I{sources}", f"-I{HERE}", str(HERE / f"{name}_entry.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}.cu does not compile: {done.stderr[-2000:]}")
    return target


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
    for name in ENTRIES:
        if hasattr(library, name):
            getattr(library, name).restype = ctypes.c_char_p
    return library


def array(tensor: Tensor | None, channels: bool) -> Array:
    """Pixels (N, A, H, W), (P, A), (N, H, W) or (P,), or any other tensor, whose strides are then its own."""
    if tensor is None:
        return Array(None, 0, 0, 0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    extent = (last + 1 if tensor.numel() else 0) * tensor.element_size()
    strides, sizes = list(tensor.stride()), list(tensor.shape)
    if tensor.dim() == (2 if channels else 1):
        sizes, strides = [1, *sizes[1:], 1, sizes[0]], [0, *strides[1:], 0, strides[0]]
    if not channels:
        sizes, strides = [sizes[0], 0, *sizes[1:]], [strides[0], 0, *strides[1:]]
    return Array(tensor.data_ptr(), extent, *sizes[2:4], (ctypes.c_longlong * 4)(*strides[:4]))


def matrix(tensor: Tensor | None) -> Array:
    """(K, A), (K, A, A), or a result: strides as they are."""
    if tensor is None:
        return Array(None, 0, 0, 0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    extent = (last + 1 if tensor.numel() else 0) * tensor.element_size()
    strides = ([*tensor.stride(), 0, 0, 0, 0])[:4]
    return Array(tensor.data_ptr(), extent, 0, 0, (ctypes.c_longlong * 4)(*strides))


def _options(features: Tensor, labels: Tensor, classes: int, ignore_index: int, card, seed: int) -> Options:
    return Options(
        seed, TYPES[features.dtype], labels.element_size(), labels.numel(), features.shape[1], classes, ignore_index,
        *card,
    )  # fmt: skip


def _call(function, *arguments) -> None:
    fault = function(*(ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments))
    if fault:
        raise Fault(fault.decode())


def _nan(shape, dtype) -> Tensor:
    return torch.full(tuple(shape), float("nan"), dtype=dtype)


def class_moments(
    library, features: Tensor, labels: Tensor, classes: int, ignore_index: int = 255, *, full: bool = False,
    card=PASCAL, seed: int = 0, budget: int = 0,
) -> tuple[Tensor, Tensor, Tensor, dict[str, int]]:  # fmt: skip
    """Count, mean, M2 (of all pairs of channels if ``full``) and how the work was cut."""
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    count, channels = torch.full((classes,), -7, dtype=torch.int64), features.shape[1]
    mean, m2 = _nan((classes, channels), dtype), _nan((classes, channels, channels)[: 3 if full else 2], dtype)
    names = FULL_PLAN if full else PLAN
    plan = (ctypes.c_int * len(names))()
    options = _options(features, labels, classes, ignore_index, card, seed)
    options.budget = budget
    results = (matrix(t) for t in (count, mean, m2))
    entry = library.class_moments_full if full else library.class_moments
    _call(entry, options, array(features, True), array(labels, False), *results, plan)
    return count, mean, m2, dict(zip(names, plan, strict=True))


def full_moments_plan(library, pixels: int, channels: int, classes: int, dtype=torch.float32, card=PASCAL):
    """Panels, rows of one, width of a square, squares of a launch and bytes of scratch, without running anything."""
    options = Options(0, TYPES[dtype], 8, pixels, channels, classes, 255, *card)
    facts = (ctypes.c_longlong * 5)()
    library.class_moments_full_plan(ctypes.byref(options), facts)
    return tuple(facts)


def bound_forward(
    library, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, temperature: float,
    normalize: bool, ignore_index: int = 255, *, seed: int = 0, budget: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A covariance (K, A, A) goes to the full form, whose groups of pixels have ``budget`` bytes of scratch."""
    options, inputs = _bound(features, labels, mean, covariance, temperature, normalize, ignore_index, seed, budget)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    loss, posterior = _nan(labels.shape, dtype), _nan((*labels.shape, len(mean)), dtype)
    entry = library.contrastive_bound_full_forward if _full(covariance) else library.contrastive_bound_forward
    _call(entry, options, *inputs, matrix(loss), matrix(posterior))
    return loss, posterior


def bound_backward(
    library, grad: Tensor, features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None,
    posterior: Tensor, temperature: float, normalize: bool, ignore_index: int = 255, *, seed: int = 0, budget: int = 0,
) -> Tensor:  # fmt: skip
    options, inputs = _bound(features, labels, mean, covariance, temperature, normalize, ignore_index, seed, budget)
    slope = torch.empty_like(features).fill_(float("nan"))
    results = array(grad, False), matrix(posterior), array(slope, True)
    entry = library.contrastive_bound_full_backward if _full(covariance) else library.contrastive_bound_backward
    _call(entry, options, *inputs, *results)
    return slope


def _full(covariance: Tensor | None) -> bool:
    return covariance is not None and covariance.dim() == 3


def _bound(features, labels, mean, covariance, temperature, normalize, ignore_index, seed, budget):
    options = _options(features, labels, len(mean), ignore_index, PASCAL, seed)
    options.normalize, options.temperature, options.budget = normalize, temperature, budget
    options.wide_statistics = mean.dtype == torch.float64
    assert covariance is None or covariance.dtype == mean.dtype
    return options, (array(features, True), array(labels, False), matrix(mean), matrix(covariance))
