"""aggregate_patches.cu under the emulation: the votes of the definition."""

import aggregate_patches_cases as cases
import pytest

NAME = "aggregate_patches"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.AGGREGATE)
def test_the_votes_of_the_definition(library, name):
    cases.AGGREGATE[name](library)
