"""The tests of interpreted/, in a process in which Triton was imported to interpret; the others need its compiler."""

from __future__ import annotations

import subprocess
import sys

import needed
import pytest

needed.module("triton")

import triton_room  # noqa: E402

FILES = sorted(path.name for path in (triton_room.HERE / "interpreted").glob("test_*.py"))


def pytest_in_a_child(*arguments: str, chosen: str = "not gpu") -> subprocess.CompletedProcess:
    """chosen: by marks, as pytest's -m takes it."""
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "-m", chosen]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=triton_room.ROOT,
        env=triton_room.interpreter_environment(),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_agree_with_their_references(chosen):
    files = [f"tests/kernels/interpreted/{name}" for name in FILES]
    done = pytest_in_a_child(*files, chosen=f"not gpu and {chosen}")
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_failing_test_fails(tmp_path):
    """A child that finds nothing, or fails, does not pass for one that agrees."""
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_it():\n    assert False\n")
    assert pytest_in_a_child(str(wrong)).returncode == 1
    wrong.write_text("")
    assert pytest_in_a_child(str(wrong)).returncode not in (0, 1)
