"""A tiny training with the operators follows the training with the reference functions, step by step."""

import pytest
import torch
from close import assert_as_accurate
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.ops.class_moments import class_moments
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.low_rank import low_rank
from fastuda.reference import contrastive_bound as bound_reference
from fastuda.reference.class_moments import class_moments as moments_reference
from fastuda.reference.low_rank import low_rank as low_rank_reference

CLASSES, CHANNELS, STEPS, TEMPERATURE = 5, 12, 20, 0.3
# Of the largest loss, beyond the float32 error of the reference's own curve: 20 steps of gradient descent carry each
# step's rounding (6e-8) along.
TOLERANCE = 1e-6


def operators(features: Tensor, labels: Tensor, kind: str | None) -> Tensor:
    moments = class_moments(features, labels, CLASSES, covariance="full" if kind == "low_rank" else kind)
    covariance = population(moments)
    covariance = low_rank(covariance, 2) if kind == "low_rank" else covariance
    return contrastive_bound(features, labels, moments.mean, covariance, temperature=TEMPERATURE, normalize=True)


def references(features: Tensor, labels: Tensor, kind: str | None) -> Tensor:
    with torch.no_grad():
        moments = moments_reference(features, labels, CLASSES, "full" if kind == "low_rank" else kind)
        covariance = population(moments)
        covariance = low_rank_reference(covariance, 2) if kind == "low_rank" else covariance
    q, y = features.movedim(1, 3).flatten(0, 2), labels.flatten()
    loss = bound_reference.contrastive_bound(q, y, moments.mean, covariance, temperature=TEMPERATURE, normalize=True)
    return loss.sum() / (y < CLASSES).sum()


def population(moments) -> Tensor | None:
    if moments.m2 is None:
        return None
    return moments.m2 / moments.count.clamp(min=1).view(-1, *[1] * (moments.m2.dim() - 1))


def curve(bound, kind: str | None, dtype: torch.dtype, weight: float = 1.0) -> Tensor:
    """The losses of 20 steps: cross entropy plus the bound, gradient descent with momentum."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (2, 12, 16), generator=generator)
    centres = torch.randn(CLASSES, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 12, 16, 3, generator=generator, dtype=torch.float64)
    images = (centres[labels] + noise).movedim(3, 1).to(dtype)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    encoder, head = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CLASSES, 1)
    parameters = [*encoder.parameters(), *head.parameters()]
    for parameter in parameters:
        values = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = values.to(dtype)
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        features = encoder(images)
        loss = F.cross_entropy(head(features), labels, ignore_index=255) + weight * bound(features, labels, kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("kind", [None, "diag", "full", "low_rank"])
def test_loss_curve_equals_that_of_the_reference(kind):
    truth, plain = (curve(references, kind, dtype) for dtype in (torch.float64, torch.float32))
    ours = curve(operators, kind, torch.float32)
    assert_as_accurate(ours, plain, truth, TOLERANCE, "loss curve")
    assert ours[-1] < 0.8 * ours[0], "nothing was learnt: the curve says little"


def test_the_curve_would_show_a_wrong_gradient():
    """A bound whose gradient is off by a thousandth leaves the curve by much more than the tolerance."""
    truth = curve(references, "diag", torch.float64)

    def off(features, labels, kind):
        loss = references(features, labels, kind)
        return loss + 0.001 * (loss - loss.detach())

    error = (curve(off, "diag", torch.float64) - truth).abs().max() / truth.max()
    assert error > 10 * TOLERANCE
