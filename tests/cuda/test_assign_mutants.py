"""The planted faults of the assignment operators are caught: a few of them here, all by ``assign_mutants.py``."""

from __future__ import annotations

import assign_mutants
import emulated
import planted
import pytest
from assign_mutant_table import ASSIGN_MUTANTS

QUICK = [m for m in ASSIGN_MUTANTS if m.quick]


@pytest.mark.parametrize("mutant", ASSIGN_MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_one_place_in_the_source(mutant):
    planted.check_place(mutant, assign_mutants.ROOT / "csrc")


def test_the_committed_result_is_of_this_table():
    planted.check_result(ASSIGN_MUTANTS, assign_mutants.RESULT, {"sinkhorn": 20, "mode_losses": 20})


@pytest.mark.skipif(not emulated.have_compiler(), reason="g++ is not installed")
@pytest.mark.parametrize("mutant", QUICK, ids=lambda m: m.name)
def test_quick_mutants_are_caught(mutant):
    assert assign_mutants.catch(mutant), f"{mutant.name} is not noticed by any case"
