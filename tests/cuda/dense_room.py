"""How the kernels on dense labels are called under the emulation: scores (N, K, h, w) of any layout."""

from __future__ import annotations

import ctypes

import emulated
import torch
from torch import Tensor

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
DTYPES = (F32, F16, BF16, F64)
NAMES = (
    "seed", "type", "other_type", "images", "classes", "height", "width", "align_corners", "probabilities", "balanced",
    "double_threshold", "bins", "patches", "patch_height", "patch_width", "multiprocessors", "shared_limit",
)  # fmt: skip


class Options(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_longlong) for name in NAMES), ("temperature", ctypes.c_double)]


def compute_dtype(scores: Tensor) -> torch.dtype:
    return F64 if scores.dtype == F64 else F32


def options(scores: Tensor, size: tuple[int, int], *, card=emulated.PASCAL, other: Tensor | None = None, **rest):
    """Of an operator on scores (N, K, h, w) at a size; other: a second tensor of scores."""
    values = dict(
        type=emulated.TYPES[scores.dtype], images=scores.shape[0], classes=scores.shape[1], height=size[0],
        width=size[1], multiprocessors=card[0], shared_limit=card[1],
    )  # fmt: skip
    if other is not None:
        values["other_type"] = emulated.TYPES[other.dtype]
    return Options(**(values | rest))


def call(
    library, name: str, option: Options, scores: tuple[Tensor | None, ...], others: tuple[Tensor | None, ...], *facts
):
    """scores: (N, K, h, w) or None; others: any tensors, thresholds and results."""
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    arrays = [*(emulated.array(t, True) for t in scores), *(emulated.matrix(t) for t in others)]
    emulated._call(function, option, *arrays, *facts)


def nonsense(shape, dtype) -> Tensor:
    """What a result is before it is written."""
    return torch.full(tuple(shape), float("nan") if dtype.is_floating_point else 77, dtype=dtype)


def bind(function, case: dict):
    return lambda library: function(library, **case)
