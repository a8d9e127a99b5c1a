"""aggregate_patches.cu under the emulation: the votes of the definition."""

import aggregate_patches_cases as cases
import emulated
import pytest

NAME = "aggregate_patches"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.AGGREGATE)
def test_the_votes_of_the_definition(library, name):
    cases.AGGREGATE[name](library)
