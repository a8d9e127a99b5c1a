"""The planted faults are caught: a few of them here, all of them by ``python tests/cuda/mutants.py``."""

from __future__ import annotations

import json

import emulated
import mutants
import pytest
from mutant_table import MUTANTS

QUICK = [m for m in MUTANTS if m.quick]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_one_place_in_the_source(mutant):
    assert (mutants.ROOT / "csrc" / mutant.file).read_text().count(mutant.search) == 1
    assert mutant.search != mutant.replace


def test_the_committed_result_is_of_this_table():
    result = json.loads(mutants.RESULT.read_text())
    assert set(result["mutants"]) == {m.name for m in MUTANTS}, "run python tests/cuda/mutants.py --new"
    for operator in ("class_moments", "contrastive_bound"):
        rows = [row["caught by"] for row in result["mutants"].values() if row["operator"] == operator]
        assert len(rows) >= 20
        assert sum(map(bool, rows)) >= 0.95 * len(rows), f"{operator}: run python tests/cuda/mutants.py"


@pytest.mark.skipif(not emulated.have_compiler(), reason="g++ is not installed")
@pytest.mark.parametrize("mutant", QUICK, ids=lambda m: m.name)
def test_quick_mutants_are_caught(mutant):
    assert mutants.catch(mutant), f"{mutant.name} is not noticed by any case"
