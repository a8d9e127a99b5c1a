"""``python -m fastuda.train --method sdca --amp``: see --help."""

from __future__ import annotations

from collections.abc import Sequence

from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.memory.bundle import bundled
from fastuda.train.restore import one_sentence


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    with one_sentence():
        train(bundled(parse(arguments)))
