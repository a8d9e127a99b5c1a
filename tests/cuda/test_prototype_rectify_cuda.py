"""prototype_rectify.cu under the emulation: the labels of the definition."""

import emulated
import prototype_rectify_cases as cases
import pytest

NAME = "prototype_rectify"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.RECTIFY)
def test_the_labels_of_the_definition(library, name):
    cases.RECTIFY[name](library)
