"""MLSL's labels, weak labels and losses against the paper's formulas, on a small network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from methods.small_world import K, MemoryPasses, batch
from torch.nn import functional as F

from fastuda.methods import build_method
from fastuda.methods.config import MLSLConfig, Recipe
from fastuda.methods.mlsl import shares
from fastuda.models.config import ModelConfig
from fastuda.train.config import task_config

SMALL = MLSLConfig(patches=6, patch=(16, 24), head_width=8, rounds=2)


def method(**mlsl):
    torch.manual_seed(0)
    return build_method(Recipe(method="mlsl", model=ModelConfig(width=0.25), mlsl=replace(SMALL, **mlsl)), K).train()


def prepared(**mlsl):
    mlsl = method(**mlsl).eval()
    passes = MemoryPasses()
    mlsl.prepare(mlsl.stages()[1], passes)
    return mlsl, passes


def composite(mlsl, image, number, index):
    """Sec. 3.2 with a volume of the image's size and a count of votes, in float64; (K, H, W) and the votes."""
    config = mlsl.config
    volume, votes = torch.zeros(K, 32, 48, dtype=torch.float64), torch.zeros(32, 48)
    draw = torch.Generator().manual_seed((number << 32) + index)
    rows, columns = (
        torch.randint(size - side + 1, (config.patches,), generator=draw) for size, side in ((32, 16), (48, 24))
    )
    places = [(slice(y, y + 16), slice(x, x + 24)) for y, x in zip(rows.tolist(), columns.tolist(), strict=True)]
    if config.whole_image:
        places.append((slice(0, 32), slice(0, 48)))
    for y, x in places:
        part = image[:, :, y, x]
        logits = F.interpolate(mlsl.predict(part), part.shape[-2:], mode="bilinear", align_corners=True)
        volume[:, y, x] += logits[0].double().softmax(0)
        votes[y, x] += 1
    return volume / votes.clamp(min=1), votes


def test_stage_list_and_rows():
    names = [(s.name, s.prepared_row, s.row) for s in method().stages()]
    assert names == [("warm_up", "", "source"), ("round_1", "target_statistics", "round_1"), ("round_2", "", "adapted")]


def test_the_presets_name_the_papers_values():
    paper, released = (task_config("gta5_cityscapes", "mlsl", name) for name in ("paper", "released"))
    assert paper.warm_up.lovasz == 0.0 and MLSLConfig().patches == 50 and released.mlsl.portion == 0.15


@pytest.mark.parametrize("whole", [False, True])
def test_composites_are_the_mean_softmax_of_random_patches(whole):
    mlsl = method(whole_image=whole).eval()
    mlsl.estimate_target_statistics(MemoryPasses())
    image = batch(1).images[:1]
    with torch.no_grad():
        found = mlsl.composite(image, 1, 7, None)
        mean, votes = composite(mlsl, image, 1, 7)
    confidence, label = mean.max(0)
    torch.testing.assert_close(found.confidence[0].double(), confidence * (votes > 0), rtol=1e-5, atol=1e-6)
    top = mean.topk(2, 0).values
    sure = (votes > 0) & (top[0] - top[1] > 1e-5)
    assert torch.equal(found.label[0].long()[sure], label[sure]) and (found.label[0][votes == 0] == 255).all()
    assert found.histogram.sum() == (votes > 0).sum()
    assert whole == bool((votes > 0).all())


@pytest.mark.parametrize("cap", [1.0, 0.3])
def test_pseudo_labels_are_the_largest_quotients_of_at_least_one(cap):
    mlsl, passes = prepared(portion=0.3, threshold_cap=cap)
    with torch.no_grad():
        images = {
            int(i): image for b in MemoryPasses().target() for i, image in zip(b.index, b.images.split(1), strict=True)
        }
        volumes = {i: composite(mlsl, image, 0, i) for i, image in images.items()}
    mean = torch.stack([volumes[i][0] for i in sorted(volumes)])
    voted = torch.stack([volumes[i][1] > 0 for i in sorted(volumes)])
    confidence, label = mean.max(1)
    thresholds = torch.ones(K, dtype=torch.float64)
    for k in range(K):
        ranked = confidence[voted & (label == k)].sort(descending=True).values
        if len(ranked):
            thresholds[k] = ranked[max(1, int(0.3 * len(ranked))) - 1].clamp(max=cap)
    quotient, wanted = (mean / thresholds.view(-1, 1, 1)).max(1)
    found = torch.stack([passes.saved[i] for i in sorted(volumes)]).squeeze(1)
    # The thresholds are at most a bin, 1/1024, below the exact ones; quotients are upsampled, not logits.
    sure = voted & (quotient >= 1)
    agree = found[sure] == wanted[sure]
    assert agree.float().mean() > 0.97
    assert (found[~voted] == 255).all()
    assert (found[voted & (quotient < 1 - 2e-2)] == 255).float().mean() > 0.99


