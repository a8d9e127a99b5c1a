"""Shared by all tests: what is slow, the order of files, whether fastuda._C must be there, the GPU's mark."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# importlib mode leaves sys.path alone; the helper module close.py is imported by name.
sys.path.insert(0, str(Path(__file__).parent))

# The tests are small, and those of the benchmarks fork: a child has no pool of threads to wait for.
torch.set_num_threads(1)
# What a test starts computes with one thread as well: pytest-xdist runs a test on every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tiers  # noqa: E402


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    tiers.mark(items)
    tiers.sort(items)
    skip_gpu_tests(items)
    yield  # -k and -m choose
    keep_one_shard(config, items)


def skip_gpu_tests(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    gpu = sys.modules.get("gpu")  # imported by the test files that use it; here it would load fastuda for all tests
    for item in items:
        rehearsed = gpu is not None and gpu.MODE == "rehearsal" and "backend" in item.fixturenames
        if "gpu" in item.keywords and not rehearsed:
            item.add_marker(skip)


def keep_one_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    """FASTUDA_TEST_SHARD=i/n keeps every n-th of the tests, from the i-th on: n processes share a file."""
    number, of = map(int, os.environ.get("FASTUDA_TEST_SHARD", "0/1").split("/"))
    if of > 1:
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % of != number])
        items[:] = items[number::of]


@pytest.fixture(scope="session")
def compiled() -> None:
    """The test needs fastuda._C. Skips only where leaving it out was said to be intended."""
    from fastuda import _ext

    if _ext.extension is None and os.environ.get("FASTUDA_ALLOW_UNBUILT") == "1":
        pytest.skip("fastuda._C was not built and FASTUDA_ALLOW_UNBUILT=1")
