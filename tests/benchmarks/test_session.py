"""``pytest benchmarks/ --benchmark-only`` as a user runs it, on one small case, and its gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import _gate
import _journal
import _results
import needed
import pytest

needed.module("pytest_benchmark")

pytestmark = pytest.mark.slow  # a session is ten seconds
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
import time
from dataclasses import replace

def pytest_sessionstart(session):
    import roofline
    figures = ("read_gb_s", "copy_gb_s", "write_gb_s", "fma_gflop_s", "fp32_gflop_s", "bf16_gflop_s")
    idle = roofline.Probe("Some CPU", 1, foreign_cores=0.0, **dict.fromkeys(figures, 100.0))
    after = replace(idle, copy_gb_s=float(os.environ["COPY_AFTER"]))
    answers = iter([idle, after])
    roofline.probe = lambda device, size: replace(next(answers), taken=time.time())
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
        options = ["-p", "planted_gate", "--journal", str(tmp_path / "rows.jsonl")]
        more = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "COPY_AFTER": str(copy_after)}
        return session(*options, "--results", str(path), *arguments, **more), path

    return run


def test_a_steady_machine_reports(gate):
    process, path = gate(105)
    assert process.returncode == 0, process.stdout + process.stderr
    rows = json.loads(path.read_text())
    for row in rows:
        _results.check(row)
    assert "reference" in {row["provider"] for row in rows} and {row["commit"] for row in rows} == {"abc"}
    assert not any(row["gated"] for row in rows)  # smoke sizes are never published
    assert "fastuda operators" in process.stdout and f"wrote {len(rows)} rows" in process.stdout


def test_a_moving_machine_is_refused(gate, tmp_path):
    process, path = gate(80.0)
    assert process.returncode == 1 and not path.exists()
    assert "copy_gb_s moved from 100.0 to 80.0" in process.stdout and "wrote no rows to" in process.stdout
    kept = tmp_path / "rows.jsonl"
    rows = _gate.judge(_journal.read(kept))
    assert rows and all(row["gate"].startswith("refused: copy_gb_s moved") for row in rows)
    assert str(kept) in process.stdout  # where every row still is


def test_the_override_reports_but_marks_the_rows(gate):
    process, path = gate(80.0, "--ungated")
    assert process.returncode == 0 and "copy_gb_s moved" in process.stdout
    assert not any(row["gated"] for row in json.loads(path.read_text()))


def test_a_tree_with_changes_is_refused(tmp_path):
    options = ["--results", str(tmp_path / "rows.json"), "--journal", str(tmp_path / "rows.jsonl")]
    process = session(*options, FASTUDA_COMMIT="abc-dirty")
    assert process.returncode == 1 and not (tmp_path / "rows.json").exists()
    assert "the tree held changes that are not committed (abc-dirty)" in process.stdout


# Loaded by pytest with -p: one row is broken, another hangs, a third ends the process.
FAULTS = """
import os
import time

def pytest_sessionstart(session):
    import _measure

    checked = _measure.Harness._checked

    def fault(self, operator, name, direction, provider, *more):
        if (provider, direction) == (os.environ["PROVIDER"], "forward"):
            if os.environ["FAULT"] == "raise":
                raise RuntimeError("a planted fault")
            if os.environ["FAULT"] == "hang":
                time.sleep(200)
            os.abort()
        return checked(self, operator, name, direction, provider, *more)

    _measure.Harness._checked = fault
"""


@pytest.mark.parametrize("fault", ["raise", "hang", "abort"])
def test_a_fault_in_one_row_loses_no_other(tmp_path, fault):
    """The session itself goes on, or the same command, given the same journal, goes on after the row that did it."""
    (tmp_path / "planted_faults.py").write_text(FAULTS)
    path, results = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    options = ["-p", "planted_faults", "--journal", str(path), "--row-limit", "8", "--results", str(results)]
    more = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "FAULT": fault, "PROVIDER": "reference"}
    process = session(*options, "--ungated", "--providers", "usual", "reference", "-k", "diag", **more)
    assert fault != "hang" or "in fault" in process.stderr  # the traceback says where it hung
    for _ in range(0 if fault == "raise" else 2):  # such a row is tried twice
        assert not _journal.finished(_journal.read(path))
        process = session(*options, "--ungated", "--providers", "usual", "reference", "-k", "diag", **more)
    assert process.returncode == 1, process.stdout + process.stderr
    assert _journal.finished(_journal.read(path))
    (failed,) = _journal.failures(_journal.read(path))
    assert failed.startswith("class_moments diag A=19 N=713 forward reference: ")
    assert {row["provider"] for row in json.loads(results.read_text())} == {"usual"}


def test_the_process_starts_again_under_the_protocol(tmp_path):
    """Users type one command; the allocator's settings must be there before the process begins."""
    plugin = "import os\ndef pytest_sessionstart(session):\n    print({k: v for k, v in os.environ.items()})\n"
    (tmp_path / "show_environment.py").write_text(plugin)
    process = session("-p", "show_environment", "--collect-only", "-s", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    shown = process.stdout
    assert process.returncode == 0, process.stdout + process.stderr
    for name, value in {"MALLOC_MMAP_MAX_": "0", "MALLOC_TOP_PAD_": "268435456", "OMP_NUM_THREADS": "1"}.items():
        assert f"'{name}': '{value}'" in shown
