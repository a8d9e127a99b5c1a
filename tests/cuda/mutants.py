"""Planted faults in the CUDA C++ kernels, which the cases under the emulation must catch.

    python tests/cuda/mutants.py            runs all of them and writes tests/cuda/mutants.json (minutes)
    python tests/cuda/mutants.py --new      only those that the file does not hold yet

A mutant (tests/planted.py) is one replacement in one file of csrc. It is caught if the emulation reports a fault or if
a case disagrees with float64.
An operator joins by two files here: mutant_table_<any>.py with MUTANTS (at least LEAST, a few of them ``quick``), and
<any>_cases.py with TABLES = {operator, as its file in csrc/cuda is called: {name of a case: function of the library}}.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(p) for p in (HERE, HERE.parent, ROOT) if str(p) not in sys.path]

import emulated  # noqa: E402
import planted  # noqa: E402


def modules(names: str) -> list:
    return [importlib.import_module(path.stem) for path in sorted(HERE.glob(names))]


MUTANTS = [mutant for module in modules("mutant_table*.py") for mutant in module.MUTANTS]
CASES = {operator: table for module in modules("*cases.py") for operator, table in module.TABLES.items()}
RESULT = HERE / "mutants.json"
LEAST = 20  # of each operator
TIMEOUT = 300  # seconds for all cases, which take a few


def without_double(sources: Path) -> None:
    for path in (sources / "cuda").glob("*.cu"):
        kept = [line for line in path.read_text().splitlines() if not re.search(r"^FASTUDA_\w+\(double", line)]
        path.write_text("\n".join(kept) + "\n")
    path = sources / "cuda/kernel.h"
    text = path.read_text()
    assert text.count("  else run(double());\n") == 1
    path.write_text(text.replace("  else run(double());\n", ""))


def usable(operator: str) -> dict:
    return {name: run for name, run in CASES[operator].items() if "float64" not in name}


def first_failure(library: Path, operator: str) -> str:
    library = emulated.load(library)
    for name, run in usable(operator).items():
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
    sys.exit(planted.run_all(MUTANTS, catch, RESULT, "--new" in sys.argv[1:]))
