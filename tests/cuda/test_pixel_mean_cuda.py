"""pixel_mean.cu under the emulation: every case against exact sums."""

import emulated
import pixel_mean_cases as cases
import pytest

NAME = "pixel_mean"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.MEANS)
def test_against_exact_sums(library, name):
    cases.MEANS[name](library)
