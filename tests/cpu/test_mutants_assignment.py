"""The planted faults of sinkhorn, the samplers and the triplets: ``python tests/cpu/mutants_assignment.py``."""

from __future__ import annotations

import planted
import pytest
from cpu import mutants_assignment as mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_one_place_in_the_source(mutant):
    planted.check_place(mutant, mutants.ROOT / "csrc")


def test_the_committed_result_is_of_this_table():
    planted.check_result(mutants.MUTANTS, mutants.RESULT, {operator: 15 for operator in mutants.OPERATORS})
