"""class_moments in Triton: the contract at sizes that the interpreter can do, and the arithmetic of both products."""

from __future__ import annotations

import pytest
import torch
import triton_room
from contract import DTYPES, make
from small_contract import at_small_sizes

from fastuda.ops.class_moments import class_moments

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_class_moments.py", "ops_class_moments")
Small = at_small_sizes(ops_tests.TestContract, ((19, 256), (150, 64)))


class TestContract(Small):
    settings = ("diag", "none")
    compiled = ("class_moments",)
    same_bits_for_threads = False

    def test_ignored_features_are_not_read_into_any_result(self):
        features, labels = make((1, 20, 9, 9), 3)
        ignored = ((labels < 0) | (labels >= 3)).unsqueeze(1)
        for dtype in DTYPES:
            clean = self.each(features.to(dtype), labels, 3)
            for value in (torch.nan, torch.inf):
                dirty = features.masked_fill(ignored, value).to(dtype)
                self.same(self.each(dirty, labels, 3), clean, f"it holds an ignored {value}")
                self.compare(clean, dirty, labels, 3, "diag")


def test_the_launcher_served(served):
    class_moments(*make((1, 3, 4, 5), 3), 3)
    class_moments(make((1, 3, 4, 5), 3)[0].double(), make((1, 3, 4, 5), 3)[1], 3)
    assert dict(served) == {"fastuda.kernels.class_moments.class_moments": 1}


@pytest.mark.parametrize("card", [75, 80])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_far_from_zero(dtype, card, monkeypatch):
    """Where x^2 - 2 c x + c^2 cancels, and where the exponents of x and of the pivot are far apart."""
    monkeypatch.setattr(triton_room.kernel_module("_common"), "capability", lambda device: card)
    contract = TestContract()
    features, labels = make((1, 8, 17, 30), 3)
    for offset in (10.0, -1000.0):
        contract.check((features + offset).to(dtype), labels, 3)
    g = torch.Generator().manual_seed(0)
    wide = features.sign() * torch.exp2(torch.randint(-12, 6, features.shape, generator=g).float())
    contract.check(wide.to(dtype), labels, 3)
    contract.check((wide + 1).to(dtype), labels, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_and_nan_stay_in_their_class(dtype):
    features, labels = make((1, 5, 5, 16), 4, dtype)
    labels = labels.clamp(0, 3)
    for value in (torch.nan, torch.inf, -torch.inf):
        bad = features.clone()
        at = (labels[0] == 2).nonzero()[3]
        bad[0, 1, at[0], at[1]] = value
        out, clean = class_moments(bad, labels, 4), class_moments(features, labels, 4)
        assert not out.mean[2, 1].isfinite() and not out.m2[2, 1].isfinite()
        for actual, expected in ((out.mean, clean.mean), (out.m2, clean.m2)):
            others = torch.ones_like(actual, dtype=torch.bool)
            others[2, 1] = False
            torch.testing.assert_close(actual[others], expected[others], rtol=1e-5, atol=1e-5)


def test_many_chunks():
    """More chunks than are merged at once, the last of them short, and classes that some chunks lack."""
    features, labels = make((1, 3, 170, 101), 2)
    labels[0, :60] = 0
    TestContract().check(features, labels, 2)
