"""prototype_rectify.cu under the emulation: the labels of the definition."""

import prototype_rectify_cases as cases
import pytest

NAME = "prototype_rectify"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.RECTIFY)
def test_the_labels_of_the_definition(library, name):
    cases.RECTIFY[name](library)
