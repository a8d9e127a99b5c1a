"""contrastive_bound_full.cu under the emulation: loss, softmax and gradient of every case against float64."""

import cases
import pytest


@pytest.mark.parametrize("name", cases.FULL_BOUND)
def test_against_float64(full_bound_library, name):
    cases.FULL_BOUND[name](full_bound_library)


@pytest.mark.parametrize("seed", range(2, 5))
def test_every_schedule_gives_the_same_result(full_bound_library, seed):
    cases.check_bound(full_bound_library, covariance="full", classes=5, seed=seed)
