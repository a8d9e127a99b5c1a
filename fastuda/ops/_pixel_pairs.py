"""Two tensors of pixels in the same order, such as confidence and label: checks and shape."""

from __future__ import annotations

from torch import Tensor

from fastuda.ops import _checks


def check(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """One shape, one device, and ``second`` of a label's dtype; ValueError naming the argument."""
    if second.dtype not in _checks.LABEL_DTYPES:
        raise ValueError(f"{names[1]} must be uint8, int32 or int64, got {second.dtype}")
    if first.shape != second.shape:
        found = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"{names[0]} and {names[1]} must have one shape, got {found}")
    if first.device != second.device:
        raise ValueError(f"{names[1]} is on {second.device} but {names[0]} is on {first.device}")


def as_pixels(*tensors: Tensor) -> tuple[Tensor, ...]:
    """(N, H, W) and (P,) as they are, (H, W) as one image; what has other dimensions as (P,), perhaps copied."""
    if tensors[0].dim() == 2:
        return tuple(t.unsqueeze(0) for t in tensors)
    return tensors if tensors[0].dim() in (1, 3) else tuple(t.reshape(-1) for t in tensors)
