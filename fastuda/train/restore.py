"""A finished or interrupted run, restored from its checkpoint, and errors as single sentences."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fastuda.data.classes import ClassSet, class_set
from fastuda.data.loader import LOST_WORKER, is_lost_worker
from fastuda.methods import build_method
from fastuda.methods.protocol import Method
from fastuda.train.checkpoint import fill_method, load_run
from fastuda.train.config import Config, config_from_dict
from fastuda.train.distributed import LostRank
from fastuda.train.inputs import Inputs
from fastuda.train.meter import NonFiniteLoss
from fastuda.train.precision import Precision, choose_device, choose_precision
from fastuda.train.signals import Interrupted


@dataclass
class Restored:
    """The method of a run in evaluation mode on its device, and the run's configuration.

    ``inputs`` opens the run's data sets on first access, so that everything else works on machines without them.
    """

    method: Method
    config: Config
    classes: ClassSet
    device: torch.device
    precision: Precision
    work_dir: Path

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs(self.config, self.device, self.work_dir / "pseudo_labels")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that were scored, or trained on if none were; (0, 0) = native."""
        data = self.config.data
        return data.target.size if data.validation.kind == "none" else data.validation.size

    def description(self) -> dict[str, Any]:
        """Where these weights come from, as plain values."""
        config = self.config
        return {"directory": str(self.work_dir), "method": config.method, "task": config.task, "seed": config.seed}


def restore(run: Path, roots: Sequence[str] = ()) -> Restored:
    """Open the checkpoint of a run's directory, or the file itself; ValueError if it is missing or damaged.

    roots: further entries ``OLD=NEW`` of ``data.root``, for a run whose data lie elsewhere on this machine.
    """
    work_dir = run.parent if run.is_file() else run
    path = run if run.is_file() else run / "checkpoint.pt"
    state = load_run(path)
    config = config_from_dict(state["config"], str(path))
    # The checkpoint holds all weights: the file of initial weights may be gone.
    config = replace(config, model=replace(config.model, weights=""))
    config = replace(config, data=replace(config.data, root=(*config.data.root, *roots)))
    device, classes = choose_device(config.device), class_set(config.data.classes)
    method = build_method(config, classes.num_classes)
    fill_method(method, state["method"], path)
    return Restored(method.to(device).eval(), config, classes, device, choose_precision(device, config.amp), work_dir)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Inside the block, errors of the user or the machine end the process with one sentence and a non-zero status."""
    try:
        yield
        sys.stdout.flush()
    except Interrupted as interrupted:
        print(interrupted.message, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        # The reader of the output has gone. Python would report the error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        if lost := is_lost_worker(error):
            # torch's handler would report the same worker again, with a traceback during exit.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        elif not isinstance(error, (ValueError, OSError, NonFiniteLoss, LostRank)):
            raise
        print(f"error: {LOST_WORKER if lost else error}", file=sys.stderr)
        raise SystemExit(1) from error
