"""mode_losses.cu under the emulation: losses, what backward reads and both gradients of every case against float64."""

import mode_losses_cases
import pytest
import torch


@pytest.mark.parametrize("name", mode_losses_cases.MODES)
def test_against_float64(mode_losses_library, name):
    mode_losses_cases.MODES[name](mode_losses_library)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_memory_fits_a_pascal(mode_losses_library, dtype):
    mode_losses_cases.check(mode_losses_library, shape=(1, 256, 1, 9), classes=19, dtype=dtype)
    assert mode_losses_library.largest_shared() <= 48 * 1024
