"""A bank of the latest features, so that an assignment can be computed over more pixels than a batch holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class FeatureBank(nn.Module):
    """Ring buffer of the latest ``size`` features, overwritten oldest first and never shifted (the bank of CPSL).

    The buffer ``features_buffer`` is (size, channels) in ``dtype``; nothing else grows.  Where the next row goes and
    how many are filled are Python integers, so that no method waits for a GPU; the state dict holds them beside the
    rows, and a loaded bank goes on exactly where the saved one stopped.  No gradient enters or leaves.  Rows are stored
    as they come: NaN and infinity are not looked for, since that would wait for the GPU.

    Raises ValueError for sizes below 1 or a dtype other than float32, float16, bfloat16 or float64.
    """

    def __init__(self, channels: int, size: int = 65_536, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if channels < 1 or size < 1:
            raise ValueError(f"channels and size must be at least 1, got {channels} and {size}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be float32, float16, bfloat16 or float64, got {dtype}")
        self.register_buffer("features_buffer", torch.zeros(size, channels, dtype=dtype))
        self._cursor = self._filled = 0

    @property
    def size(self) -> int:
        """Most rows that the bank can hold."""
        return self.features_buffer.shape[0]

    @property
    def channels(self) -> int:
        return self.features_buffer.shape[1]

    @property
    def filled(self) -> int:
        """Rows that it holds."""
        return self._filled

    def features(self) -> Tensor:
        """The filled rows (filled, channels) as a view, which later insertions overwrite.

        In no particular order once the buffer has wrapped around: Sinkhorn's assignment of a row depends on which rows
        are there, not on where.
        """
        return self.features_buffer[: self._filled]

    @torch.no_grad()
    def insert(self, features: Tensor) -> None:
        """Put rows (n, channels) of any floating dtype in place of the oldest ones, rounded to the bank's dtype.

        Of n > size rows the last ``size`` stay.  Raises ValueError for a wrong shape, dtype or device.
        """
        self._check(features, "features")
        count, size = len(features), self.size
        kept = features[max(0, count - size) :]
        start = (self._cursor + count - len(kept)) % size
        before_end = min(len(kept), size - start)
        self.features_buffer[start : start + before_end] = kept[:before_end]
        self.features_buffer[: len(kept) - before_end] = kept[before_end:]
        self._cursor = (self._cursor + count) % size
        self._filled = min(size, self._filled + count)

    @torch.no_grad()
    def scores(self, weight: Tensor, extra: Tensor | None = None) -> Tensor:
        """Rows times weight (K, channels): (filled + n, K), the filled rows and then ``extra`` (n, channels).

        One new tensor in the bank's dtype, to which weight and ``extra`` are rounded: the rows are neither converted
        nor put beside ``extra``.  No gradient.  Raises ValueError for a wrong shape, dtype or device.
        """
        self._check(weight, "weight")
        parts = [self.features()]
        if extra is not None:
            self._check(extra, "extra")
            parts.append(extra.to(self.features_buffer.dtype))
        out = self.features_buffer.new_empty(sum(map(len, parts)), len(weight))
        columns, start = weight.to(out.dtype).T, 0
        for part in parts:
            torch.mm(part, columns, out=out[start : start + len(part)])
            start += len(part)
        return out

    def reset(self) -> None:
        """Forget all rows."""
        self.features_buffer.zero_()
        self._cursor = self._filled = 0

    def get_extra_state(self) -> Tensor:
        """(cursor, filled), int64, as the state dict holds them."""
        return torch.tensor([self._cursor, self._filled])

    def set_extra_state(self, state: Tensor) -> None:
        cursor, filled = state.tolist()
        if not (
            0 <= cursor < self.size and cursor <= filled <= self.size and (filled == self.size or cursor == filled)
        ):
            raise ValueError(f"the state of a bank of {self.size} rows cannot be cursor {cursor}, filled {filled}")
        self._cursor, self._filled = cursor, filled

    def _check(self, rows: Tensor, name: str) -> None:
        if rows.dim() != 2 or rows.shape[1] != self.channels:
            raise ValueError(f"{name} must be (n, {self.channels}), got shape {tuple(rows.shape)}")
        if rows.dtype not in DTYPES:
            raise ValueError(f"{name} must be float32, float16, bfloat16 or float64, got {rows.dtype}")
        if rows.device != self.features_buffer.device:
            raise ValueError(f"{name} are on {rows.device} but the bank is on {self.features_buffer.device}")
