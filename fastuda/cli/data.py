"""Command line: ``python -m fastuda.data check CONFIG`` and ``python -m fastuda.data init DIR ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fastuda.data.check import check, data_config
from fastuda.data.init import init


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        if options.command == "init":
            _init(options)
            return 0
        if check(data_config(options.config, options.roots), options.limit):
            return 0
        print(f"error: the data of {options.config} are not as the task says: see above", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1


def _init(options: argparse.Namespace) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("files", total=None)
        init(
            options.folders,
            options.output,
            target=options.target,
            validation=options.validation,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fastuda.data", description="Look at the data of a task.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser(
        "check",
        help="counts, unreadable files, ids seen, size mismatches",
        description="Decode the images of a task, and the labels of its source and validation data. "
        "Ends with 1 when anything is wrong. Labels of the target are never opened.",
    )
    checking.add_argument("config", metavar="CONFIG", help="a task's YAML file, or the name of a packaged task")
    checking.add_argument("--limit", type=int, default=0, metavar="N", help="check N images of each data set, not all")
    checking.add_argument(
        "--data.root",
        dest="roots",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="what the task has in the directory OLD lies in NEW here; may be given several times",
    )
    propose = commands.add_parser(
        "init",
        help="propose a task file for folders of photos and labels",
        description="Look at a sample of the files in the folders, pair photos and labels by their names, and write a "
        "task file that `fastuda train --task FILE` takes. Prints what it assumed. Never overwrites a file.",
    )
    propose.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="the source: a folder of photos and labels, or one of each"
    )
    propose.add_argument("--target", type=Path, metavar="DIR", help="the photos to adapt to, with or without labels")
    propose.add_argument("--validation", type=Path, metavar="DIR", help="labelled photos like the target's, to score")
    propose.add_argument(
        "--output", type=Path, default=Path("task.yaml"), metavar="FILE", help="the file to write (default: task.yaml)"
    )
    options = parser.parse_args(arguments)
    if options.command == "check" and options.limit < 0:
        parser.error("--limit must not be negative")
    return options
