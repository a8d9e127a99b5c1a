"""pseudo_labels.cu under the emulation: the definition's labels and confidences."""

import pseudo_labels_cases as cases
import pytest

NAME = "pseudo_labels"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.PSEUDO_LABELS)
def test_the_labels_of_the_definition(library, name):
    cases.PSEUDO_LABELS[name](library)


def test_shared_memory_fits_a_pascal(library):
    cases.check(library, shape=(1, 255, 2, 3), size=(5, 7))
    assert library.largest_shared() <= 2 * 255 * 4
