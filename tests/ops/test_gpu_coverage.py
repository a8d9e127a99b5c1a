"""Every form of the dispatch table has, on each GPU backend, a test of its results and a benchmark.

The tests marked ``gpu`` run here without a GPU, as tests/gpu.py describes; what they reach is compared with the table.
A benchmark's calls are also those of the profile and of compute-sanitizer.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gpu
import needed
import pytest

from fastuda.ops._dispatch import CUDA, TABLE

needed.module("triton")

ROOT = Path(__file__).resolve().parents[2]
WANTED = {(form, backend) for form in TABLE for backend in gpu.BACKENDS}
BENCHMARKED = "tests/ops/test_gpu_streams.py"
# Why a test may be skipped: more classes than a kernel takes, no sort in Triton, an error that only the CPU raises.
MAY_SKIP = (
    r"'triton' .* does not serve (contrastive_bound_forward|mode_losses_forward|softmax_kl_forward|lovasz_softmax)\b",
    *(rf"'cuda' .* does not serve {form}\b" for form in CUDA),  # those that take some arguments only
    r"a CPU raises an error instead",
    r"needs a CUDA device",
)


def rehearse(*arguments: str) -> subprocess.CompletedProcess:
    """The tests marked gpu in a process of their own, on the CPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-s", "-rs", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"FASTUDA_GPU_TESTS": "rehearsal", "FASTUDA_BACKEND": "auto"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def reached(output: str) -> set[tuple[str, str, str]]:
    """(form, backend, test file) of every call in a rehearsal."""
    return set(re.findall(r"rehearsed (\w+) by (\w+) in ([\w/.]+)", output))


def untested(calls: set[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Forms and backends of the table whose results no test compares."""
    return WANTED - {(form, backend) for form, backend, file in calls if file != BENCHMARKED}


def unbenchmarked(calls: set[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Forms and backends of the table that no benchmark calls at the scale of the profile and compute-sanitizer."""
    return WANTED - {(form, backend) for form, backend, file in calls if file == BENCHMARKED}


@pytest.fixture(scope="module")
def rehearsal() -> subprocess.CompletedProcess:
    return rehearse("tests/ops")


@pytest.mark.slow
def test_they_pass_on_a_cpu(rehearsal):
    assert rehearsal.returncode == 0, rehearsal.stdout[-20000:] + rehearsal.stderr[-2000:]
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", rehearsal.stdout, re.MULTILINE)
    unforeseen = [reason for reason in reasons if not any(re.search(may, reason) for may in MAY_SKIP)]
    assert reasons and not unforeseen, unforeseen


@pytest.mark.slow
def test_every_form_is_tested_and_benchmarked_on_every_backend(rehearsal):
    calls = reached(rehearsal.stdout)
    assert not untested(calls), f"no gpu test of {sorted(untested(calls))}"
    assert not unbenchmarked(calls), f"no benchmark of {sorted(unbenchmarked(calls))}"


@pytest.mark.slow
def test_what_is_missing_is_found(rehearsal):
    """Without one operator's tests or benchmark, its forms are named, and no others."""
    calls = reached(rehearsal.stdout)
    left = {call for call in calls if "test_softmax_kl" not in call[2]}
    assert untested(left) == {(f"softmax_kl_{d}", b) for d in ("forward", "backward") for b in gpu.BACKENDS}
    left = {call for call in calls if call != ("sinkhorn", "triton", BENCHMARKED)}
    assert unbenchmarked(left) == {("sinkhorn", "triton")} and not untested(left)


WRONG_TESTS = """
import sys

sys.path.insert(0, {tests!r})
import gpu, pytest, torch
from fastuda.ops import confusion_matrix

y = torch.tensor([[[0, 1]]])

@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("what", ["right", "value", "argument", "nothing"])
def test_it(what, backend):
    if what != "nothing":
        arguments = (y, y, 2) if what != "argument" else (y, 2)
        assert gpu.run(backend, confusion_matrix, *arguments).sum() == (3 if what == "value" else 2)
"""


@pytest.mark.slow
def test_a_rehearsal_can_fail(tmp_path):
    """A wrong value and a wrong argument fail; a test that reaches no operator covers none."""
    file = tmp_path / "test_wrong.py"
    file.write_text(WRONG_TESTS.format(tests=str(ROOT / "tests")))
    done = rehearse(str(file), "-rpf")
    for what, outcome in {"right": "PASSED", "value": "FAILED", "argument": "FAILED", "nothing": "PASSED"}.items():
        for backend in gpu.BACKENDS:
            assert re.search(rf"^{outcome} \S*test_it\[{what}-{backend}\]", done.stdout, re.MULTILINE), done.stdout
            calls = re.findall(rf"rehearsed (\w+) by {backend} in \S*test_it\[{what}-{backend}\]", done.stdout)
            assert set(calls) == ({"confusion_matrix"} if what in ("right", "value") else set())
