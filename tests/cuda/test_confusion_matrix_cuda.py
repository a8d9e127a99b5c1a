"""confusion_matrix.cu under the emulation: the counts of the definition."""

import confusion_matrix_cases as cases
import pytest

NAME = "confusion_matrix"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.CONFUSION)
def test_the_counts_of_the_definition(library, name):
    cases.CONFUSION[name](library)
