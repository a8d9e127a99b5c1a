"""The harness lies outside the package: its modules import each other by name, and so do its tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "train"), str(Path(__file__).parent)]

import roofline  # noqa: E402


@pytest.fixture(autouse=True)
def no_worker(monkeypatch) -> None:
    """pytest-xdist marks its workers in the environment; a session of benchmarks started from one would not time."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)


@pytest.fixture
def row() -> dict:
    """A row that passes every check."""
    times = {"ms": 2.0, "ms_20": 1.9, "ms_80": 2.2}
    work = {"bytes": 1000, "flops": 10.0, "ceiling_share": 0.5, "floor_ms": 1.0}
    quality = {"extra_mib": 3.5, "error_fp64": 1e-7, "deterministic": True}
    where = {"device": "Some CPU", "device_type": "cpu", "threads": 1, "versions": {"torch": "2.13"}}
    how = {"commit": "abc", "scale": "full", "launches": None, "rounds": 7, "sets": 4, "gated": True, "run": "now"}
    what = {"operator": "class_moments", "case": "diag A=256", "direction": "forward", "provider": "cpu"}
    judged = {"wall_ms": 2.1, "bound": "read", "ceilings": {"read_gb_s": 20.0}, "gate": "passed"}
    return {**what, **times, **work, **quality, **where, **how, **judged}


def probe(**figures: float) -> roofline.Probe:
    """Ceilings of an idle machine, the named ones changed."""
    usual = {"read_gb_s": 20.0, "copy_gb_s": 10.0, "write_gb_s": 8.0, "foreign_cores": 0.0, "taken": 1000.0}
    rates = {"fma_gflop_s": 150.0, "fp32_gflop_s": 100.0, "bf16_gflop_s": 200.0}
    return roofline.Probe(device="Some CPU", threads=1, **usual | rates | figures)


@pytest.fixture
def idle():
    """idle(**figures): ceilings of an idle machine, the named ones changed."""
    return probe
