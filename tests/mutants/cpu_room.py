"""Catches planted faults in csrc/cpu: by the checks of tests/cpu/checks.py, or by the operators' own tests.

A fault's file is compiled at -O1 and loaded into a fresh process. What CHECKED names is compiled for this machine's
best instruction set and two dtypes, and what nothing catches there is tried as "portable" too; any other operator is
compiled for all instruction sets and dtypes, and its own tests are run.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

from cpu import build
from mutants import planted

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
TIMEOUT = 120  # seconds for all checks of one operator, which take a few
LEAST = 9  # faults of each check
DIRECTIONS = ("bound_forward", "bound_backward", "modes_forward", "modes_backward", "class_moments_full")
CHECKED = (
    *DIRECTIONS,
    *("class_moments", "upsample_cross_entropy", "lovasz_softmax", "softmax_kl", "pseudo_labels"),
    *("confidence_histogram", "prototype_rectify", "aggregate_patches"),
)
CHILD = {"FASTUDA_BACKEND": "reference", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def missing_tool() -> str:
    return "" if build.have_compiler() else "g++ is not installed"


def first_failure(library: str, check: str) -> str:
    from cpu import checks  # in the child alone: it imports fastuda without the compiled extension

    return checks.first_failure(Path(library), check)


def catch(operator: str, fault: planted.Fault) -> str:
    """What caught the fault, or an empty text."""
    for isa in dict.fromkeys((build.instruction_set(), "portable")) if fault.check in CHECKED else (None,):
        with tempfile.TemporaryDirectory() as folder:
            sources = planted.mutate(fault, SOURCES, Path(folder))
            if isa:
                build.one_instruction_set(sources, isa, fewer_dtypes=True)
            library = build.build(operator, Path(folder) / f"{operator}.so", sources)
            with mock.patch.dict(os.environ, CHILD):
                arguments = str(library), fault.check
                if found := planted.isolated(first_failure, *arguments, timeout=TIMEOUT, method="spawn"):
                    return found
    return ""
