"""The contrastive bound with full covariances in Triton: the contract, and the accuracy of its products."""

from __future__ import annotations

import pytest
import torch
import triton_room
from close import assert_as_accurate
from contract import DTYPES, make
from small_contract import FewLabels, at_small_sizes

bound_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_contrastive_bound.py", "ops_contrastive_bound")
reference = bound_tests.reference
FORWARD, BACKWARD = (f"fastuda.kernels.contrastive_bound_full.{name}" for name in ("forward", "backward"))
Small = at_small_sizes(bound_tests.TestContract, ((3, 130), (70, 16)), 5, 3, poisoned=((1, 21, 5, 20), 7))


class TestContract(FewLabels, Small):
    settings = tuple(name for name, form in bound_tests.FORMS.items() if form[0] == "full")
    poisoned_settings = 2


def run(call, features, labels, mean, covariance, *options):
    """Loss, posterior and gradient for an incoming gradient of 65536, as from a scaled loss."""
    forward, backward = call
    loss, posterior = forward(features, labels, mean, covariance, *options)
    grad = torch.full_like(loss, 65536.0)
    return loss, posterior, backward(grad, features, labels, mean, covariance, posterior, *options)


def compare(features, labels, mean, covariance, *options, eps=1e-6):
    operators = torch.ops.fastuda.contrastive_bound_forward, torch.ops.fastuda.contrastive_bound_backward
    definition = reference.forward, reference.backward
    ours = run(operators, features, labels, mean, covariance, *options)
    plain = run(definition, features, labels, mean.float(), covariance.float(), *options)
    truth = run(definition, *(t.double() for t in (features, labels, mean, covariance)), *options)
    for name, actual, expected, exact in zip(("loss", "posterior", "gradient"), ours, plain, truth, strict=True):
        assert_as_accurate(actual, expected, exact, eps, name)
    return ours


def test_the_launchers_served(served):
    features, labels = make((1, 3, 4, 5), 3)
    call = torch.ops.fastuda.contrastive_bound_forward, torch.ops.fastuda.contrastive_bound_backward
    for kind in (None, "diag", "full"):
        run(call, features, labels, *bound_tests.statistics(3, 3, kind), 10.0, False, 255)
    run(call, features.double(), labels, *bound_tests.statistics(3, 3, "full"), 10.0, False, 255)
    run(call, features, labels, *bound_tests.statistics(300, 3, "full"), 10.0, False, 255)
    assert {name: served[name] for name in (FORWARD, BACKWARD)} == {FORWARD: 1, BACKWARD: 1}


@pytest.mark.parametrize("card, dtype", [(75, DTYPES[0]), *((80, dtype) for dtype in DTYPES)])
@pytest.mark.parametrize("normalize", [False, True])
def test_many_channels(dtype, normalize, card, monkeypatch):
    """As accurate as float32 over 300 channels, though tensor cores cut their sums."""
    monkeypatch.setattr(triton_room.kernel_module("_common"), "capability", lambda device: card)
    features, labels = make((1, 300, 1, 20), 3, dtype)
    compare(features, labels, *bound_tests.statistics(3, 300, "full"), 1.0 if normalize else 100.0, normalize, 255)


def test_the_incoming_gradient_comes_before_the_rounding():
    """Gradients of 1e-7, below the smallest number of float16, survive in a loss scaled by 65536."""
    features, labels = make((1, 16, 5, 20), 4, torch.float16)
    for normalize, temperature in ((True, 5e3), (False, 3e4)):
        slope = compare(features, labels, *bound_tests.statistics(4, 16, "full"), temperature, normalize, 255)[2]
        assert slope.any() and slope.abs().max() < 65536 * 1e-4


def test_the_memory_of_chunks(monkeypatch):
    """The bits do not depend on how many pixels wait at once."""
    features, labels = make((1, 20, 9, 40), 3)
    statistics = *bound_tests.statistics(3, 20, "full"), 2.0, True, 255
    whole = compare(features, labels, *statistics)[2]
    monkeypatch.setattr(triton_room.kernel_module("contrastive_bound_full"), "CHUNK", 1)
    assert torch.equal(compare(features, labels, *statistics)[2], whole)


def test_zero_vectors_and_strided_statistics():
    features, labels = make((1, 20, 5, 9), 5)
    mean, covariance = bound_tests.statistics(5, 20, "full", dtype=torch.float64)
    features[0, :, 2, 3], labels[0, 2, 3] = 0, 1
    mean[2], covariance[3] = 0, 0
    wide = [torch.stack([s, s * 0], -1)[..., 0] for s in (mean, covariance)]
    for normalize in (False, True):
        slope = compare(features, labels, *wide, 8.0, normalize, 255)[2]
    assert not slope[0, :, 2, 3].any(), "a vector of length 0 has a gradient"
