"""A page about a run, or several side by side, as one HTML file without scripts.

    fastuda report RUN [RUN ...] [--output FILE]      RUN/report.html of each, finished or under way
    fastuda report compare RUN RUN ... [--output FILE]  one page with all of them, comparison.html

The directory of a run is all that is needed. Where its validation data are on this machine, the page also has the
confusion matrix and the best, median and worst images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from fastuda.report import comparison_page, pictures, read_run, run_page, write_page
from fastuda.report.pictures import Pictures
from fastuda.report.run import RunFiles
from fastuda.train.restore import one_sentence, restore

NAME = "report.html"


def find_pictures(run: RunFiles, console: Console, computed: bool = True) -> Pictures:
    """Pictures of a run's images: predicted now where its data are here, else those that it saved.

    computed: False predicts nothing.  What stands in the way of predicting is said in the pictures' note.
    """
    why = ""
    if computed and (run.directory / "checkpoint.pt").exists():
        try:
            restored = restore(run.directory)
            if not restored.inputs.validated:
                return pictures.of_target(restored)
            numbers = range(len(restored.inputs.validation_stream()))
            shown = track(numbers, "images", console=console, transient=True, disable=not console.is_terminal)
            return pictures.of_validation(restored, shown)
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            why = f"Nothing was predicted for this page: {error}. "
            console.print(f"{run.directory}: {why.strip()}", highlight=False, markup=False, soft_wrap=True)
    found = pictures.saved(run.pictures)
    if not found.shown:
        return Pictures(why.strip())
    return Pictures(why + found.note, found.shown)


def write_report(directory: Path, console: Console, output: Path | None = None, computed: bool = True) -> Path:
    """Write the page of one run, by default into its directory; the file.

    Raises ValueError where the directory holds no run or a damaged one, OSError where the page cannot be written.
    """
    run = read_run(directory)
    path = output or directory / NAME
    write_page(path, run_page(run, find_pictures(run, console, computed)))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fastuda.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs; the word compare before them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page; for several runs only with compare")
    parser.add_argument("--no-images", action="store_true", help="predict nothing: only what the run has saved")
    options = parser.parse_args(arguments)
    compare = options.runs[0] == "compare"
    directories = [Path(run) for run in options.runs[compare:]]
    if compare and len(directories) < 2:
        parser.error("compare needs at least two runs")
    if not compare and options.output and len(directories) > 1:
        parser.error("--output names one page: give one run, or compare them")
    console = Console()
    with one_sentence():
        if compare:
            path = options.output or Path("comparison.html")
            write_page(path, comparison_page([read_run(directory) for directory in directories]))
            print(path)
        for directory in [] if compare else directories:
            print(write_report(directory, console, options.output, computed=not options.no_images))
