"""The launchers of kernels/, run by Triton's interpreter, as the CPU kernels of their operators.

So the public operators, their autograd and the whole contract of tests/contract.py run on them. What no launcher serves
(float64, say) goes to the reference; ``served`` counts what was.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest
import triton_room

sys.path.insert(0, str(Path(__file__).parent))
triton_room.interpret()
ops = importlib.import_module("fastuda.ops")
library = importlib.import_module("fastuda.ops._library")

SERVED: Counter[str] = Counter()


def _register() -> None:
    table: dict[str, list] = {}
    for module in triton_room.tables("launchers"):
        for operator, *row in module.LAUNCHERS:
            table.setdefault(operator, []).append(row)
    for operator, rows in table.items():
        library.register(operator, "CPU", _serving(operator, rows))


def _serving(operator: str, rows: list):
    fallback = library._defined[operator]

    def call(*args):
        for module, launcher, predicate in rows:
            module = triton_room.kernel_module(module)
            if getattr(module, predicate)(*args):
                SERVED[f"{module.__name__}.{launcher}"] += 1
                return getattr(module, launcher)(*args)
        return fallback(*args)

    return call


_register()


@pytest.fixture
def served() -> Counter[str]:
    """Launchers called since the test began, by "fastuda.kernels.<module>.<launcher>"."""
    SERVED.clear()
    return SERVED
