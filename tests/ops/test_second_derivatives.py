"""Losses are differentiable once: a gradient of their gradient is refused, and first gradients never notice."""

from __future__ import annotations

import pytest
import torch

from fastuda import ops

FEATURES, LABELS = torch.randn(50, 8), torch.randint(0, 5, (50,))
MEAN, LOGITS = torch.randn(5, 8), torch.randn(2, 5, 4, 4)
TARGET = torch.randint(0, 5, (2, 8, 8))
NUMBERS = torch.arange(20)
LOSSES = {
    "contrastive_bound": (lambda x: ops.contrastive_bound(x, LABELS, MEAN), FEATURES),
    "mode_losses": (lambda x: ops.mode_losses(x, LABELS, MEAN.view(5, 1, 8)).cross_entropy, FEATURES),
    "upsample_cross_entropy": (lambda x: ops.upsample_cross_entropy(x, TARGET), LOGITS),
    "upsample_cross_entropy none": (lambda x: ops.upsample_cross_entropy(x, TARGET, reduction="none").sum(), LOGITS),
    "lovasz_softmax": (lambda x: ops.lovasz_softmax(x, TARGET), LOGITS),
    "a divergence": (lambda x: ops.symmetric_kl(x, LOGITS.flip(1)), LOGITS),
    "a divergence of": (lambda x: ops.distillation_kl(x, LOGITS.flip(1)), LOGITS),
    "triplet_consistency_loss": (
        lambda x: ops.triplet_consistency_loss(
            x[:20], FEATURES, NUMBERS, NUMBERS + 20, torch.ones(20, dtype=torch.bool)
        ),
        FEATURES,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_of_a_gradient_is_refused(name):
    loss, inputs = LOSSES[name]
    x = inputs.clone().requires_grad_()
    (plain,) = torch.autograd.grad(loss(x), x)
    assert not plain.requires_grad
    (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
    assert torch.equal(slope, plain) and slope.requires_grad, "a penalty on it would change nothing, without a word"
    with pytest.raises(RuntimeError, match=rf"^{name.split()[0]} .*is differentiable once"):
        slope.pow(2).sum().backward()


@pytest.mark.parametrize("name", LOSSES)
def test_behind_a_differentiable_head_too(name):
    """There the missing part of the second derivative would go unnoticed: the head's own part is right."""
    loss, inputs = LOSSES[name]
    scale, x = torch.tensor(1.5, requires_grad=True), inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x * scale), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        slope.pow(2).sum().backward()
