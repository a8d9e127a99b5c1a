"""Planted faults in the C++ kernels of csrc/cpu, which the checks of checks.py must catch.

    python tests/cpu/mutants.py            runs all of them and writes tests/cpu/mutants.json (half an hour)
    python tests/cpu/mutants.py --new      only those that the file does not hold yet

A mutant (tests/planted.py) is one replacement in one file of csrc. Its file is compiled at -O1 for this machine's best
instruction set and two dtypes, and loaded into a fresh process. One that nothing catches is tried as "portable" too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(p) for p in (HERE.parent, ROOT) if str(p) not in sys.path]

import planted  # noqa: E402
from cpu import build  # noqa: E402
from cpu.mutant_table import MUTANTS  # noqa: E402

RESULT = HERE / "mutants.json"
TIMEOUT = 120  # seconds for all checks of one operator, which take a few
FILES = {
    "class_moments": "class_moments",
    "class_moments_full": "class_moments",
    "bound_forward": "contrastive_bound",
    "bound_backward": "contrastive_bound",
}
CHILD = {"FASTUDA_BACKEND": "reference", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def first_failure(library: str, operator: str) -> str:
    from cpu import checks  # in the child alone: it imports fastuda without the compiled extension

    return checks.first_failure(Path(library), operator)


def run_checks(operator: str, sources: Path, isa: str, folder: Path) -> str:
    build.one_instruction_set(sources, isa, fewer_dtypes=True)
    library = build.build(FILES[operator], Path(folder) / f"{operator}.so", sources)
    with mock.patch.dict(os.environ, CHILD):
        return planted.isolated(first_failure, str(library), operator, timeout=TIMEOUT, method="spawn")


def catch(mutant: planted.Mutant) -> str:
    """What caught the mutant, or an empty text."""
    for isa in dict.fromkeys((build.instruction_set(), "portable")):
        with tempfile.TemporaryDirectory() as folder:
            sources = planted.mutate(mutant, ROOT / "csrc", Path(folder))
            if found := run_checks(mutant.operator, sources, isa, Path(folder)):
                return found
    return ""


if __name__ == "__main__":
    sys.exit(planted.run_all(MUTANTS, catch, RESULT, "--new" in sys.argv[1:]))
