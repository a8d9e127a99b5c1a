"""Scores of a method on labelled images: ``python -m fastuda.evaluate WORK_DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from fastuda.metrics.table import iou_table
from fastuda.train import distributed
from fastuda.train.restore import one_sentence, restore
from fastuda.train.scoring import evaluate


def add_window(parser: argparse.ArgumentParser) -> None:
    """Add the option --window."""
    parser.add_argument(
        "--window",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="predict overlapping windows of this many pixels instead of whole images: less memory",
    )


def add_roots(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data.root",
        dest="roots",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="the run's data that lay in the directory OLD on its machine lie in NEW here; may be given several times",
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fastuda.evaluate", description=__doc__)
    parser.add_argument("work_dir", type=Path, help="directory of a training run, or its checkpoint.pt")
    add_window(parser)
    add_roots(parser)
    options = parser.parse_args(arguments)
    with one_sentence(), distributed.ranks("auto"):
        restored = distributed.together(lambda: restore(options.work_dir, options.roots))
        stream, classes = distributed.together(restored.inputs.validation_stream), restored.classes
        scores = evaluate(restored.method, stream, classes, restored.device, restored.precision, window=options.window)
        Console(quiet=not distributed.is_first()).print(iou_table([{"name": "checkpoint", **scores.row()}]))
