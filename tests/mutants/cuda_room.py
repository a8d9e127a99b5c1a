"""Catches planted faults in csrc/cuda: the emulation reports one, or a case under it disagrees with float64."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [p for p in (str(ROOT / "tests" / "cuda"),) if p not in sys.path]

import emulated  # noqa: E402
from all_cases import CASES  # noqa: E402
from mutants import planted  # noqa: E402

SOURCES = ROOT / "csrc"
TIMEOUT = 300  # seconds for all cases, which take a few
LEAST = 15  # faults of each operator


def missing_tool() -> str:
    return "" if emulated.have_compiler() else "g++ is not installed"


def without_double(sources: Path) -> None:
    """Leaves float64 out of a copy of csrc: compiling it is a large part of the time."""
    for path in (sources / "cuda").glob("*.cu"):
        kept = [line for line in path.read_text().splitlines() if not re.search(r"^FASTUDA_\w+\(double", line)]
        path.write_text("\n".join(kept) + "\n")
    path = sources / "cuda/kernel.h"
    text = path.read_text()
    assert text.count("  else run(double());\n") == 1
    path.write_text(text.replace("  else run(double());\n", ""))


def first_failure(library: Path, operator: str) -> str:
    library = emulated.load(library)
    for name, run in CASES[operator].items():
        if "float64" in name:
            continue
        try:
            run(library)
        except AssertionError as error:
            return f"{name}: {str(error).splitlines()[0][:70]}"
    return ""


def catch(operator: str, fault: planted.Fault) -> str:
    """What caught the fault, or an empty text. It runs in a process of its own, as it may crash or never end."""
    with tempfile.TemporaryDirectory() as folder:
        sources = planted.mutate(fault, SOURCES, Path(folder))
        without_double(sources)
        library = emulated.build(operator, Path(folder) / "mutant.so", sources)
        return planted.isolated(first_failure, library, operator, timeout=TIMEOUT)
