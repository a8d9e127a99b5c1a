"""``python -m fastuda.train --method sdca --amp``: see --help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fastuda.cli.report import write_report
from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.memory.bundle import bundled
from fastuda.train.restore import one_sentence


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    with one_sentence():
        config = bundled(parse(arguments))
        finished: list[Path] = []
        train(config, on_finish=finished.append)
        # Only now, when the memory of training is free again.
        for directory in finished if config.report else []:
            report(directory)


def report(directory: Path) -> None:
    """Write the page of a run that has finished: what stands in its way does not make the run a failure."""
    console = Console()
    try:
        path = write_report(directory, console)
    except (ValueError, OSError) as error:
        console.print(f"the run is complete, but its report was not written: {error}", markup=False, soft_wrap=True)
    else:
        console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
