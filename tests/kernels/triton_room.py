"""Which Triton kernels are under test, and how the tables of several files make one.

A kernel joins by data. Files here named ``<table>*.py`` hold one table together, so a new operator brings its own:

    launchers*.py      LAUNCHERS: which launcher serves which raw operator (interpreted tests)
    launch_cases*.py   CASES: launches to compile ahead of time
    kernel_cases*.py   CHECKS: kernel -> {name: function that raises AssertionError}, which notices planted faults
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def load_file(path: Path, name: str) -> ModuleType:
    """The module in a file under a name of its own: tests/cuda has files of the same names."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables(stem: str) -> list[ModuleType]:
    """The modules of the files ``<stem>*.py``."""
    return [load_file(path, f"triton_room_{path.stem}") for path in sorted(HERE.glob(f"{stem}*.py"))]


def use_kernels(folder: Path | None = None) -> None:
    """Makes ``fastuda.kernels`` importable: from ``folder``, as installed, or from the tree."""
    if folder is None:
        try:
            importlib.import_module("fastuda.kernels")
            return
        except ModuleNotFoundError:
            folder = ROOT / "kernels"
    for name in [n for n in sys.modules if n.split(".")[:2] == ["fastuda", "kernels"]]:
        del sys.modules[name]
    name = "fastuda.kernels"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def kernel_module(name: str) -> ModuleType:
    return importlib.import_module(f"fastuda.kernels.{name}")


def interpret(folder: Path | None = None) -> None:
    """``use_kernels`` for this process, which must have been started with ``interpreter_environment``."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET=1 must be set before triton is imported")
    card = load_file(HERE / "card_arithmetic.py", "card_arithmetic")
    card.install()
    use_kernels(folder)
    card.watch(kernel_module("_common"))


def interpreter_environment() -> dict[str, str]:
    """For a child: Triton chooses the interpreter when it is imported. The CPU keys are left to the launchers."""
    return os.environ | {"TRITON_INTERPRET": "1", "FASTUDA_BACKEND": "reference", "OMP_NUM_THREADS": "1"}
