"""Nothing that is given to an operator or a reader ends the process: a result, or a refusal in words.

A few examples each; FASTUDA_FUZZ=500 for as many of each case as that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.operators import CASES

from fastuda import ops

EXAMPLES = os.environ.get("FASTUDA_FUZZ", "12")
TESTS = Path(__file__).parents[1]
NO_TENSORS = {"backend_report", "backends", "build_facts", "global_batch", "use_backend"}


def explore(room: str, directory: Path, *cases: str) -> dict[str, dict[str, int]]:
    search = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.child", room, EXAMPLES, str(directory), *cases],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    example = directory / "example"
    last = example.read_text() if example.exists() else "no example"
    assert done.returncode == 0, f"status {done.returncode} in {last}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("room", ["operators", "readers"])
def test_no_example_ends_the_process(room, tmp_path):
    counts = explore(room, tmp_path)
    assert all(case["results"] + case["refused"] >= int(EXAMPLES) for case in counts.values())
    for outcome in ("results", "refused"):
        assert sum(case[outcome] > 0 for case in counts.values()) > 0.8 * len(counts), counts


def test_every_public_operator_is_a_case():
    public = {name for name in ops.__all__ if callable(getattr(ops, name)) and name[0].islower()}
    assert public - NO_TENSORS == set(CASES)


def test_a_dead_process_is_seen_with_its_example(tmp_path, monkeypatch):
    folder = tmp_path / "fuzz"
    folder.mkdir()
    for path in (TESTS / "fuzz").glob("*.py"):
        (folder / path.name).write_text(path.read_text().replace("read(path)\n", "os.abort()\n").replace(
            "import io\n", "import io\nimport os\n"))  # fmt: skip
    monkeypatch.setattr(sys.modules[__name__], "TESTS", tmp_path)
    with pytest.raises(AssertionError, match=r"status -6 in scores: damage="):
        explore("readers", tmp_path, "scores")
