"""What the processes of a run share of a batch that is split over them: rows, sums and the divisors of means."""

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
    a process group the block changes nothing.  Off by default: elsewhere no operator talks to another process.
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
    """Which of them this process is."""
    return distributed.get_rank() if _split else 0


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over the processes, on each of them; without a gradient.  Alone: the tensor itself."""
    if world() == 1:
        return value
    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(value)
    return value


def divisor(weight: Tensor) -> Tensor:
    """What to divide a process's sum of losses by: its valid pixels, or their mean over the processes; never 0.

    With ``weight`` () the pixels that count here, the average over the processes of sum / divisor is the mean over all
    pixels that count anywhere.
    """
    everywhere = total(weight)
    everywhere = everywhere.where(everywhere > 0, 1)
    return everywhere if world() == 1 else everywhere.double() / world()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        ctx.own = slice(rank() * len(rows), (rank() + 1) * len(rows))
        ctx.world = world()
        rows = rows.contiguous()
        # Bits are all that travels, and not every backend knows every type.
        sent = rows.view(_BITS.get(rows.dtype, rows.dtype))
        everyone = [torch.empty_like(sent) for _ in range(ctx.world)]
        distributed.all_gather(everyone, sent)
        return torch.cat(everyone).view(rows.dtype)

    @staticmethod
    def backward(ctx, grad):
        # Every process computes the same loss of all rows and the average over them is taken afterwards.
        return grad[ctx.own] * ctx.world


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order: the global batch; each must bring equally many.

    For what is computed of the whole batch on every process alike.  The gradient reaches a process's own rows, times
    the number of processes: averaged over them it is that of the one loss.  Alone: the tensor itself.
    """
    return rows if world() == 1 else _Gather.apply(rows)


def share(rows: Tensor) -> Tensor:
    """This process's part of what ``gather`` put together."""
    if world() == 1:
        return rows
    return rows.tensor_split(world())[rank()]
