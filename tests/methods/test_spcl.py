"""SPCL's stages and losses against a float64 transcription of the paper's formulas, on a small network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from methods.small_world import K, MemoryPasses, batch
from torch.nn import functional as F

from fastuda.methods import METHODS, build_method
from fastuda.methods.config import AdversarialConfig, Recipe, SPCLConfig
from fastuda.models.config import ModelConfig
from fastuda.train.config import task_config

SMALL = replace(AdversarialConfig(), width=8, depth=2)


def method(**spcl):
    torch.manual_seed(0)
    config = replace(SPCLConfig(adversarial=SMALL), **spcl)
    return build_method(Recipe(method="spcl", model=ModelConfig(width=0.25), spcl=config), K).train()


def grid(labels: torch.Tensor) -> torch.Tensor:
    """Nearest labels at the network's stride of 2."""
    return labels[:, ::2, ::2]


def contrast_fp64(features, labels, prototypes, tau):
    """Eq. 4 pixel by pixel: -log of the positive's share of exp(q.mu/tau), unit vectors, the mean over valid pixels."""
    mu = [row / max(row.norm().item(), 1e-12) for row in prototypes.double()]
    losses = []
    for q, label in zip(features.double().movedim(1, -1).reshape(-1, features.shape[1]), labels.flatten(), strict=True):
        if label < K:
            similarity = [math.exp(float(q / q.norm() @ row) / tau) for row in mu]
            losses.append(-math.log(similarity[int(label)] / sum(similarity)))
    return sum(losses) / len(losses) if losses else 0.0


def class_means(features, labels):
    """{class: mean feature} in float64 of one map or batch."""
    pixels = features.double().movedim(1, -1).reshape(-1, features.shape[1])
    return {int(k): pixels[labels.flatten() == k].mean(0) for k in labels.unique() if k < K}


def test_stage_list_and_rows():
    names = [(s.name, s.prepared_row, s.row) for s in method().stages()]
    assert names == [
        ("warm_up", "", "source"),
        ("adversarial", "target_statistics", "adversarial"),
        ("contrast", "", "aligned"),
        ("self_training_1", "", "adapted"),
    ]
    assert method().stages()[1].target.labels == method().stages()[2].target.labels == "none"


def test_the_paper_trains_without_lovasz_and_the_command_line_finds_the_method():
    assert METHODS["spcl"].presets["paper"]["warm_up"]["lovasz"] == 0.0
    config = task_config("streets", "spcl")
    assert config.warm_up.lovasz == 0.0 and config.spcl.self_training.threshold_cap == 0.9
    assert task_config("streets", "spcl", "released").spcl.right_only


def test_adversarial_losses_and_whom_they_move():
    spcl = method()
    optimisers = spcl.adversaries(SMALL.schedule)
    assert set(optimisers) == {"network", "discriminator"}
    parts = spcl.align(batch(0), batch(1, labelled=False))
    assert set(next(parts)["network"]) == {"ce", "lovasz"}

    source, target = (
        spcl.run(batch(seed).images, domain).logits.detach().softmax(1)
        for seed, domain in ((0, "source"), (1, "target"))
    )
    patches = [spcl.discriminator(maps).detach().double().flatten().tolist() for maps in (source, target)]
    fooled = sum(math.log1p(math.exp(-x)) for x in patches[1]) / len(patches[1])
    second = next(parts)["network"]["adversarial"]
    assert second.item() == pytest.approx(SMALL.weight * fooled, rel=1e-5)
    second.backward()
    assert all(p.grad is None for p in spcl.discriminator.parameters())
    assert spcl.network.classifier.weight.grad.abs().max() > 0

    for p in spcl.parameters():
        p.grad = None
    third = next(parts)["discriminator"]["discriminator"]
    right = sum(math.log1p(math.exp(-x)) for x in patches[0]) / len(patches[0])
    wrong = sum(math.log1p(math.exp(x)) for x in patches[1]) / len(patches[1])
    assert third.item() == pytest.approx((right + wrong) / 2, rel=1e-5)
    third.backward()
    assert all(p.grad is None for p in spcl.network.parameters())
    assert all(p.grad is not None for p in spcl.discriminator.parameters())
    assert next(parts, None) is None


