"""class_thresholds.cu under the emulation: exactly the definition's numbers."""

import class_thresholds_cases as cases
import pytest

NAME = "class_thresholds"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.THRESHOLDS)
def test_the_numbers_of_the_definition(library, name):
    cases.THRESHOLDS[name](library)
