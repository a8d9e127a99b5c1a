"""Planted faults in the kernels of the assignment operators, caught by their cases under the emulation.

python tests/cuda/assign_mutants.py            runs all of them and writes tests/cuda/assign_mutants.json (minutes)
python tests/cuda/assign_mutants.py --new      only those that the file does not hold yet
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(p) for p in (HERE, HERE.parent, ROOT) if str(p) not in sys.path]

import emulated  # noqa: E402
import mode_losses_cases  # noqa: E402
import planted  # noqa: E402
import sinkhorn_cases  # noqa: E402
from assign_mutant_table import ASSIGN_MUTANTS  # noqa: E402
from mutants import TIMEOUT, without_double  # noqa: E402

RESULT = HERE / "assign_mutants.json"
TABLES = {"sinkhorn": sinkhorn_cases.SINKHORN, "mode_losses": mode_losses_cases.MODES}


def first_failure(library: Path, operator: str) -> str:
    library = emulated.load(library)
    for name, run in TABLES[operator].items():
        if "float64" in name:
            continue
        try:
            run(library)
        except AssertionError as error:
            return f"{name}: {str(error).splitlines()[0][:70]}"
    return ""


def catch(mutant: planted.Mutant) -> str:
    """What caught the mutant, or an empty text. It runs in a process of its own, as it may crash or never end."""
    with tempfile.TemporaryDirectory() as folder:
        sources = planted.mutate(mutant, ROOT / "csrc", Path(folder))
        without_double(sources)
        library = emulated.build(mutant.operator, Path(folder) / "mutant.so", sources)
        return planted.isolated(first_failure, library, mutant.operator, timeout=TIMEOUT)


if __name__ == "__main__":
    sys.exit(planted.run_all(ASSIGN_MUTANTS, catch, RESULT, "--new" in sys.argv[1:]))
