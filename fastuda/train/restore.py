"""A finished or interrupted run, opened for use."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fastuda.data.loader import LOST_WORKER, is_lost_worker
from fastuda.methods import build_method
from fastuda.methods.protocol import Method
from fastuda.train.checkpoint import fill_method, load_run
from fastuda.train.config import config_from_dict
from fastuda.train.distributed import LostRank
from fastuda.train.inputs import Inputs
from fastuda.train.meter import NonFiniteLoss
from fastuda.train.precision import Precision, choose_device, choose_precision
from fastuda.train.signals import Interrupted


@dataclass(frozen=True)
class Restored:
    """The method of a run in evaluation mode on its device, with the run's data."""

    method: Method
    inputs: Inputs
    device: torch.device
    precision: Precision


def restore(work_dir: Path) -> Restored:
    """Open the last checkpoint of ``work_dir``; ValueError says what is wrong with it."""
    path = work_dir / "checkpoint.pt"
    state = load_run(path)
    config = config_from_dict(state["config"], str(path))
    # The checkpoint holds the weights: the file that the run started from need not be there any more.
    config = replace(config, model=replace(config.model, weights=""))
    device = choose_device(config.device)
    inputs = Inputs(config, device, work_dir / "pseudo_labels")
    method = build_method(config, inputs.classes.num_classes)
    fill_method(method, state["method"], path)
    return Restored(method.to(device).eval(), inputs, device, choose_precision(device, config.amp))


@contextmanager
def one_sentence() -> Iterator[None]:
    """End a command line with one sentence and a non-zero status on whatever the user or the machine got wrong."""
    try:
        yield
    except Interrupted as interrupted:
        print(interrupted.message, file=sys.stderr)
        raise
    except Exception as error:
        if lost := is_lost_worker(error):
            # torch's handler would tell of the same worker once more, in a traceback out of the exit.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        elif not isinstance(error, (ValueError, OSError, NonFiniteLoss, LostRank)):
            raise
        print(f"error: {LOST_WORKER if lost else error}", file=sys.stderr)
        raise SystemExit(1) from error
