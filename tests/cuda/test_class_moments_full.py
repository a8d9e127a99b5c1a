"""class_moments_full.cu under the emulation: every case against float64, under several schedules."""

import cases
import emulated
import pytest
import torch


@pytest.mark.parametrize("name", cases.FULL_MOMENTS)
def test_against_float64(full_moments_library, name):
    cases.FULL_MOMENTS[name](full_moments_library)


@pytest.mark.parametrize("card", [emulated.PASCAL, emulated.HOPPER])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 64, 256, 2048])
@pytest.mark.parametrize(
    ("pixels", "classes"), [(0, 19), (33, 2), (115_200, 19), (8 * 1024 * 2048, 150), (2**31 - 1, 3)]
)
def test_memory_is_as_stated(full_moments_library, pixels, classes, channels, dtype, card):
    plan = emulated.full_moments_plan(full_moments_library, pixels, channels, classes, dtype, card)
    panels, rows, width, group, scratch = plan
    size, bound = dtype.itemsize, 512 + classes
    assert panels <= bound and panels * rows >= pixels
    squares = max(64 << 20, panels * width * width * size)
    parts = 9 * 256  # each part of the scratch begins at a multiple of 256 bytes
    counts = 4 * (pixels + 4 * classes + 2)
    assert scratch <= 8 * pixels + counts + size * (panels + 2 * classes) * channels + squares + parts
    assert group >= 1
