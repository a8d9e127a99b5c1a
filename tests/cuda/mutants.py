"""Planted faults in the CUDA C++ kernels, which the cases under the emulation must catch.

    python tests/cuda/mutants.py            runs all of them and writes tests/cuda/mutants.json (minutes)
    python tests/cuda/mutants.py --new      only those that the file does not hold yet

A mutant is one replacement in one file of csrc. It is caught if the emulation reports a fault or if a case disagrees
with float64; one that does not compile proves nothing and is an error. What changes nothing that can be observed is not
in the table.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(p) for p in (HERE, HERE.parent, ROOT) if str(p) not in sys.path]

import cases  # noqa: E402
import emulated  # noqa: E402
from mutant_table import MUTANTS, Mutant  # noqa: E402

RESULT = HERE / "mutants.json"
TIMEOUT = 300  # seconds for all cases, which take a few


def mutate(mutant: Mutant, folder: Path) -> Path:
    """A copy of csrc with the mutant in it; ValueError unless its text occurs exactly once."""
    sources = folder / "csrc"
    shutil.copytree(ROOT / "csrc", sources)
    path = sources / mutant.file
    text = path.read_text()
    if text.count(mutant.search) != 1:
        raise ValueError(f"{mutant.name}: its text occurs {text.count(mutant.search)} times in {mutant.file}")
    path.write_text(text.replace(mutant.search, mutant.replace))
    without_double(sources)
    return sources


def without_double(sources: Path) -> None:
    for path in (sources / "cuda").glob("*.cu"):
        kept = [line for line in path.read_text().splitlines() if not re.search(r"^FASTUDA_\w+\(double", line)]
        path.write_text("\n".join(kept) + "\n")
    path = sources / "common/cuda_kernel.h"
    text = path.read_text()
    assert text.count("  else run(double());\n") == 1
    path.write_text(text.replace("  else run(double());\n", ""))


def usable(operator: str) -> dict:
    table = cases.MOMENTS if operator == "class_moments" else cases.BOUND
    return {name: run for name, run in table.items() if "float64" not in name}


def first_failure(library: Path, operator: str, answer) -> None:
    library = emulated.load(library)
    for name, run in usable(operator).items():
        try:
            run(library)
        except AssertionError as error:
            return answer.send(f"{name}: {str(error).splitlines()[0][:70]}")
    answer.send("")


def catch(mutant: Mutant) -> str:
    """What caught the mutant, or an empty text. It runs in a process of its own, as it may crash or never end."""
    with tempfile.TemporaryDirectory() as folder:
        sources = mutate(mutant, Path(folder))
        library = emulated.build(mutant.operator, Path(folder) / "mutant.so", sources)
        fork = multiprocessing.get_context("fork")
        receive, send = fork.Pipe(duplex=False)
        child = fork.Process(target=first_failure, args=(library, mutant.operator, send))
        child.start()
        send.close()
        child.join(TIMEOUT)
        if child.is_alive():
            child.kill()
            child.join()
            return "does not end"
        try:
            return receive.recv()
        except EOFError:
            return f"crash: exit status {child.exitcode}"


def run_all(only_new: bool) -> int:
    old = json.loads(RESULT.read_text())["mutants"] if only_new and RESULT.exists() else {}
    found = {}
    for mutant in MUTANTS:
        start = time.perf_counter()
        by = old.get(mutant.name, {}).get("caught by") or catch(mutant)
        found[mutant.name] = {"operator": mutant.operator, "file": mutant.file, "caught by": by}
        print(f"{time.perf_counter() - start:6.1f} s  {mutant.name}: {by or 'NOT CAUGHT'}", flush=True)
        share = sum(bool(row["caught by"]) for row in found.values()) / len(found)
        summary = {"planted": len(found), "caught": round(share, 4), "mutants": found}
        RESULT.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return 0 if share >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(run_all("--new" in sys.argv[1:]))
