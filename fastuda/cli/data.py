"""Command line: ``python -m fastuda.data check CONFIG``."""

from __future__ import annotations

import argparse
import sys

from fastuda.data.check import check, data_config


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastuda.data", description="Check the data of a task.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser(
        "check",
        help="counts, unreadable files, ids seen, size mismatches",
        description="Decode the images of a task, and the labels of its source and validation data. "
        "Ends with 1 when anything is wrong. Labels of the target are never opened.",
    )
    checking.add_argument("config", metavar="CONFIG", help="a task's YAML file, or the name of a packaged task")
    checking.add_argument("--limit", type=int, default=0, metavar="N", help="check N images of each data set, not all")
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error("--limit must not be negative")
    try:
        if check(data_config(options.config), options.limit):
            return 0
        print(f"error: the data of {options.config} are not as the task says: see above", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1
