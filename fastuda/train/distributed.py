"""Several processes, one run: ``torchrun --nproc-per-node N -m fastuda.train ...``, over NCCL on GPUs, gloo on CPUs.

A schedule's batch is that of the run: each process, a rank, takes its part of it and draws what a single process would
draw for that part, so N ranks learn what one does, up to rounding.  Only the first rank writes checkpoint, log and
result, and they are those of any number of ranks; pseudo labels are written by the rank that makes them, into a
directory that all must see.

Gradients are averaged by DistributedDataParallel.  It wraps the losses instead of the network: a step runs a network
several times, under several domains, between several calls of backward, and a method owns more than one network,
while one forward pass of DistributedDataParallel is to be followed by one backward pass.  All that it does in a
forward pass (buffers apart, which are equal anyway) is to find, from the outputs, which parameters the next backward
pass reaches, and the losses of a part tell it just that.  So each part of a step is averaged while it is
differentiated, and an accumulated batch stays local until the last one.
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

    Without torchrun it changes nothing.  Raises ValueError for more processes than GPUs, and LostRank in place of
    whatever the communication reports when another process has ended.
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
        # What the hosts tell each other never waits for a device.
        _meet("cpu:gloo,cuda:nccl" if cuda else "gloo")
        with global_batch():
            yield
    except NonFiniteLoss:
        # All ranks raise it: one tells.
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


def _meet(backend: str) -> None:
    # torchrun may keep one store over all restarts, in which the addresses of processes that are gone still stand.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, number, count = next(rendezvous("env://", timeout=TIMEOUT))
    store = distributed.PrefixStore(f"attempt_{attempt}", store)
    distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)


def is_communication(error: BaseException) -> bool:
    """Whether an error is what gloo or NCCL says of a peer that is gone; gloo has no exception type of its own."""
    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def first_decides(decide: Callable[[], T]) -> T:
    """What ``decide`` returns on the first rank, on all; its ValueError or OSError ends all, with one message."""
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
    """What ``build`` returns here, once it succeeded on all ranks; its ValueError or OSError ends all, told once.

    For what opens files and networks: ``build`` must not communicate.
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
    teller = int(failed.min())
    _end_together(error if rank() == teller else None, rank() == teller)
    if teller < world():
        raise SystemExit(1)
    return result


def _end_together(error: Exception | None, tell: bool) -> None:
    if error is not None:
        raise error if tell else SystemExit(1)


def all_reduce_max(number: int) -> int:
    """The largest of the ranks' numbers, on all of them, without waiting for a device."""
    if world() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def wait() -> None:
    """Until all ranks are here: what another one wrote before is on disk."""
    all_reduce_max(0)


class _Announced(nn.Module):
    """The parameters of a method, and a forward pass that is over before it began."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, losses: Losses) -> Losses:
        return losses


class Averaging:
    """Has the gradients of losses averaged over the ranks while they are computed; alone it does nothing.

    Made once a stage, when it is known which parameters train.
    """

    def __init__(self, method: Method) -> None:
        self.parallel = None
        if distributed.is_available() and distributed.is_initialized():
            # The former name is deprecated from torch 2.13 on, and the only one before.
            new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
            options = {"forward_sync_buffers" if new else "broadcast_buffers": False}
            self.parallel = DistributedDataParallel(_Announced(method), find_unused_parameters=True, **options)

    def __call__(self, losses: Losses) -> Losses:
        """The losses of one part of a step, whose backward pass must be the next."""
        trains = any(loss.requires_grad for terms in losses.values() for loss in terms.values())
        return self.parallel(losses) if self.parallel is not None and trains else losses

    def local(self, until_later: bool) -> AbstractContextManager:
        """Inside the block, gradients stay this rank's if ``until_later``: a later part's average takes them along."""
        return self.parallel.no_sync() if self.parallel is not None and until_later else nullcontext()
