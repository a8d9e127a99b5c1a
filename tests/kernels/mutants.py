"""Planted faults in the Triton kernels, which the cases of kernel_cases*.py must catch under the interpreter.

    python tests/kernels/mutants.py            runs all of them and writes tests/kernels/mutants*.json (minutes)
    python tests/kernels/mutants.py --new      only those that the files do not hold yet
    python tests/kernels/mutants.py --quick    the quick ones; prints those that nothing caught
    python tests/kernels/mutants.py full       of the table mutant_table_full.py only; "" is mutant_table.py


A mutant (tests/planted.py) is one replacement in one file of kernels/; its operator is the kernel it hurts. It is
caught if a case disagrees with float64 or reads outside of its tensors. A barrier that is missing cannot be seen: the
interpreter runs one statement after the other.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(p) for p in (HERE, HERE.parent, HERE.parents[1]) if str(p) not in sys.path]

import planted  # noqa: E402
import triton_room  # noqa: E402

TIMEOUT = 120  # seconds for the cases of one kernel, which take a few
LEAST = 10  # mutants of each kernel


def tables() -> dict[str, list[planted.Mutant]]:
    """The table of each file mutant_table*.py by what * stands for, without its underscore."""
    stems = {
        module.__name__.partition("mutant_table")[2].strip("_"): module for module in triton_room.tables("mutant_table")
    }
    return {stem: module.MUTANTS for stem, module in stems.items()}


def result(stem: str) -> Path:
    return HERE / ("mutants.json" if not stem else f"mutants_{stem}.json")


def least(mutants: list[planted.Mutant]) -> dict[str, int]:
    """How many mutants each kernel has at least."""
    return dict.fromkeys((mutant.operator for mutant in mutants), LEAST)


def first_failure(kernels: Path, operator: str) -> str:
    import torch

    triton_room.interpret(kernels)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty returns
    checks = {}
    for module in triton_room.tables("kernel_cases"):
        checks |= module.CHECKS
    for name, run in checks[operator].items():
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


def catch(mutant: planted.Mutant) -> str:
    """What caught the mutant, or an empty text. RuntimeError if it is no Triton, which proves nothing."""
    with tempfile.TemporaryDirectory() as folder:
        sources = planted.mutate(mutant, triton_room.ROOT / "kernels", Path(folder))
        by = planted.isolated(first_failure, sources, mutant.operator, timeout=TIMEOUT)
    if by.startswith("invalid"):
        raise RuntimeError(f"{mutant.name}: {by}")
    return by


def main(arguments: list[str]) -> int:
    import torch
    import triton.language  # noqa: F401  imported once; every mutant runs in a fork

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # NaN on its way through NumPy
    # Also once: what the cases import, but no kernel.
    for name in ("contract", "close", "fastuda.reference.contrastive_bound", "fastuda.reference.class_moments"):
        importlib.import_module(name)
    chosen = [stem for stem in arguments if not stem.startswith("--")]
    wanted = {stem: table for stem, table in tables().items() if stem in (chosen or tables())}
    if "--quick" not in arguments:
        return max(planted.run_all(t, catch, result(stem), "--new" in arguments) for stem, t in wanted.items())
    missed = [m.name for table in wanted.values() for m in table if m.quick and not catch(m)]
    print("\n".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], triton_room.interpreter_environment())
    sys.exit(main(sys.argv[1:]))
