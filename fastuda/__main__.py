"""The command ``fastuda COMMAND ...``, which hands over to ``fastuda.cli.COMMAND``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a network on a source and adapt it to a target; --help lists every option",
    "predict": "label maps of your own photos",
    "evaluate": "score a run on its validation split",
    "analyse": "distances, entropies and pseudo labels of a run",
    "export": "a run's network as one file of weights",
    "memory": "forecast the memory of a run, or measure it on a GPU",
    "report": "a page about a run, or several side by side",
    "data": "check the data of a task before a run",
}
USAGE = "usage: fastuda COMMAND ...\n\ncommands:\n" + "".join(f"  {name:10}{what}\n" for name, what in COMMANDS.items())
USAGE += "\noptions:\n  --version, --list-methods, --list-tasks\n\nfastuda COMMAND --help says more\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, unless a command raises SystemExit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = given[0] if given else "--help"
    if first in COMMANDS:
        return importlib.import_module(f"fastuda.cli.{first}").main(given[1:]) or 0
    if first in ("-h", "--help"):
        print(USAGE, end="")
    elif first == "--version":
        from fastuda import __version__

        print(__version__)
    elif first == "--list-methods":
        from fastuda.methods import METHODS

        print(*METHODS, sep="\n")
    elif first == "--list-tasks":
        from fastuda.data.config import packaged_tasks

        print(*packaged_tasks(), sep="\n")
    else:
        from fastuda.data.strict import close_name

        print(f"error: there is no command '{first}'{close_name(first, COMMANDS)}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
