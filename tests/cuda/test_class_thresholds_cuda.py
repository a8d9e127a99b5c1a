"""class_thresholds.cu under the emulation: exactly the definition's numbers."""

import class_thresholds_cases as cases
import emulated
import pytest

NAME = "class_thresholds"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.THRESHOLDS)
def test_the_numbers_of_the_definition(library, name):
    cases.THRESHOLDS[name](library)
