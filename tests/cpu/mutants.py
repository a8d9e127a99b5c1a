"""Planted faults in the C++ kernels of csrc/cpu, which the checks of checks.py or the operators' own tests must catch.

    python tests/cpu/mutants.py            runs all of them and writes tests/cpu/mutants.json (an hour on a core)
    python tests/cpu/mutants.py --new      only those that the file does not hold yet

A mutant (tests/planted.py) is one replacement in one file of csrc. Its file is compiled at -O1 and loaded into a fresh
process. An operator of CHECKED is compiled for this machine's best instruction set and two dtypes, and a mutant of it
that nothing catches is tried as "portable" too; one of TESTED is compiled for all instruction sets and dtypes.
An operator joins by a file mutant_table_<any>.py with MUTANTS and a row below; with checks.CASES if it is CHECKED.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(p) for p in (HERE.parent, ROOT) if str(p) not in sys.path]

import planted  # noqa: E402
from cpu import build  # noqa: E402

TABLES = [importlib.import_module(f"cpu.{path.stem}") for path in sorted(HERE.glob("mutant_table*.py"))]
MUTANTS = [mutant for table in TABLES for mutant in table.MUTANTS]
RESULT = HERE / "mutants.json"
TIMEOUT = 120  # seconds for all checks of one operator, which take a few
# Operator -> file of csrc/cpu.
CHECKED = {
    "class_moments": "class_moments",
    "class_moments_full": "class_moments",
    "bound_forward": "contrastive_bound",
    "bound_backward": "contrastive_bound",
    "modes_forward": "mode_losses",
    "modes_backward": "mode_losses",
    "upsample_cross_entropy": "upsample_cross_entropy",
    "lovasz_softmax": "lovasz_softmax",
    "softmax_kl": "softmax_kl",
    "pseudo_labels": "pseudo_labels",
    "confidence_histogram": "confidence_histogram",
    "prototype_rectify": "prototype_rectify",
    "aggregate_patches": "aggregate_patches",
}
TESTED = {
    name: name
    for name in (
        *("sinkhorn", "class_balanced_sample", "select_triplets", "triplet_consistency_loss", "class_thresholds"),
        "confusion_matrix",
    )
}
LEAST = dict.fromkeys(CHECKED, 10) | dict.fromkeys(TESTED, 15)
CHILD = {"FASTUDA_BACKEND": "reference", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def first_failure(library: str, operator: str) -> str:
    from cpu import checks  # in the child alone: it imports fastuda without the compiled extension

    return checks.first_failure(Path(library), operator)


def run_checks(operator: str, sources: Path, isa: str | None, folder: Path) -> str:
    """What the kernels of ``sources`` fail, compiled for ``isa`` and two dtypes or, for None, for all of them."""
    if isa:
        build.one_instruction_set(sources, isa, fewer_dtypes=True)
    library = build.build((CHECKED | TESTED)[operator], Path(folder) / f"{operator}.so", sources)
    with mock.patch.dict(os.environ, CHILD):
        return planted.isolated(first_failure, str(library), operator, timeout=TIMEOUT, method="spawn")


def fails(operator: str, copy: Callable[[Path], Path]) -> str:
    """What fails with the sources that ``copy`` puts into a folder, or an empty text."""
    for isa in dict.fromkeys((build.instruction_set(), "portable")) if operator in CHECKED else (None,):
        with tempfile.TemporaryDirectory() as folder:
            if found := run_checks(operator, copy(Path(folder)), isa, Path(folder)):
                return found
    return ""


def catch(mutant: planted.Mutant) -> str:
    """What caught the mutant, or an empty text."""
    return fails(mutant.operator, lambda folder: planted.mutate(mutant, ROOT / "csrc", folder))


def main(only_new: bool) -> int:
    known = json.loads(RESULT.read_text())["mutants"] if only_new else {}
    to_run = [mutant for mutant in MUTANTS if not known.get(mutant.name, {}).get("caught by")]
    for operator in dict.fromkeys(mutant.operator for mutant in to_run):
        if found := fails(operator, lambda folder: shutil.copytree(ROOT / "csrc", folder / "csrc")):
            sys.exit(f"{operator} fails without a mutant: {found}")
    return planted.run_all(MUTANTS, catch, RESULT, only_new)


if __name__ == "__main__":
    sys.exit(main("--new" in sys.argv[1:]))
