"""sinkhorn.cu under the emulation: every case against float64."""

import pytest
import sinkhorn_cases


@pytest.mark.parametrize("name", sinkhorn_cases.SINKHORN)
def test_against_float64(sinkhorn_library, name):
    sinkhorn_cases.SINKHORN[name](sinkhorn_library)


def test_shared_memory_of_256_classes_fits_a_pascal(sinkhorn_library):
    sinkhorn_cases.check(sinkhorn_library, shape=(1, 20, 256))
    assert sinkhorn_library.largest_shared() <= 48 * 1024
