"""Partners of target rows: uniform in the source rows of their class and mode, and in those of other classes.

A stable counting sort lists the source rows by class and mode (``_common.counting_sort``, three launches). A last
kernel draws: a place in the row's own bucket, and a place in the list without the row's class. Random numbers are a
function of the seed and the row, so the partners are those of the definition, bit for bit. Memory beyond inputs and
outputs: 4 bytes a source row, and 8 for each bucket and chunk of 1024 source rows, of at most 512 chunks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels._common import cdiv, counting_sort, launch, random_bits
from fastuda.kernels._launch import kernel

SHORTEST_CHUNK = 1024  # rows in a chunk of the sort
MOST_CHUNKS = 512
MOST_BUCKETS = 4096
BLOCK = 128


def serves(
    source_class: Tensor, source_mode: Tensor, target_class: Tensor, target_mode: Tensor, seed: Tensor,
    num_classes: int, num_modes: int,
) -> bool:  # fmt: skip
    """Whether ``select_triplets`` takes these arguments: rows that 32 bits count, at most 4096 classes x modes."""
    rows = max(source_class.numel(), target_class.numel())
    return rows < 2**31 - 2**20 and num_classes * num_modes <= MOST_BUCKETS


def select_triplets(
    source_class: Tensor, source_mode: Tensor, target_class: Tensor, target_mode: Tensor, seed: Tensor,
    num_classes: int, num_modes: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(positive, negative, valid) as fastuda.reference.select_triplets; any strides. Four launches."""
    order, (_, starts, *_) = counting_sort(
        source_class, num_classes * num_modes, -1, SHORTEST_CHUNK, MOST_CHUNKS, modes=source_mode, per_class=num_modes
    )
    rows = len(target_class)
    positive, negative = (target_class.new_empty(rows, dtype=torch.int64) for _ in range(2))
    valid = target_class.new_empty(rows, dtype=torch.bool)
    launch(
        _draw_partners, (cdiv(rows, BLOCK),), target_class, target_mode, seed.contiguous(), order, starts,
        positive, negative, valid, rows, num_classes, num_modes, target_class.stride(0), target_mode.stride(0),
        BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return positive, negative, valid


@kernel()
def _draw_partners(
    labels, modes, seed, order, starts, positive, negative, valid, rows, classes, per_class, label_stride, mode_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < rows
    y = tl.load(labels + i.to(tl.int64) * label_stride, mask=inside, other=-1)
    m = tl.load(modes + i.to(tl.int64) * mode_stride, mask=inside, other=-1)
    usable = (y >= 0) & (y < classes) & (m >= 0) & (m < per_class)
    first_bucket = y.to(tl.int32) * per_class
    bucket = starts + first_bucket + m.to(tl.int32)
    begin = tl.load(bucket, mask=usable, other=0)
    own = tl.load(bucket + 1, mask=usable, other=0) - begin
    first = tl.load(starts + first_bucket, mask=usable, other=0)
    same = tl.load(starts + first_bucket + per_class, mask=usable, other=0) - first
    others = tl.load(starts + classes * per_class) - same
    drawn = usable & (own > 0) & (others > 0)

    near = begin + _below(random_bits(seed, 0, i), own)
    far = _below(random_bits(seed, 1, i), others)
    far += tl.where(far >= first, same, 0)
    tl.store(positive + i, tl.load(order + near, mask=drawn, other=0).to(tl.int64), mask=inside)
    tl.store(negative + i, tl.load(order + far, mask=drawn, other=0).to(tl.int64), mask=inside)
    tl.store(valid + i, drawn, mask=inside)


@triton.jit
def _below(bits, limit):
    """A number in 0..limit-1."""
    return tl.umulhi(bits, limit.to(tl.uint32)).to(tl.int32)
