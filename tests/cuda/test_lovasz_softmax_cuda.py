"""lovasz_softmax.cu under the emulation: every case against the definition."""

import lovasz_softmax_cases as cases
import pytest
import torch

from fastuda.ops import _dispatch

NAME = "lovasz_softmax"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.LOVASZ)
def test_against_the_definition(library, name):
    cases.LOVASZ[name](library)


def test_memory_is_as_stated(library):
    shape, size = (8, 19, 90, 160), (720, 1280)
    slope = 4 * torch.Size(shape).numel()
    assert cases.scratch(library, shape, size, 1024) <= 3 * slope + 12 * 19 * 1024
    assert cases.scratch(library, shape, size, 1024, with_slope=False) <= slope / 10 + 12 * 19 * 1024


def test_the_exact_form_takes_the_memory_that_it_states(library):
    shape, size = (2, 19, 64, 64), (512, 512)
    pixels, slope = shape[0] * size[0] * size[1], 4 * torch.Size(shape).numel()
    assert cases.scratch(library, shape, size, 0) <= pixels * (12 + 16.6 * 19) + 3 * slope
    one_class = (8, 19, 90, 160), (1024, 2048)  # 2^24 errors
    pixels, slope = 8 * 1024 * 2048, 4 * torch.Size(one_class[0]).numel()
    assert cases.scratch(library, *one_class, 0) <= pixels * (12 + 16.6 + 19 / 256) + 3 * slope
    assert cases.scratch(library, *one_class, 0, dtype=torch.float64) <= pixels * (24 + 24.6 + 19 / 256) + 6 * slope


def test_every_form_is_served():
    scores, labels = torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3)
    for bins in (0, 1, 65536):
        assert _dispatch._accepts("lovasz_softmax", "cuda", (scores, labels, bins, False, True, 255, True))
