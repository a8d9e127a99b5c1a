"""The planted faults are caught: a few of them here, all of them by ``python tests/kernels/mutants.py``."""

from __future__ import annotations

import subprocess
import sys

import planted
import pytest
import triton_room

mutants = triton_room.load_file(triton_room.HERE / "mutants.py", "triton_mutants")
TABLES = mutants.tables()
MUTANTS = [mutant for table in TABLES.values() for mutant in table]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_one_place_in_the_source(mutant):
    planted.check_place(mutant, triton_room.ROOT / "kernels")


@pytest.mark.parametrize("stem", TABLES)
def test_the_committed_result_is_of_this_table(stem):
    planted.check_result(TABLES[stem], mutants.result(stem), mutants.least(TABLES[stem]))


def test_every_kernel_has_mutants():
    """Each @triton.jit function that a launcher starts; what these call is hurt through them."""
    pytest.importorskip("triton", reason="triton is not installed")
    import aot

    started = {launch.kernel.fn.__name__ for case in aot.cases() for launch in aot.launches(case, 90)}
    assert started == set(mutants.least(MUTANTS))


def test_quick_mutants_are_caught():
    pytest.importorskip("triton", reason="triton is not installed")
    assert any(mutant.quick for mutant in MUTANTS)
    command = [sys.executable, str(triton_room.HERE / "mutants.py"), "--quick"]
    done = subprocess.run(command, cwd=triton_room.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
