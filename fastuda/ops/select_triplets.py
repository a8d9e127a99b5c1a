"""Partners for the triplets of DRSL+: the raw operator and the public function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastuda.ops import _dispatch, _library
from fastuda.reference._random import draw_seed
from fastuda.reference.select_triplets import select_triplets as _reference

_INTEGERS = (torch.uint8, torch.int32, torch.int64)


class Triplets(NamedTuple):
    """positive and negative int64 (T,): rows of source; valid bool (T,): false where a partner is missing (both 0)."""

    positive: Tensor
    negative: Tensor
    valid: Tensor


def _fake(source_class, source_mode, target_class, *_) -> tuple[Tensor, Tensor, Tensor]:
    index = (target_class.new_empty(target_class.shape, dtype=torch.int64) for _ in range(2))
    return *index, target_class.new_empty(target_class.shape, dtype=torch.bool)


_select = _library.define(
    "select_triplets(Tensor source_class, Tensor source_mode, Tensor target_class, Tensor target_mode, Tensor seed, "
    "int num_classes, int num_modes) -> (Tensor positive, Tensor negative, Tensor valid)",
    _reference,
    _fake,
)
_dispatch.serve("select_triplets")


def select_triplets(
    source_class: Tensor,
    source_mode: Tensor,
    target_class: Tensor,
    target_mode: Tensor,
    *,
    num_classes: int,
    num_modes: int,
    generator: torch.Generator | None = None,
) -> Triplets:
    """For each target row a random source row of its class and mode, and one of any other class (DRSL+).

    source_class, source_mode: (S,); target_class, target_mode: (T,); uint8, int32 or int64, as ``mode_losses`` labels
        them.  Rows whose class or mode is outside 0..num_classes-1 or 0..num_modes-1 take no part: 255 and -1 do.
    generator: of the rows' device or the CPU; the same state gives the same partners on every device and backend.
    Every allowed partner is equally likely (to S / 2^32), with replacement.  Deterministic; no host loop and, with a
    generator of the rows' device, no host synchronisation.  Memory of the reference: about 10 int64
    numbers a row; of the compiled CPU kernel: two a source row; of CUDA C++: 17 bytes a source row and 4 a class and
    mode; of Triton: 4 bytes a source row and 8 for each class and mode in each of at most 512 chunks of rows.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    given = {"source_class": source_class, "source_mode": source_mode}
    given |= {"target_class": target_class, "target_mode": target_mode}
    for name, rows in given.items():
        like = source_class if name.startswith("source") else target_class
        if rows.dtype not in _INTEGERS or rows.dim() != 1 or rows.shape != like.shape:
            shape = f"{rows.dtype} of shape {tuple(rows.shape)}"
            raise ValueError(f"{name} must be uint8, int32 or int64 of shape ({len(like.flatten())},), got {shape}")
        if rows.device != source_class.device:
            raise ValueError(f"{name} is on {rows.device} but source_class is on {source_class.device}")
    if num_classes < 1 or num_modes < 1:
        raise ValueError(f"num_classes and num_modes must be at least 1, got {num_classes} and {num_modes}")
    if num_classes * num_modes >= 1 << 31:
        raise ValueError(f"num_classes times num_modes must be below 2^31, got {num_classes} and {num_modes}")
    seed = draw_seed(source_class.device, generator)
    return Triplets(*_select(*(rows.long() for rows in given.values()), seed, num_classes, num_modes))
