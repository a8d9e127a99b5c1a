"""class_moments.cu under the emulation: every case against float64, under several schedules."""

import cases
import pytest


@pytest.mark.parametrize("name", cases.MOMENTS)
def test_against_float64(moments_library, name):
    cases.MOMENTS[name](moments_library)
