"""confidence_histogram.cu under the emulation: the counts of the definition."""

import confidence_histogram_cases as cases
import emulated
import pytest

NAME = "confidence_histogram"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.HISTOGRAM)
def test_the_counts_of_the_definition(library, name):
    cases.HISTOGRAM[name](library)
