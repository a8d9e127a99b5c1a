"""lovasz_softmax.cu under the emulation: every case against the definition."""

import emulated
import lovasz_softmax_cases as cases
import pytest
import torch

from fastuda.ops import _dispatch

NAME = "lovasz_softmax"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(NAME, tmp_path_factory.mktemp("emulated") / f"{NAME}.so"))


@pytest.mark.parametrize("name", cases.LOVASZ)
def test_against_the_definition(library, name):
    cases.LOVASZ[name](library)


def test_memory_is_as_stated(library):
    shape, size = (8, 19, 90, 160), (720, 1280)
    slope = 4 * torch.Size(shape).numel()
    assert cases.scratch(library, shape, size, 1024) <= 3 * slope + 12 * 19 * 1024
    assert cases.scratch(library, shape, size, 1024, with_slope=False) <= slope / 10 + 12 * 19 * 1024


def test_the_exact_form_is_left_to_the_definition():
    scores, labels = torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3)
    for bins in (0, 1, 65536):
        accepted = _dispatch._accepts("lovasz_softmax", "cuda", (scores, labels, bins, False, True, 255, True))
        assert accepted == (bins > 0), f"{bins} bins"
