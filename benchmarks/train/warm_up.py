"""One warm-up for several runs that differ only in what comes after it.

    python benchmarks/train/warm_up.py ARGUMENTS        those of fastuda.train, with --work-dir

trains the first stage of that run and leaves its checkpoint; ``hand_over`` starts other runs from there.  What follows
is bit for bit what such a run computes alone: all draws are functions of the seed and the position.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fastuda.methods import METHODS
from fastuda.train.checkpoint import load_checkpoint, save_checkpoint
from fastuda.train.config import difference, parse, to_dict
from fastuda.train.loop import Run
from fastuda.train.restore import one_sentence
from fastuda.train.signals import Signals
from fastuda.train.work_dir import choose_work_dir, create_work_dir


def warm_up(arguments: list[str]) -> None:
    """Train the first stage of a run, or what is left of it."""
    config = parse(arguments)
    checkpoint = Path(config.work_dir) / "checkpoint.pt"
    config = replace(config, resume=checkpoint.exists())
    if config.resume and load_checkpoint(checkpoint)["position"]["stage"]:
        return
    with Signals() as signals:
        run = Run(config, choose_work_dir(config), Console(), signals)
        run.stage(run.method.stages()[0])
        run.log.close()


def hand_over(warm: Path, arguments: list[str]) -> None:
    """Put the checkpoint of directory ``warm`` into the directory of a run that has not begun.

    Raises ValueError where the two differ in anything but the methods' own fields: the warm-up might be another.
    """
    config = parse(arguments)
    work_dir = Path(config.work_dir)
    if (work_dir / "checkpoint.pt").exists():
        return
    state = load_checkpoint(warm / "checkpoint.pt")
    saved, now = ({k: v for k, v in d.items() if k not in METHODS} for d in (state["config"], to_dict(config)))
    if name := difference(saved, now):
        raise ValueError(f"{work_dir} cannot start from the warm-up {warm}, they differ in {name}")
    if state["position"]["stage"] != 1:
        raise ValueError(f"{warm} is not at the end of a warm-up")
    create_work_dir(work_dir, config)
    save_checkpoint(work_dir / "checkpoint.pt", state | {"config": to_dict(config)})


if __name__ == "__main__":
    with one_sentence():
        warm_up(sys.argv[1:])
