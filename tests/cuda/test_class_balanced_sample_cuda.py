"""class_balanced_sample.cu under the emulation: exactly the definition's pixels."""

import class_balanced_sample_cases as cases
import pytest

NAME = "class_balanced_sample"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.DRAWS)
def test_the_pixels_of_the_definition(library, name):
    cases.DRAWS[name](library)


def test_shared_memory_fits_a_pascal(library):
    for classes in (19, 40, 41):
        cases.check(library, classes=classes)
    assert library.largest_shared() <= 48 * 1024


@pytest.mark.parametrize("by_share", [True, False])
@pytest.mark.parametrize("images, pixels", [(0, 9), (3, 0), (1, 1), (8, 512 * 1024), (6000, 90), (1, 2**31 - 1)])
@pytest.mark.parametrize("classes", [1, 19, 150])
def test_memory_is_as_stated(library, images, pixels, classes, by_share):
    lists, parts = images * (1 if by_share else classes), 10 * 256  # each part begins at a multiple of 256 bytes
    bound = images * classes * (1024 + 16) + images * (16 + 8) + 4 * lists * -(-pixels // 1024) + parts
    assert cases.scratch(library, images, pixels, classes, by_share) <= bound
