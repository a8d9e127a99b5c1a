"""Planted faults in the C++ kernels of sinkhorn, the samplers and the triplets, which tests/ops must catch.

    python tests/cpu/mutants_assignment.py         runs all and writes mutants_assignment.json (ten minutes on a core)
    python tests/cpu/mutants_assignment.py --new   only those that the file does not hold yet

As mutants.py, except that the checks are the operators' own tests, in a fresh process that holds the mutated kernel
alone, compiled for all instruction sets and dtypes.
"""

from __future__ import annotations

import contextlib
import io
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
from cpu.mutant_table_assignment import MUTANTS  # noqa: E402

RESULT = HERE / "mutants_assignment.json"
OPERATORS = ("sinkhorn", "class_balanced_sample", "select_triplets", "triplet_consistency_loss")
TIMEOUT = 120
CHILD = {"FASTUDA_BACKEND": "reference", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


class Failures:
    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.names.append(report.nodeid.split("::")[-1])


def first_failure(library: str, operator: str) -> str:
    """The first of the operator's tests that the library's kernel fails, or an empty text."""
    import pytest
    import torch

    import fastuda.ops  # noqa: F401

    torch.ops.load_library(library)
    failures, words = Failures(), io.StringIO()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-k", "not ranks"]
    with contextlib.redirect_stdout(words):
        status = pytest.main([*options, str(ROOT / f"tests/ops/test_{operator}.py")], plugins=[failures])
    assert status == 0 or failures.names, f"the tests of {operator} cannot be run: {words.getvalue()[-500:]}"
    return failures.names[0] if failures.names else ""


def run_checks(operator: str, sources: Path, folder: Path) -> str:
    library = build.build(operator, Path(folder) / f"{operator}.so", sources)
    with mock.patch.dict(os.environ, CHILD):
        return planted.isolated(first_failure, str(library), operator, timeout=TIMEOUT, method="spawn")


def catch(mutant: planted.Mutant) -> str:
    """What caught the mutant, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        return run_checks(mutant.operator, planted.mutate(mutant, ROOT / "csrc", Path(folder)), Path(folder))


if __name__ == "__main__":
    for name in OPERATORS:
        with tempfile.TemporaryDirectory() as place:
            if found := run_checks(name, ROOT / "csrc", Path(place)):
                sys.exit(f"{name} fails without a mutant: {found}")
    sys.exit(planted.run_all(MUTANTS, catch, RESULT, "--new" in sys.argv[1:]))
