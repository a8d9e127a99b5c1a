"""Runs many examples in one process that may die: ``python -m fuzz.child ROOM EXAMPLES DIRECTORY [CASE ...]``.

DIRECTORY/example holds the example that is running; printed is, for each case, how many gave a result and how many
were refused.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import warnings
from pathlib import Path

import torch
from fuzz import operators, readers
from fuzz.inputs import Inputs
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

SECONDS = 60  # of processor time an example; more is a hang
ROOM = 8 << 30  # bytes of address space: an absurd size must be refused, not swap the machine


def explore(room: str, name: str, examples: int, directory: Path) -> dict[str, int]:
    """Run the examples of one case; the first that does what it must not is raised, made small by hypothesis."""
    counts = {"results": 0, "refused": 0}

    @seed(0)
    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data) -> None:
        # The signal's own action ends the process, wherever it hangs.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        inputs = Inputs(data.draw, directory / "example")
        good = operators.run(name, inputs) if room == "operators" else readers.run(name, inputs, directory)
        counts["results" if good else "refused"] += 1

    one()
    return counts


def main(room: str, examples: str, directory: str, *cases: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    names = cases or tuple((operators if room == "operators" else readers).CASES)
    print(json.dumps({name: explore(room, name, int(examples), Path(directory)) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
