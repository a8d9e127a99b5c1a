"""confidence_histogram.cu under the emulation: the counts of the definition."""

import confidence_histogram_cases as cases
import pytest

NAME = "confidence_histogram"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.HISTOGRAM)
def test_the_counts_of_the_definition(library, name):
    cases.HISTOGRAM[name](library)
