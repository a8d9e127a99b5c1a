"""contrastive_bound.cu under the emulation: loss, softmax and gradient of every case against float64."""

import cases
import pytest


@pytest.mark.parametrize("name", cases.BOUND)
def test_against_float64(bound_library, name):
    cases.BOUND[name](bound_library)


@pytest.mark.parametrize("seed", range(2, 6))
def test_every_schedule_gives_the_same_result(bound_library, seed):
    cases.check_bound(bound_library, seed=seed)
