"""select_triplets.cu under the emulation: exactly the definition's partners."""

import pytest
import select_triplets_cases as cases


@pytest.fixture(scope="module")
def library(emulated_library):
    return emulated_library("select_triplets")


@pytest.mark.parametrize("name", cases.SELECT)
def test_the_partners_of_the_definition(library, name):
    cases.SELECT[name](library)


def test_shared_memory_fits_a_pascal(library):
    cases.check(library)
    # The sort lays out a tile of rows by digit: three of its blocks share a Pascal's multiprocessor (96 KiB).
    assert 0 < library.largest_shared() <= 32 * 1024


@pytest.mark.parametrize("classes, modes", [(19, 4), (150, 20), (1000, 100)])
@pytest.mark.parametrize("sources", [0, 100, 100_000, 2**31 - 1])
def test_memory_is_as_stated(library, sources, classes, modes):
    tiles, rows = -(-sources // 2048), 12 if classes * modes < 256 else 16
    parts = 7 * 256  # each begins at a multiple of 256 bytes
    used = cases.scratch(library, sources, classes, modes)
    assert used <= rows * sources + 1024 * (tiles + 1) + 4 * (classes * modes + 1) + parts
