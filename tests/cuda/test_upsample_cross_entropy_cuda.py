"""upsample_cross_entropy.cu under the emulation: every case against float64."""

import pytest
import torch
import upsample_cross_entropy_cases as cases

NAME = "upsample_cross_entropy"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.CROSS_ENTROPY)
def test_against_float64(library, name):
    cases.CROSS_ENTROPY[name](library)


def test_memory_is_as_stated(library):
    """Partial sums of two to three times the gradient at 8-fold upsampling, and shared memory of a Pascal."""
    shape, size = (8, 19, 90, 160), (720, 1280)
    slope = 4 * torch.Size(shape).numel()
    assert 2 * slope <= cases.scratch(library, shape, size) <= 3 * slope
    assert cases.scratch(library, shape, size, with_slope=False) <= slope / 10
    cases.check(library)
    assert library.largest_shared() <= 48 * 1024
