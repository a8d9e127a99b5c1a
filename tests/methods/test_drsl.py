"""DRSL's and DRSL+'s stages and losses against float64 transcriptions of the paper, on a small network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from methods.small_world import K, MemoryPasses, batch
from torch.nn import functional as F

from fastuda.methods import build_method
from fastuda.methods.config import DRSLConfig, Recipe
from fastuda.models.config import ModelConfig
from fastuda.nn.fourier import swap_amplitude
from fastuda.train.config import task_config


def method(name: str = "drsl", **drsl):
    torch.manual_seed(0)
    config = replace(DRSLConfig(channels=8, per_class=20, style=0.0, triplets=64), **drsl)
    return build_method(Recipe(method=name, model=ModelConfig(width=0.25), drsl=config), K).train()


def seeded(work):
    torch.manual_seed(3)
    return work()


def squared_distances(rows, modes):
    """(P, K, M) of rows (P, d), float64."""
    return (rows.double()[:, None, None] - modes.double()).square().sum(-1)


def mode_formulas(rows, labels, modes, sigma2, margin, square):
    """Eq. 4 and 5 embedding by embedding: means over the labelled ones."""
    triplet, entropy, count = 0.0, 0.0, 0
    for distance, label in zip(squared_distances(rows, modes), labels.tolist(), strict=True):
        if label >= K:
            continue
        best = [min(row) for row in distance.tolist()]
        triplet += max(0.0, best[label] - min(d for k, d in enumerate(best) if k != label) + margin)
        q = [[math.exp(-(d**2 if square else d) / (2 * sigma2)) for d in row] for row in distance.tolist()]
        share = [max(row) for row in q]
        entropy -= math.log(share[label] / sum(share))
        count += 1
    return triplet / max(count, 1), entropy / max(count, 1)


def test_stage_list_and_rows():
    names = [(s.name, s.prepared_row, s.row) for s in method(rounds=3).stages()]
    assert names == [
        ("warm_up", "", "source"),
        ("round_1", "target_statistics", "round_1"),
        ("round_2", "", "round_2"),
        ("round_3", "", "adapted"),
    ]
    assert method().stages()[1].target.labels == "pseudo"


def test_the_task_names_both_methods_and_the_papers_values():
    for name in ("drsl", "drsl+"):
        assert task_config("streets", name).method == name
    paper = task_config("gta5_cityscapes", "drsl")
    assert (paper.drsl.embedding, paper.drsl.classification, paper.drsl.consistency) == (0.25, 0.1, 0.1)
    assert paper.optimiser.weight_decay == 5e-4 and paper.warm_up.lovasz == 0.0
    assert paper.views.self_training.crop == (512, 512)


def test_sampled_embeddings_are_those_of_the_upsampled_map():
    drsl = method(per_class=7)
    features = torch.randn(2, drsl.network.feature_channels, 4, 6)
    labels = batch(0).labels
    rows, chosen = seeded(lambda: drsl.sample(features, labels))
    assert rows.shape == (2 * K * 7, 8) and chosen.shape == (2 * K * 7,)
    up = F.interpolate(drsl.embedding(features), size=(16, 24), mode="bilinear", align_corners=True)
    pixels = up.movedim(1, -1).reshape(-1, 8)
    half = labels[:, ::2, ::2].flatten()
    for row, label in zip(rows, chosen.tolist(), strict=True):
        if label < K:
            gap = (pixels - row).abs().amax(1)
            assert gap.min() < 1e-5 and half[gap.argmin()] == label
    assert (chosen.view(2, K, 7) < K).all()


def test_a_class_with_few_pixels_gives_fewer_embeddings():
    drsl = method(per_class=7)
    labels = torch.zeros(1, 32, 48, dtype=torch.uint8)
    labels[0, 10:14, 20:24] = 2
    _, chosen = drsl.sample(torch.randn(1, drsl.network.feature_channels, 16, 24), labels)
    assert [(chosen == k).sum().item() for k in range(K)] == [7, 0, 4, 0, 0]


@pytest.mark.parametrize("square", [False, True])
def test_source_training_adds_both_mode_losses(square):
    drsl = method(square_distance=square, margin=0.7, sigma2=0.6)
    losses = seeded(lambda: next(drsl.warm_up(batch(0), None)))["network"]
    assert set(losses) == {"ce", "lovasz", "modes_source", "mode_classes_source"}
    features = drsl.run(batch(0).images, "source").features
    rows, labels = seeded(lambda: drsl.sample(features, batch(0).labels))
    triplet, entropy = mode_formulas(rows.detach(), labels, drsl.modes.detach(), 0.6, 0.7, square)
    assert losses["modes_source"].item() == pytest.approx(0.25 * triplet, rel=1e-5)
    assert losses["mode_classes_source"].item() == pytest.approx(0.1 * entropy, rel=1e-5)
    (losses["modes_source"] + losses["mode_classes_source"]).backward()
    assert drsl.modes.grad.abs().max() > 0
    assert drsl.embedding.conv2d_list[0].weight.grad.abs().max() > 0
    assert drsl.network.classifier.weight.grad is None


def test_the_optimiser_holds_every_parameter_once():
    drsl = method()
    groups = drsl.optimisers(DRSLConfig().schedule)["network"].param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in drsl.parameters() if p.requires_grad}
    assert groups[-1]["weight_decay"] == 0.0 and groups[-1]["params"][0] is drsl.modes


def test_adaptation_treats_both_domains_alike():
    drsl = method()
    parts = [set(part["network"]) for part in drsl.adapt(batch(0), batch(1))]
    assert parts == [
        {"ce", "lovasz", "modes_source", "mode_classes_source"},
        {"pseudo_ce", "modes_target", "mode_classes_target"},
    ]


def test_consistency_is_the_hinge_over_allowed_partners():
    drsl = method("drsl+", consistency=2.0, triplets=32, margin=0.5)
    losses = seeded(lambda: next(drsl.adapt(batch(0), batch(1))))["network"]
    assert set(losses) >= {"ce", "pseudo_ce", "modes_source", "modes_target", "consistency"}

    source = drsl.sample(drsl.run(batch(0).images, "source").features, batch(0).labels)
    target = drsl.sample(drsl.run(batch(1).images, "target").features, batch(1).labels)
    modes = [squared_distances(e.rows.detach(), drsl.modes.detach()).argmin(2) for e in (source, target)]
    own = [
        torch.where(e.labels < K, m.gather(1, e.labels.clamp(max=K - 1).long().unsqueeze(1)).squeeze(1), -1)
        for e, m in zip((source, target), modes, strict=True)
    ]
    values = [seeded(lambda seed=seed: _consistency(drsl, source, own[0], target, own[1], seed)) for seed in range(40)]
    # The mean over every allowed pair of partners, which random partners approach.
    mean = _every_pair(source, own[0], target, own[1], 0.5)
    assert sum(values) / len(values) == pytest.approx(mean, rel=0.1)


def _consistency(drsl, source, source_mode, target, target_mode, seed):
    torch.manual_seed(seed)
    return drsl.consistency(source, source_mode, target, target_mode).item()


def _every_pair(source, source_mode, target, target_mode, margin):
    s, t = source.rows.detach().double(), target.rows.detach().double()
    total, count = 0.0, 0
    for i, label in enumerate(target.labels.tolist()):
        positive = (source.labels == label) & (source_mode == target_mode[i])
        negative = (source.labels != label) & (source.labels < K)
        if label >= K or not positive.any() or not negative.any():
            continue
        near = (s[positive] - t[i]).square().sum(1)
        far = (s[negative] - t[i]).square().sum(1)
        total += (near[:, None] - far[None] + margin).clamp(min=0).mean().item()
        count += 1
    return total / count


def test_without_pseudo_labels_the_target_counts_nothing():
    drsl = method("drsl+")
    target = batch(1)
    target.labels.fill_(255)
    losses = next(drsl.adapt(batch(0), target))["network"]
    for name in ("pseudo_ce", "modes_target", "mode_classes_target", "consistency"):
        assert losses[name].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in drsl.parameters())


@pytest.mark.parametrize(("number", "portion"), [(0, 0.2), (1, 0.25), (9, 0.5)])
def test_pseudo_labels_keep_a_share_of_every_class(number, portion):
    drsl = method().eval()
    drsl.estimate_target_statistics(MemoryPasses())
    passes = MemoryPasses()
    drsl.label_target(passes, number)
    images = [b.images for b in MemoryPasses().target()]
    logits = torch.cat([F.interpolate(drsl.predict(x), (32, 48), mode="bilinear", align_corners=True) for x in images])
    confidence, predicted = logits.double().softmax(1).max(1)
    labels = torch.stack([passes.saved[i] for i in range(4)])
    for k in range(K):
        of_class = predicted == k
        if not of_class.any():
            continue
        ranked = confidence[of_class].sort(descending=True).values
        threshold = ranked[max(1, int(portion * len(ranked))) - 1]
        sure = of_class & (confidence > threshold + 2e-3)
        assert (labels[sure] != 255).all()
    kept = labels != 255
    assert kept.any() and kept.float().mean() < min(1.0, portion + 0.25)


@pytest.mark.parametrize("flip", [False, True])
def test_a_cap_labels_every_pixel_above_it_by_the_mean_prediction_of_the_mirrored_images(flip):
    drsl = method(portion=0.1, threshold_cap=0.3, flip=flip).eval()
    drsl.estimate_target_statistics(MemoryPasses())
    passes = MemoryPasses()
    drsl.label_target(passes, 0)
    for seen in MemoryPasses().target():
        predictions = [drsl.predict(seen.images).softmax(1)]
        if flip:
            predictions.append(drsl.predict(seen.images.flip(-1)).softmax(1).flip(-1))
        logits = torch.stack(predictions).mean(0).log()
        mean = F.interpolate(logits, (32, 48), mode="bilinear", align_corners=True).softmax(1)
        labels = torch.stack([passes.saved[i] for i in seen.index.tolist()])
        sure = mean.amax(1) > 0.3 + 1e-4
        assert sure.any() and (labels[sure] != 255).all()


def test_plain_selection_keeps_the_surest_pixels_of_all_classes_together():
    drsl = method(balanced=False, portion=0.3).eval()
    drsl.estimate_target_statistics(MemoryPasses())
    passes, other = MemoryPasses(), MemoryPasses()
    drsl.label_target(passes, 0)
    images = [b.images for b in MemoryPasses().target()]
    logits = torch.cat([F.interpolate(drsl.predict(x), (32, 48), mode="bilinear", align_corners=True) for x in images])
    confidence, predicted = logits.double().softmax(1).max(1)
    labels = torch.stack([passes.saved[i] for i in range(4)])
    threshold = confidence.flatten().sort(descending=True).values[int(0.3 * confidence.numel()) - 1]
    # The threshold is at most a bin, 1/1024, below the exact one.
    sure = confidence > threshold + 1e-5
    assert torch.equal(labels[sure].long(), predicted[sure])
    assert (labels[confidence < threshold - 2e-3] == 255).all()
    drsl.config = replace(drsl.config, balanced=True)
    drsl.label_target(other, 0)
    assert DRSLConfig().balanced and not torch.equal(labels, torch.stack([other.saved[i] for i in range(4)]))


def test_styled_images_keep_their_phase_and_take_the_low_frequencies():
    source, target = batch(0).images, batch(1).images[..., :24]
    styled = swap_amplitude(source, target, 0.1)
    scaled = F.interpolate(target, (32, 48), mode="bilinear", align_corners=False, antialias=True)
    before, after, other = (torch.fft.fft2(x.double()) for x in (source, styled, scaled))
    fy, fx = torch.fft.fftfreq(32, 1 / 32).abs()[:, None], torch.fft.fftfreq(48, 1 / 48).abs()[None]
    low = ((fy <= 3) & (fx <= 3)).expand_as(before)
    torch.testing.assert_close(after.abs()[low], other.abs()[low], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after[~low], before[~low], rtol=1e-3, atol=1e-3)
    turned = (after[low] * before[low].conj()).angle().abs()
    assert turned.max() < 1e-3
    torch.testing.assert_close(swap_amplitude(source, source, 0.2), source, rtol=1e-4, atol=1e-5)


def test_a_share_of_the_source_is_styled():
    drsl = method(style=1.0, style_beta=0.1)
    source, target = batch(0).images, batch(1).images[:1]
    torch.testing.assert_close(drsl.styled(source, target), swap_amplitude(source, target.expand_as(source), 0.1))
    assert drsl.styled(source, target).shape == source.shape
    assert torch.equal(method(style=0.0).styled(source, target), source)
    with pytest.raises(ValueError, match="beta"):
        swap_amplitude(source, source, 0.7)


def test_modes_and_embedding_are_in_the_state_dict():
    drsl = method()
    other = method()
    with torch.no_grad():
        drsl.modes += 1
    other.load_state_dict(drsl.state_dict())
    assert torch.equal(other.modes, drsl.modes)
