"""A kernel that cannot keep what it loads in registers: the gate of test_aot.py must see that."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from aot import Launch


@triton.jit
def _hold_too_much(x, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    values = tl.load(x + i)
    tl.store(x + i, values - tl.sum(values) / tl.max(values))


def launch() -> Launch:
    x = torch.empty(1, device="meta")
    return Launch.of(_hold_too_much, (x,), {"SIZE": 16384, "num_warps": 1, "num_stages": 1})


@triton.jit
def sized(x, size):
    """A kernel whose size is specialised, as Triton does by default."""
    tl.store(x, size)


def exempt():
    """A kernel of its own each time; its size is not specialised, its channels are."""

    @triton.jit(do_not_specialize=["size"])
    def kernel(x, other, size, channels, scale, BLOCK: tl.constexpr):
        tl.store(x + size, channels * scale)

    return kernel