def test_prototypes_start_as_the_mean_over_images_of_their_own_means():
    spcl = method().eval()
    spcl.estimate_prototypes(MemoryPasses())
    sums: dict[int, list] = {}
    for part in MemoryPasses().source():
        features = spcl.run(part.images, "source").features.detach()
        for image, labels in zip(features.split(1), grid(part.labels).split(1), strict=True):
            for k, mean in class_means(image, labels).items():
                sums.setdefault(k, []).append(mean)
    for k, means in sums.items():
        torch.testing.assert_close(spcl.prototypes.mean[k].double(), torch.stack(means).mean(0), rtol=1e-5, atol=1e-6)
        assert spcl.prototypes.count[k] == len(means)
    before = spcl.prototypes.mean.clone()
    spcl.estimate_prototypes(MemoryPasses())
    assert torch.equal(before, spcl.prototypes.mean)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 100.0])
def test_prototypes_move_before_both_contrasts(temperature):
    spcl = method(temperature=temperature, weight=2.0)
    spcl.estimate_prototypes(MemoryPasses())
    old = spcl.prototypes.mean.double()
    source, target = batch(0), batch(1, labelled=False)
    source.labels[source.labels == 3] = 255  # an absent class keeps its prototype
    parts = spcl.contrast(source, target)
    first = next(parts)["network"]
    features = spcl.run(source.images, "source").features.detach()
    labels = grid(source.labels)
    new = old.clone()
    for k, mean in class_means(features, labels).items():
        new[k] = 0.1 * old[k] + 0.9 * mean
    torch.testing.assert_close(spcl.prototypes.mean.double(), new, rtol=1e-5, atol=1e-6)
    assert torch.equal(spcl.prototypes.mean[3].double(), old[3])
    direct = contrast_fp64(features, labels, new, temperature)
    assert first["contrast_source"].item() == pytest.approx(2 * direct, rel=1e-5)
    assert set(first) == {"ce", "lovasz", "contrast_source"}

    second = next(parts)["network"]
    output = spcl.run(target.images, "target")
    direct = contrast_fp64(output.features.detach(), confident(output.logits.detach()), new, temperature)
    assert set(second) == {"contrast_target"}
    assert second["contrast_target"].item() == pytest.approx(2 * direct, rel=1e-5)
    second["contrast_target"].backward()
    assert not spcl.prototypes.mean.requires_grad
    assert next(parts, None) is None


def confident(logits, cap=0.9):
    """Eq. 5 with thresholds min(median, cap), the lower median, and as confident counts."""
    confidence, labels = logits.double().softmax(1).max(1)
    for k in labels.unique():
        of_class = labels == k
        threshold = min(confidence[of_class].median().item(), cap)
        labels[of_class & (confidence < threshold - 1e-7)] = 255
    return labels


def test_the_online_mask_is_per_class_and_capped():
    spcl = method()
    generator = torch.Generator().manual_seed(5)
    logits = 6 * torch.randn(2, K, 12, 16, generator=generator)
    logits[:, 2] -= 40  # a class that nobody is
    mask = spcl.target_mask(logits)
    assert torch.equal(mask.long(), confident(logits))
    capped = method(confidence_cap=0.2).target_mask(logits)
    assert torch.equal(capped.long(), logits.argmax(1))
    kept = [(mask == k).sum() / (logits.argmax(1) == k).sum() for k in range(K) if k != 2]
    assert all(share >= 0.5 for share in kept) and any(share < 1 for share in kept)


def test_only_rightly_predicted_source_pixels_on_request():
    source = batch(0)
    output = method().run(source.images, "source")
    every, right = (method(right_only=flag).source_mask(output, source.labels) for flag in (False, True))
    labels = grid(source.labels)
    assert torch.equal(every, labels)
    hit = output.logits.argmax(1) == labels
    assert torch.equal(right, labels.where(hit, 255)) and hit.any() and not hit.all()


def test_nothing_valid_gives_exactly_zero_and_moves_no_prototype():
    spcl = method()
    spcl.estimate_prototypes(MemoryPasses())
    before = spcl.prototypes.mean.clone()
    source = batch(0)
    source.labels.fill_(255)
    losses = next(spcl.contrast(source, batch(1, labelled=False)))["network"]
    assert all(loss.item() == 0.0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in spcl.network.parameters())
    assert torch.equal(before, spcl.prototypes.mean)


def test_the_state_dict_holds_prototypes_and_discriminator():
    spcl = method()
    spcl.estimate_prototypes(MemoryPasses())
    other = method()
    other.load_state_dict(spcl.state_dict())
    assert torch.equal(other.prototypes.mean, spcl.prototypes.mean)
    maps = F.softmax(torch.randn(1, K, 16, 24), 1)
    assert torch.equal(other.discriminator(maps), spcl.discriminator(maps))
