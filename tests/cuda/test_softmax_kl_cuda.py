"""softmax_kl.cu under the emulation: every case against float64."""

import pytest
import softmax_kl_cases as cases

NAME = "softmax_kl"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.KL)
def test_against_float64(library, name):
    cases.KL[name](library)
