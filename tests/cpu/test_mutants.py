"""The planted faults are caught: a few of them here, all of them by ``python tests/cpu/mutants.py``."""

from __future__ import annotations

import planted
import pytest
from cpu import build, mutants
from cpu.mutants import MUTANTS

QUICK = [m for m in MUTANTS if m.quick]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_one_place_in_the_source(mutant):
    planted.check_place(mutant, mutants.ROOT / "csrc")


def test_the_committed_result_is_of_this_table():
    planted.check_result(MUTANTS, mutants.RESULT, mutants.LEAST)


@pytest.mark.skipif(not build.have_compiler(), reason="g++ is not installed")
@pytest.mark.parametrize("mutant", QUICK, ids=lambda m: m.name)
def test_quick_mutants_are_caught(mutant):
    assert mutants.catch(mutant), f"{mutant.name} is not noticed by any check"
