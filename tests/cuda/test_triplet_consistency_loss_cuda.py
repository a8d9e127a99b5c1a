"""triplet_consistency_loss.cu under the emulation: every case against float64."""

import pytest
import torch
import triplet_consistency_cases as cases

NAME = "triplet_consistency_loss"


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library(NAME)


@pytest.mark.parametrize("name", cases.TRIPLETS)
def test_against_float64(library, name):
    cases.TRIPLETS[name](library)


def test_shared_memory_fits_a_pascal(library):
    cases.check(library, rows=40)
    # The sort lays out a tile of rows by digit: three of its blocks share a Pascal's multiprocessor (96 KiB).
    assert 0 < library.largest_shared() <= 32 * 1024


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [0, 1, 256, 2048])
@pytest.mark.parametrize("rows, sources", [(0, 0), (1, 1), (5000, 100_000), (2**20, 2**25), (2**30 - 1, 1000)])
def test_memory_is_as_stated(library, rows, sources, channels, dtype):
    draws, parts = 2 * rows, 8 * 256  # each part begins at a multiple of 256 bytes
    sort = 16 * draws + 1024 * (-(-draws // 2048) + 1) + 4 * (sources + 1)
    sums = 2 * -(-draws // 64) * channels * (8 if dtype == torch.float64 else 4)
    assert cases.scratch(library, rows, sources, channels, dtype) <= sort + sums + parts
