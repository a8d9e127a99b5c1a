"""Catches planted faults in kernels/, Triton's: the cases of tests/kernels/kernel_cases*.py under the interpreter.

A fault is caught if a case disagrees with float64 or reads outside of its tensors. A barrier that is missing cannot be
seen: the interpreter runs one statement after the other. Needs TRITON_INTERPRET=1 in the environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [p for p in (str(ROOT / "tests" / "kernels"),) if p not in sys.path]

import triton_room  # noqa: E402
from mutants import planted  # noqa: E402

SOURCES = ROOT / "kernels"
TIMEOUT = 120  # seconds for the cases of one kernel, which take a few
LEAST = 10  # faults of each kernel


def missing_tool() -> str:
    return "" if importlib.util.find_spec("triton") else "triton is not installed"


def prepare() -> None:
    """Imports what every child needs, once; each fault is then tried in a fork."""
    import torch
    import triton.language  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # NaN on its way through NumPy
    for name in ("contract", "close", "fastuda.reference.contrastive_bound", "fastuda.reference.class_moments"):
        importlib.import_module(name)


def first_failure(kernels: Path, kernel: str) -> str:
    import torch

    triton_room.interpret(kernels)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty returns
    checks = {}
    for module in triton_room.tables("kernel_cases"):
        checks |= module.CHECKS
    for name, run in checks[kernel].items():
        try:
            run()
        except Exception as error:
            fault = error
            while not isinstance(fault, AssertionError) and fault.__cause__:  # within a kernel
                fault = fault.__cause__
            if not isinstance(fault, AssertionError):
                return f"invalid: {name}: {type(error).__name__}: {str(error)[-300:]}"
            return f"{name}: {str(fault).splitlines()[0][:70]}"
    return ""


def catch(operator: str, fault: planted.Fault) -> str:
    """What caught the fault, or an empty text. RuntimeError if it is no Triton, which proves nothing."""
    with tempfile.TemporaryDirectory() as folder:
        sources = planted.mutate(fault, SOURCES, Path(folder))
        by = planted.isolated(first_failure, sources, fault.check, timeout=TIMEOUT)
    if by.startswith("invalid"):
        raise RuntimeError(f"{fault.title}: {by}")
    return by
