"""A batch that is split over the processes of a run: sums, gathered rows and the divisors of means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

# Not a ContextVar: checkpointed segments are recomputed in autograd's own threads, which would not inherit it.
_split = False
_BITS = {torch.bool: torch.uint8, torch.bfloat16: torch.float16}


@contextmanager
def global_batch() -> Iterator[None]:
    """Inside the block, the batches of all processes of torch.distributed are parts of one batch.

    "mean" losses are then divided by the pixels that count in all processes, so that the average over the processes,
    of losses and of gradients, is the loss and the gradient of the whole batch, and ``fastuda.models.norm.BatchNorm``
    trains on the statistics of all.  Every process must therefore compute the same losses in the same order.  Without
    a process group the block changes nothing.  Outside the block no operator communicates with another process.
    """
    global _split
    before, _split = _split, distributed.is_available() and distributed.is_initialized()
    try:
        yield
    finally:
        _split = before


def world() -> int:
    """How many processes share a batch: 1 outside ``global_batch``."""
    return distributed.get_world_size() if _split else 1


def rank() -> int:
    """The number of this process among them, from 0: 0 outside ``global_batch``."""
    return distributed.get_rank() if _split else 0


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over the processes (all-reduce), without a gradient; the tensor itself where there is one."""
    if world() == 1:
        return value
    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(value)
    return value


def divisor(weight: Tensor) -> Tensor:
    """The divisor of this process's sum of losses with which the average over the processes is the global mean.

    weight: scalar, the valid pixels of this process or the sum of their weights.  The result is the mean of ``weight``
    over the processes; it is positive also where no process has a valid pixel.
    """
    global_weight = total(weight)
    global_weight = global_weight.where(global_weight > 0, 1)
    return global_weight if world() == 1 else global_weight.double() / world()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        ctx.local_rows = slice(rank() * len(rows), (rank() + 1) * len(rows))
        ctx.world = world()
        rows = rows.contiguous()
        # Not every backend supports every type: those it lacks are sent as the bits of another one.
        sent = rows.view(_BITS.get(rows.dtype, rows.dtype))
        received = [torch.empty_like(sent) for _ in range(ctx.world)]
        distributed.all_gather(received, sent)
        return torch.cat(received).view(rows.dtype)

    @staticmethod
    def backward(ctx, grad):
        # Every process computes the same loss of all rows, and gradients are averaged over the processes afterwards.
        return grad[ctx.local_rows] * ctx.world


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; every process must pass equally many.

    For losses that every process computes of the whole batch.  The gradient of the rows of this process is multiplied
    by the number of processes, so that its average over them is the gradient of that loss.  Returns the tensor itself
    where there is one process.
    """
    return rows if world() == 1 else _Gather.apply(rows)


def share(rows: Tensor) -> Tensor:
    """The rows of this process among those that ``gather`` returned."""
    if world() == 1:
        return rows
    return rows.tensor_split(world())[rank()]
