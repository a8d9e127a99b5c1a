"""``pytest benchmarks/ --benchmark-only`` as a user runs it, on one small case, and its gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import _results
import pytest

pytest.importorskip("pytest_benchmark")

ROOT = Path(__file__).resolve().parents[2]
ONE = [
    "benchmarks/ops/test_class_moments.py",
    "-k",
    "diag and (cpu or reference)",
    "--scale",
    "smoke",
    "--device",
    "cpu",
]


def session(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", *ONE, "--benchmark-only", "-p", "no:cacheprovider", *arguments]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "FASTUDA_BENCHMARK"))}
    clean |= {"PYTHONPATH": str(ROOT), "FASTUDA_COMMIT": "abc", **environment}
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=300)


# Loaded by pytest with -p; sets what the second probe is said to have found.
GATE = """
import os
from dataclasses import replace

def pytest_sessionstart(session):
    import roofline
    idle = roofline.Probe("Some CPU", 1, 20.0, 10.0, 100.0, 200.0, 0.0)
    after = replace(idle, copy_gb_s=float(os.environ["COPY_AFTER"]))
    answers = iter([idle, after])
    roofline.probe = lambda device, size: next(answers)
    roofline.DRIFT = 0.15
    import _measure
    _measure.Harness._pulse = lambda self: 1.0
"""


@pytest.fixture
def gate(tmp_path):
    """Runs a session whose probes are planted; returns (process, results file)."""

    def run(copy_after: float, *arguments: str):
        (tmp_path / "planted_gate.py").write_text(GATE)
        path = tmp_path / "rows.json"
        more = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "COPY_AFTER": str(copy_after)}
        return session("-p", "planted_gate", "--results", str(path), *arguments, **more), path

    return run


def test_a_steady_machine_reports(gate):
    process, path = gate(10.5)
    assert process.returncode == 0, process.stdout + process.stderr
    rows = json.loads(path.read_text())
    for row in rows:
        _results.check(row)
    assert "reference" in {row["provider"] for row in rows} and {row["commit"] for row in rows} == {"abc"}
    assert not any(row["gated"] for row in rows)  # smoke sizes are never published
    assert "fastuda operators" in process.stdout and f"wrote {len(rows)} rows" in process.stdout


def test_a_moving_machine_is_refused(gate):
    process, path = gate(8.0)
    assert process.returncode == 1 and not path.exists()
    assert "copy_gb_s moved from 10.0 to 8.0" in process.stdout and "refused to write" in process.stdout


def test_the_override_reports_but_marks_the_rows(gate):
    process, path = gate(8.0, "--ungated")
    assert process.returncode == 0 and "copy_gb_s moved" in process.stdout
    assert not any(row["gated"] for row in json.loads(path.read_text()))


def test_the_process_starts_again_under_the_protocol(tmp_path):
    """Users type one command; the allocator's settings must be there before the process begins."""
    plugin = "import os\ndef pytest_sessionstart(session):\n    print({k: v for k, v in os.environ.items()})\n"
    (tmp_path / "show_environment.py").write_text(plugin)
    process = session("-p", "show_environment", "--collect-only", "-s", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    shown = process.stdout
    assert process.returncode == 0, process.stdout + process.stderr
    for name, value in {"MALLOC_MMAP_MAX_": "0", "MALLOC_TOP_PAD_": "268435456", "OMP_NUM_THREADS": "1"}.items():
        assert f"'{name}': '{value}'" in shown
