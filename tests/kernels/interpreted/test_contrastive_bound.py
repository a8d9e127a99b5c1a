"""The contrastive bound in Triton: the contract at sizes that the interpreter can do, and its accuracy."""

from __future__ import annotations

import pytest
import torch
import triton_room
from close import assert_as_accurate
from contract import DTYPES, make, rows
from small_contract import at_small_sizes

bound_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_contrastive_bound.py", "ops_contrastive_bound")
reference = bound_tests.reference
FORWARD, BACKWARD = (f"fastuda.kernels.contrastive_bound.{name}" for name in ("forward", "backward"))
Small = at_small_sizes(bound_tests.TestContract, ((19, 256), (64, 64)))


class TestContract(Small):
    settings = tuple(name for name, form in bound_tests.FORMS.items() if form[0] in (None, "diag"))
    poisoned_settings = 2


def raw(features, labels, mean, covariance, *options):
    """Loss, posterior and gradient of the raw operators for an incoming gradient of 65536, as from a scaled loss."""
    grad = torch.full(labels.shape, 65536.0)
    loss, posterior = torch.ops.fastuda.contrastive_bound_forward(features, labels, mean, covariance, *options)
    return (
        loss,
        posterior,
        torch.ops.fastuda.contrastive_bound_backward(grad, features, labels, mean, covariance, posterior, *options),
    )


def compare(features, labels, mean, covariance, *options, eps=1e-6):
    def definition(kind):
        given = mean.to(kind), None if covariance is None else covariance.to(kind)
        q = features.to(kind) if kind == torch.float64 else features
        loss, posterior = reference.forward(q, labels, *given, *options)
        grad = torch.full(labels.shape, 65536.0, dtype=kind)
        return loss, posterior, reference.backward(grad, q, labels, *given, posterior, *options)

    ours, plain, truth = (
        raw(features, labels, mean, covariance, *options),
        *map(definition, (torch.float32, torch.float64)),
    )
    for name, actual, expected, exact in zip(("loss", "posterior", "gradient"), ours, plain, truth, strict=True):
        assert_as_accurate(actual, expected, exact, eps, name)
    return ours


def test_the_launchers_served(served):
    features, labels = make((1, 3, 4, 5), 3)
    for kind in (None, "diag", "full"):
        raw(features, labels, *bound_tests.statistics(3, 3, kind), 10.0, False, 255)
    raw(features.double(), labels, *bound_tests.statistics(3, 3, "diag"), 10.0, False, 255)
    raw(features, labels, *bound_tests.statistics(65, 3, "diag"), 10.0, False, 255)
    assert {name: served[name] for name in (FORWARD, BACKWARD)} == {FORWARD: 2, BACKWARD: 2}


@pytest.mark.parametrize("card, dtype", [(75, DTYPES[0]), *((80, dtype) for dtype in DTYPES)])
@pytest.mark.parametrize("normalize", [False, True])
def test_many_channels(dtype, normalize, card, monkeypatch):
    """As accurate as float32 over 1024 channels, though tensor cores cut their sums."""
    monkeypatch.setattr(triton_room.kernel_module("_common"), "capability", lambda device: card)
    features, labels = make((1, 1024, 1, 20), 19, dtype)
    mean, covariance = bound_tests.statistics(19, 1024, "diag")
    temperature = 1.0 if normalize else 100.0
    compare(features, labels, mean, covariance, temperature, normalize, 255)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_temperature(dtype):
    """Logits of thousands, a softmax of one class, and gradients of a scaled loss that overflow no partial result."""
    features, labels = make((1, 33, 5, 20), 7, dtype)
    mean, covariance = bound_tests.statistics(7, 33, "diag")
    loss, posterior, slope = raw(features, labels, mean, covariance, 0.01, True, 255)
    assert loss.isfinite().all() and posterior.isfinite().all() and (posterior.sum(-1) - 1).abs().max() < 1e-5
    # A logit of 5000 is right to 2^-24 of itself at best, and its softmax to 5000 times as much.
    compare(features, labels, mean, covariance, 0.1, True, 255, eps=2e-5)


def test_the_incoming_gradient_comes_before_the_rounding():
    """Gradients of 1e-7, below the smallest number of float16, survive in a loss scaled by 65536."""
    features, labels = make((1, 16, 5, 20), 4, torch.float16)
    mean, covariance = bound_tests.statistics(4, 16, "diag")
    ours = compare(features, labels, mean, covariance, 5e3, True, 255)
    assert ours[2].any() and ours[2].abs().max() < 65536 * 6e-8 * 1000


def test_zero_vectors_and_strided_statistics():
    features, labels = make((1, 20, 5, 9), 5)
    mean, covariance = bound_tests.statistics(5, 20, "diag", dtype=torch.float64)
    features[0, :, 2, 3], labels[0, 2, 3] = 0, 1
    mean[2], covariance[3] = 0, 0
    wide = [torch.stack([s, s * 0], -1)[..., 0] for s in (mean, covariance)]
    assert not wide[0].is_contiguous()
    for normalize in (False, True):
        slope = compare(features, labels, *wide, 2.0, normalize, 255)[2]
    assert not rows(slope).view(5, 9, 20)[2, 3].any(), "a vector of length 0 has a gradient"


def test_a_gradient_with_gaps_and_an_expanded_one():
    features, labels = make((2, 9, 5, 7), 3)
    statistics = *bound_tests.statistics(3, 9, "diag"), 3.0, True, 255
    _, posterior, slope = raw(features, labels, *statistics[:2], *statistics[2:])
    for grad in (torch.tensor(65536.0).expand(labels.shape), torch.full((2, 5, 14), 65536.0)[:, :, ::2]):
        again = torch.ops.fastuda.contrastive_bound_backward(
            grad, features, labels, *statistics[:2], posterior, *statistics[2:]
        )
        assert torch.equal(again, slope)
