"""Which tests are quick: what README's command runs. The others get the mark ``slow`` here or in their file.

Quick tests still run every operator on every backend that needs no GPU, every method, the data readers, a resumed run
and one of two processes: test_tiers.py walks the collected tests and says what is missing. CI runs all tests.

In the rooms of the operators a test function is repeated over many shapes, dtypes and layouts. There a few of its
cases, evenly spread over its list, are quick.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# Folder -> how many cases of a test function are quick.
QUICK_CASES = {"ops": 4, "cuda": 6, "kernels/interpreted": 1}
# These trace an operator again for each case, which takes seconds: one is quick.
TRACED = ("test_compile_fullgraph", "test_opcheck")
# Triton's interpreter takes a second for each case: of a file there, the tests that count which launchers ran (they
# have the fixture ``served``) and the first functions.
QUICK_FUNCTIONS = {"kernels/interpreted": 3}
# Files that take minutes come first, so that two workers end together.
LONG = (
    *("kernels/test_interpreted.py", "cuda/test_sanitizer.py", "cuda/test_compile.py", "kernels/test_aot.py"),
    *("mutants/test_mutants.py", "train/test_distributed.py", "ops/test_gpu_coverage.py", "benchmarks/test_gpu_sh.py"),
    *("benchmarks/test_session.py", "train/test_memory_forecast.py", "ops/test_contrastive_bound.py"),
)


def folder_of(item: pytest.Item) -> str:
    """Relative to tests/; of a file elsewhere an empty text."""
    return str(item.path.parent.relative_to(TESTS)) if item.path.is_relative_to(TESTS) else ""


def function_of(item: pytest.Item) -> tuple[Path, str]:
    return item.path, item.nodeid.split("[")[0]


def spread(count: int, wanted: int) -> set[int]:
    """``wanted`` of the numbers below ``count``, evenly, the first and the last among them."""
    if wanted >= count or wanted == 1:
        return set(range(min(count, wanted)))
    return {round(i * (count - 1) / (wanted - 1)) for i in range(wanted)}


def mark(items: Sequence[pytest.Item]) -> None:
    """Marks the cases that are not quick as slow. Tests for a GPU are chosen by their own mark."""
    functions: dict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if folder_of(item) in QUICK_CASES and "gpu" not in item.keywords:
            functions[function_of(item)].append(item)
    order: dict[Path, list[str]] = defaultdict(list)
    for (path, name), cases in functions.items():
        folder = folder_of(cases[0])
        quick = spread(len(cases), 1 if name.endswith(TRACED) else QUICK_CASES[folder])
        if folder in QUICK_FUNCTIONS and "served" not in cases[0].fixturenames:
            order[path].append(name)
            quick = quick if len(order[path]) <= QUICK_FUNCTIONS[folder] else set()
        for number, item in enumerate(cases):
            if number not in quick:
                item.add_marker(pytest.mark.slow)


def sort(items: list[pytest.Item]) -> None:
    """Puts the files of LONG first, in its order, and leaves the others in theirs."""
    places = {TESTS / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))
