"""softmax_kl.cu under the emulation: every case against float64."""

import emulated
import pytest
import softmax_kl_cases as cases

NAME = "softmax_kl"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.KL)
def test_against_float64(library, name):
    cases.KL[name](library)
