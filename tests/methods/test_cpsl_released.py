"""What CPSL's released code does otherwise than the paper, against float64 transcriptions of its formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from methods.cpsl_world import ScorePasses, method, prepared
from methods.small_world import K, batch
from torch.nn import functional as F

from fastuda.methods import build_method
from fastuda.methods.cpsl import project
from fastuda.models.config import ModelConfig
from fastuda.models.norm import use_domain
from fastuda.train.config import task_config


def released_step(network, source, target):
    """A step of the released preset over the small world's images, and its losses."""
    recipe = task_config("gta5_cityscapes", "cpsl", "released")
    small = replace(recipe, model=network, cpsl=replace(recipe.cpsl, samples=12, bank=64))
    torch.manual_seed(0)
    cpsl, passes = build_method(small, K).eval(), ScorePasses()
    cpsl.prepare(cpsl.stages()[1], passes)
    target = replace(target, scores=torch.stack([passes.scores[0], passes.scores[1]]))
    share = cpsl.share.clone()
    cpsl.train()
    (optimiser,) = cpsl.stages()[1].optimisers().values()
    before = [p.detach().clone() for p in (*cpsl.network.parameters(), cpsl.head.weight)]
    losses = {}
    for part in cpsl.self_label(source, target):
        losses |= part["network"]
        sum(part["network"].values()).backward()
    optimiser.step()
    cpsl.ema_update()
    moved = [
        not torch.equal(old, new)
        for old, new in zip(before, (*cpsl.network.parameters(), cpsl.head.weight), strict=True)
    ]
    assert torch.equal(cpsl.share, share)
    return cpsl, losses, moved


@pytest.mark.parametrize("norm", ["trained", "frozen", "per_domain"])
def test_a_step_of_the_released_preset_is_finite_and_trains_backbone_decoder_and_head(norm):
    network = ModelConfig("deeplab_resnet18", width=0.125, norm=norm, graph="cpsl", decoder="aspp_se")
    cpsl, losses, moved = released_step(network, batch(0), batch(1, labelled=False))
    assert cpsl.bank.channels == 32
    assert set(losses) == {"ce", "self_label", "pseudo_ce", "consistency"}
    assert all(math.isfinite(value.item()) and value.item() > 0 for value in losses.values())
    assert all(torch.isfinite(value).all() for value in cpsl.state_dict().values() if isinstance(value, torch.Tensor))
    assert moved[-1] and sum(moved) > 0.5 * len(moved)


@pytest.mark.parametrize(("forward", "reverse"), [(1.0, 0.0), (0.1, 1.0)])
def test_the_targets_loss_is_the_symmetric_cross_entropy(forward, reverse):
    torch.manual_seed(3)
    logits, labels = 4 * torch.randn(2, K, 5, 7), torch.randint(0, K + 1, (2, 17, 23)).to(torch.uint8)
    labels[labels == K] = 255
    own, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = method(cross_entropy=forward, reverse_cross_entropy=reverse).target_loss(own, labels)
    p = F.interpolate(exact, labels.shape[1:], mode="bilinear", align_corners=True).softmax(1).movedim(1, -1)
    p, y = p[labels < K], F.one_hot(labels[labels < K].long(), K).double()
    ce = -(y * p.log()).sum(1)
    rce = -(p.clamp(1e-7, 1) * y.clamp(1e-4, 1).log()).sum(1)
    expected = (forward * ce + reverse * rce).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(own.grad.double(), exact.grad, rtol=1e-3, atol=1e-6)


def test_the_released_consistency_is_one_way_between_assignments():
    cpsl, target = prepared(regularise="assignments", temperature=0.1)
    with torch.no_grad():
        for p in cpsl.network.parameters():
            p += 0.02 * torch.randn_like(p)
        cpsl.head.weight += 0.1 * torch.randn_like(cpsl.head.weight)
    with torch.no_grad(), use_domain(cpsl.teacher, "target"):
        weak = cpsl.teacher(target.images)
    cosines = project(F.normalize(weak.features, dim=1), cpsl.teacher_head.weight)
    loss = cpsl.consistency(target.images, weak, cosines)

    def assignment(features, head):
        z, w = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (features, head.weight))
        return torch.einsum("nahw,ka->nkhw", z, w).div(0.1).softmax(1)

    with torch.no_grad():
        q = assignment(weak.features, cpsl.teacher_head)
        p = assignment(cpsl.run(target.images, "target").features, cpsl.head)
    expected = (q * (q.log() - p.log())).sum(1).mean().item()
    assert expected > 1e-3 and loss.item() == pytest.approx(expected, rel=1e-3)
    loss.backward()
    assert cpsl.head.weight.grad is None and cpsl.network.stride2[0].weight.grad.abs().max() > 0
    assert cpsl.network.classifier.weight.grad is None


def test_released_samples_are_uniform():
    labels = torch.full((1, 20, 30), 255, dtype=torch.uint8)
    labels[:, :10], labels[:, 10:14] = 0, 1  # 300 and 120 pixels: of 14, Eq. 9 wants ten and four
    flat = labels.flatten()

    def rare(cpsl):
        drawn = [cpsl.sample(labels)[0] for _ in range(60)]
        assert all(len(set(pixels.tolist())) == 14 and (flat[pixels] < 2).all() for pixels in drawn)
        return torch.tensor([(flat[pixels] == 1).sum() for pixels in drawn]).double()

    torch.manual_seed(5)
    assert (rare(method(samples=14)) == 4).all()
    counts = rare(method(samples=14, balanced=False))
    # Hypergeometric: 14 of 420 without replacement.
    assert counts.mean().item() == pytest.approx(4, abs=4 * (2.77 / 60) ** 0.5)
    assert counts.var().item() == pytest.approx(2.77, rel=0.6)
