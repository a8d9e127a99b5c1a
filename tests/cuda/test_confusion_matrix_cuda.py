"""confusion_matrix.cu under the emulation: the counts of the definition."""

import confusion_matrix_cases as cases
import emulated
import pytest

NAME = "confusion_matrix"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.CONFUSION)
def test_the_counts_of_the_definition(library, name):
    cases.CONFUSION[name](library)