def test_without_patches_the_whole_image_labels_itself():
    mlsl = method(patches=0, whole_image=True).eval()
    mlsl.estimate_target_statistics(MemoryPasses())
    image = batch(1).images[:1]
    with torch.no_grad():
        found = mlsl.composite(image, 0, 3, None)
        logits = F.interpolate(mlsl.predict(image), image.shape[-2:], mode="bilinear", align_corners=True)
    confidence, label = logits[0].double().softmax(0).max(0)
    top = logits[0].topk(2, 0).values
    sure = top[0] - top[1] > 1e-5
    torch.testing.assert_close(found.confidence[0].double(), confidence, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.label[0].long()[sure], label[sure]) and found.histogram.sum() == label.numel()
    passes = MemoryPasses()
    mlsl.prepare(mlsl.stages()[1], passes)
    kept = torch.stack([passes.saved[i] for i in range(4)]) < K
    assert 0.15 < kept.float().mean() < 0.6
    with pytest.raises(ValueError, match=r"mlsl\.patches"):
        method(patches=0)


def test_plain_selection_keeps_the_surest_pixels_of_all_classes_together():
    mlsl, passes = prepared(portion=0.3, balanced=False, whole_image=True)
    found = [
        mlsl.composite(image, 0, int(index), None)
        for b in MemoryPasses().target()
        for index, image in zip(b.index, b.images.split(1), strict=True)
    ]
    confidence = torch.cat([f.confidence for f in found])
    labels = torch.cat([f.label for f in found])
    saved = torch.stack([passes.saved[i] for i in range(4)]).squeeze(1)
    threshold = confidence.flatten().sort(descending=True).values[int(0.3 * confidence.numel()) - 1]
    # Quotients are upsampled, not logits, which moves a pixel between the network's own.
    sure = confidence >= threshold
    assert (saved[sure] == labels[sure]).float().mean() > 0.97
    assert (saved[confidence < threshold - 2e-2] == 255).float().mean() > 0.99
    _, balanced = prepared(portion=0.3, whole_image=True)
    assert not torch.equal(saved, torch.stack([balanced.saved[i] for i in range(4)]).squeeze(1))


def test_weak_labels_compare_shares_with_the_sources():
    mlsl, _ = prepared(least_share=0.9)
    total, present = torch.zeros(K), torch.zeros(K)
    for b in MemoryPasses().source():
        for labels in b.labels:
            for k in range(K):
                share = (labels == k).float().mean()
                total[k] += share
                present[k] += share > 0
    torch.testing.assert_close(mlsl.mean_share, total / present.clamp(min=1))
    assert mlsl.presence.shape == (4, K)
    with torch.no_grad():
        for b in MemoryPasses().target():
            for index, image in zip(b.index.tolist(), b.images.split(1), strict=True):
                label = mlsl.composite(image, 0, index, None).label[0]
                covered = torch.stack([(label == k).float().mean() for k in range(K)])
                assert torch.equal(mlsl.presence[index], covered > 0.9 * mlsl.mean_share)


def test_both_domains_losses():
    mlsl, _ = prepared()
    mlsl.train()
    source, target = batch(0), replace(batch(1), index=torch.tensor([3, 0]))
    source.labels[0][source.labels[0] == 2] = 255
    parts = mlsl.adapt(source, target)
    first = next(parts)["network"]
    assert set(first) == {"ce", "lovasz", "presence_source"}
    logits = mlsl.head(mlsl.run(source.images, "source").features).detach().double()
    shown = torch.stack([torch.stack([(labels == k).any() for k in range(K)]) for labels in source.labels])
    assert not shown[0, 2] and shown[1, 2]
    assert first["presence_source"].item() == pytest.approx(0.025 * entropy(logits, shown), rel=1e-5)

    second = next(parts)["network"]
    assert set(second) == {"pseudo_ce", "presence_target"}
    logits = mlsl.head(mlsl.run(target.images, "target").features).detach().double()
    assert second["presence_target"].item() == pytest.approx(0.025 * entropy(logits, mlsl.presence[[3, 0]]), rel=1e-5)
    second["presence_target"].backward()
    assert mlsl.network.stride2[0].weight.grad.abs().max() > 0 and next(parts, None) is None


def entropy(logits, shown):
    p = logits.sigmoid()
    return -torch.where(shown, p.log(), (1 - p).log()).mean().item()


def test_without_the_image_level_loss_it_is_sisc_alone():
    mlsl, _ = prepared(presence=0.0)
    assert [set(p["network"]) for p in mlsl.train().adapt(batch(0), batch(1))] == [{"ce", "lovasz"}, {"pseudo_ce"}]


def test_shares_leave_ignored_pixels_in_the_area():
    labels = torch.tensor([[[0, 0, 1, 255], [0, 7, 1, 255]]], dtype=torch.uint8)
    assert torch.equal(shares(labels, 3), torch.tensor([[3 / 8, 2 / 8, 0.0]]))


def test_weak_labels_survive_the_state_dict():
    mlsl, _ = prepared()
    other = method()
    other.load_state_dict(mlsl.state_dict())
    assert torch.equal(other.presence, mlsl.presence) and mlsl.presence.any()
    assert torch.equal(other.mean_share, mlsl.mean_share)
