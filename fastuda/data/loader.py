"""Loading batches ahead of the step, in worker processes where that pays."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader

from fastuda.data.batch import Batch
from fastuda.data.errors import DataError, LostWorker

LOST_WORKER = (
    "a data loading process was killed: it ran out of memory, or of shared memory in a container "
    "(docker run --shm-size=8g); data.workers=0 loads without processes"
)


class Stream(Protocol):
    """Anything that gives batch number i."""

    def __getitem__(self, iteration: int) -> Batch: ...


class _Failure(NamedTuple):
    message: str


class _Reporting:
    """Returns a data error as a message: raised in a worker, torch would wrap it in a page of traceback."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, iteration: int) -> Batch | _Failure:
        try:
            return self._stream[iteration]
        except (ValueError, OSError) as error:
            return _Failure(str(error))


def auto_workers(workers: int, device: torch.device | str) -> int:
    """The number of loading processes: ``workers`` itself, or for -1 none on a CPU device, where they would take the
    step's own cores, and otherwise one less than the cores, at most 4."""
    if workers < -1:
        raise ValueError(f"workers must be -1 (automatic) or a number of processes, not {workers}")
    if workers >= 0:
        return workers
    if torch.device(device).type == "cpu":
        return 0
    return min(4, max(0, available_cores() - 1))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loader(stream: Stream, start: int, stop: int, workers: int = 0) -> Iterator[Batch]:
    """Batches ``stream[start]``, ..., ``stream[stop - 1]``, in order, loaded ahead by ``workers`` processes.

    Workers are forked where the system can: they share the parent's data set, cache and pseudo labels without a copy
    and start in milliseconds. They run NumPy and Pillow only, never the parent's device. They end with the iterator.

    Raises:
        ValueError: whatever is wrong on disk, in the one sentence of the stream, also from a worker.
        LostWorker: a worker was killed.
    """
    if workers == 0:
        for iteration in range(start, stop):
            yield stream[iteration]
        return
    fork = "fork" in multiprocessing.get_all_start_methods()
    batches: DataLoader[Any] = DataLoader(
        _Reporting(stream),  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        multiprocessing_context="fork" if fork else "spawn",
        collate_fn=_as_is,
        worker_init_fn=_own_process_group,
    )
    with warnings.catch_warnings():
        # Python warns that forking a process with threads may deadlock; the workers never take those threads' locks.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
        iterator = iter(batches)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise
            raise LostWorker(LOST_WORKER) from error
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # The worker was killed while it handed a batch over; a file that it cannot read comes as a _Failure.
            raise LostWorker(LOST_WORKER) from error
        if isinstance(batch, _Failure):
            raise DataError(batch.message)
        yield batch


def is_lost_worker(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a worker was killed.

    torch raises that from a signal handler, wherever the program is: the operation that it interrupts, such as writing
    an archive, then fails with an error of its own, which has the worker's as its cause.
    """
    while error is not None:
        # An error that a worker raised itself begins with "Caught ... in DataLoader worker process 0" instead.
        if isinstance(error, LostWorker) or str(error).startswith("DataLoader worker (pid"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _as_is(batch: Batch) -> Batch:
    return batch


def _own_process_group(_worker: int) -> None:
    # Ctrl-C and signals to the run's process group are for the trainer, which still needs batches while it stops.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
