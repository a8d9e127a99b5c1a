"""The quick tests, which README's command runs, reach every operator on every backend, every method, and the rest.

The tests are collected as README's command does it, in a child, and looked through.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiers

from fastuda.methods import METHODS

ROOT = tiers.TESTS.parent
# Prints of each test that would run: its file, its name, the fixtures that it takes.
PLUGIN = """
import json

def pytest_collection_finish(session):
    for item in session.items:
        if not any(mark.name == "skip" for mark in item.iter_markers()):
            print("ITEM", json.dumps([str(item.path), item.name, sorted(item.fixturenames)]))
"""
ROOMS = ("ops", "cuda", "methods", "train", "data")


def collect(folder: Path, arguments: list[str], **environment: str) -> list[tuple[str, str, set[str]]]:
    """(file relative to tests/, test, its fixtures) of the tests that pytest would run without skipping them."""
    (folder / "printing.py").write_text(PLUGIN)
    search = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "printing", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": search} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = map(json.loads, re.findall(r"^ITEM (.*)$", done.stdout, re.MULTILINE))
    return [(str(Path(path).relative_to(tiers.TESTS)), name, set(fixtures)) for path, name, fixtures in rows]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> list[tuple[str, str, set[str]]]:
    """The quick tests of the rooms that make the claim, those of Triton's interpreter among them."""
    rooms = [f"tests/{room}" for room in ROOMS]
    folder = tmp_path_factory.mktemp("collected")
    interpreted = ["tests/kernels/interpreted", "-m", "not gpu and not slow"]
    more = {"TRITON_INTERPRET": "1", "FASTUDA_BACKEND": "reference"}
    return collect(folder, rooms) + collect(folder, interpreted, **more)


def missing(sources: str, tests: str, quick: list, fixture: str = "") -> set[str]:
    """Stems of the files ``sources`` without a quick test in one of the files ``tests``, {} being the stem.

    fixture: the end of the name of one that the test must take, by which it is known to reach the kernel.
    """
    stems = {path.stem for path in ROOT.glob(sources) if not path.stem.startswith("_")}
    assert len(stems) > 10, sources
    found = {
        stem
        for stem in stems
        for path, _, fixtures in quick
        if re.fullmatch(tests.format(stem), path) and (not fixture or any(name.endswith(fixture) for name in fixtures))
    }
    return stems - found


def test_every_operator_has_a_quick_test_on_every_backend(quick):
    assert missing("csrc/cpu/*.cpp", r"ops/test_{}(_cpu)?\.py", quick) == set()
    assert missing("csrc/cuda/*.cu", r"cuda/test_{}(_cuda)?\.py", quick, fixture="library") == set()
    assert missing("kernels/*.py", r"kernels/interpreted/test_{}\.py", quick, fixture="served") == set()


def test_every_method_is_trained(quick):
    trained = {name for path, name, _ in quick if path == "train/test_every_method.py"}
    assert trained == {f"test_every_method_is_trained[{method}]" for method in METHODS}


@pytest.mark.parametrize(
    "path, name",
    [
        ("data/test_layouts.py", "test_"),
        ("data/test_files.py", "test_"),
        ("data/test_stream.py", "test_"),
        ("train/test_resume.py", "test_kill_and_resume_is_bit_identical"),
        ("train/test_distributed.py", "test_losses_are_those_of_one_process[sdca-2]"),
    ],
)
def test_readers_resume_and_two_processes_are_quick(quick, path, name):
    assert any(file == path and test.startswith(name) for file, test, _ in quick)


def test_a_lack_is_seen():
    reached = ("cuda/test_sinkhorn_cuda.py", "test_a", {"sinkhorn_library"})
    items = [reached, ("cuda/test_softmax_kl_cuda.py", "test_b", set())]
    lacking = missing("csrc/cuda/*.cu", r"cuda/test_{}(_cuda)?\.py", items, fixture="library")
    assert "sinkhorn" not in lacking and {"softmax_kl", "class_moments"} <= lacking


def test_spread_takes_both_ends():
    assert tiers.spread(10, 4) == {0, 3, 6, 9} and tiers.spread(3, 4) == {0, 1, 2} and tiers.spread(9, 1) == {0}
