"""pixel_mean.cu under the emulation: every case against exact sums."""

import pixel_mean_cases as cases
import pytest

NAME = "pixel_mean"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.MEANS)
def test_against_exact_sums(library, name):
    cases.MEANS[name](library)
