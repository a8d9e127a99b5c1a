"""Several processes, one run: ``torchrun --nproc-per-node N -m fastuda.train ...``, over NCCL on GPUs, gloo on CPUs.

A schedule's batch size counts the images of all processes (ranks) together.  Each rank loads its part of a batch and
augments it as a single process would, so N ranks learn what one does, up to rounding.  Only the first rank writes
checkpoint, log and result, whose form does not depend on the number of ranks.  Pseudo labels are written by the rank
that computes them, into a directory that all ranks must be able to read.

Gradients are averaged by DistributedDataParallel.  It wraps the losses instead of the network, because it expects one
backward pass after each forward pass, while a step runs a network several times between several backward passes and a
method may train more than one network.  In a forward pass DistributedDataParallel only finds out, from the outputs,
which parameters the next backward pass will reach (it also synchronises buffers, which are equal here), and the losses
of one part of a step show just that.  So the gradients of each part are averaged during its backward pass; those of
accumulated batches stay local until the last batch.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from fastuda.methods.protocol import Losses, Method
from fastuda.ops import global_batch
from fastuda.ranks import rank, world
from fastuda.train.meter import NonFiniteLoss

TIMEOUT = timedelta(minutes=30)  # how long a rank waits for the others, who may be validating or labelling images
T = TypeVar("T")


class LostRank(RuntimeError):
    """Another process of the run ended or does not answer."""


@contextmanager
def ranks(device: str) -> Iterator[None]:
    """Inside the block, the processes that torchrun started are one run on ``device`` ("auto", "cpu", "cuda").

    Without torchrun it changes nothing.  Raises ValueError for more processes than GPUs, and LostRank instead of the
    errors of gloo or NCCL when another process has ended.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield
        return
    cuda = device == "cuda" or device == "auto" and torch.cuda.is_available()
    if cuda:
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise ValueError(f"process {local + 1} of this machine finds no GPU of its own: there are {found}")
        torch.cuda.set_device(local)
    try:
        # Tensors on the host are sent by gloo, so that exchanging a number never waits for a GPU.
        _init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        with global_batch():
            yield
    except NonFiniteLoss:
        # All ranks raise it: one reports it.
        if distributed.get_rank() == 0:
            raise
        raise SystemExit(1) from None
    except RuntimeError as error:
        if is_communication(error):
            raise LostRank(
                f"rank {os.environ['RANK']} ends because another process of this run did: its message says why"
            ) from error
        raise
    distributed.destroy_process_group()


def _init_process_group(backend: str) -> None:
    # torchrun may keep one store over all restarts: without a prefix it still holds the addresses of ended processes.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, number, count = next(rendezvous("env://", timeout=TIMEOUT))
    store = distributed.PrefixStore(f"attempt_{attempt}", store)
    distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)


def is_communication(error: BaseException) -> bool:
    """Whether an error of gloo or NCCL means that another process is gone; gloo has no exception type of its own."""
    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


def is_first() -> bool:
    """Whether this process writes the files of the run."""
    return rank() == 0


def first_decides(decide: Callable[[], T]) -> T:
    """Call ``decide`` on the first rank and return its result on all; its ValueError or OSError ends all ranks.

    One rank raises the error, the others SystemExit.
    """
    outcome: list = [None, None]
    if is_first():
        try:
            outcome[0] = decide()
        except (ValueError, OSError) as error:
            if world() == 1:
                raise
            outcome[1] = error
    if world() > 1:
        distributed.broadcast_object_list(outcome)
    _end_together(outcome[1], is_first())
    return outcome[0]


def together(build: Callable[[], T]) -> T:
    """Call ``build`` on every rank and return its result once all have succeeded.

    A ValueError or OSError on any rank ends all of them: one rank raises it, the others SystemExit.  ``build`` opens
    files or networks and must not communicate, since another rank may have failed already.
    """
    if world() == 1:
        return build()
    result, error = None, None
    try:
        result = build()
    except (ValueError, OSError) as failure:
        error = failure
    failed = torch.full((world(),), world())
    failed[rank()] = world() if error is None else rank()
    distributed.all_reduce(failed, distributed.ReduceOp.MIN)
    first_failed = int(failed.min())
    _end_together(error if rank() == first_failed else None, rank() == first_failed)
    if first_failed < world():
        raise SystemExit(1)
    return result


def _end_together(error: Exception | None, report: bool) -> None:
    if error is not None:
        raise error if report else SystemExit(1)


def all_reduce_max(number: int) -> int:
    """The largest of the ranks' numbers, on every rank, without waiting for a device."""
    if world() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def wait() -> None:
    """Block until all ranks have called this: files that another rank wrote before are then complete."""
    all_reduce_max(0)


class _PassLosses(nn.Module):
    """The parameters of a method with a forward pass that returns the losses unchanged (see the module's docstring)."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, losses: Losses) -> Losses:
        return losses


class Averaging:
    """Averages gradients over the ranks while they are computed; with one process it does nothing.

    Build it once for each stage, after the stage has set which parameters require gradients.
    """

    def __init__(self, method: Method) -> None:
        self.parallel = None
        if distributed.is_available() and distributed.is_initialized():
            # The former name is deprecated from torch 2.13 on, and the only one before.
            new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
            options = {"forward_sync_buffers" if new else "broadcast_buffers": False}
            self.parallel = DistributedDataParallel(_PassLosses(method), find_unused_parameters=True, **options)

    def __call__(self, losses: Losses) -> Losses:
        """The losses of one part of a step, unchanged; their backward pass must follow before the next call."""
        trains = any(loss.requires_grad for terms in losses.values() for loss in terms.values())
        return self.parallel(losses) if self.parallel is not None and trains else losses

    def local(self, until_later: bool) -> AbstractContextManager:
        """Inside the block, if ``until_later``, gradients are only summed: a later backward pass averages them too."""
        return self.parallel.no_sync() if self.parallel is not None and until_later else nullcontext()
