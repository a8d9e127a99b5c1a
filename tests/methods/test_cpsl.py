"""CPSL's losses and moving parts against float64 transcriptions of the paper, on a small network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from methods.cpsl_world import ScorePasses, labels_and_cosines, method, prepared
from methods.small_world import K, MemoryPasses, batch
from torch.nn import functional as F

from fastuda.data.config import Augment
from fastuda.methods import build_method
from fastuda.models.norm import batch_norms, statistics_state, use_domain
from fastuda.train.config import task_config


def test_stage_list_and_rows():
    names = [(s.name, s.prepared_row, s.row) for s in method().stages()]
    assert names == [
        ("warm_up", "", "source"),
        ("self_label", "target_statistics", "self_labelled"),
        ("distil_1", "", "distilled_1"),
        ("distil_2", "", "adapted"),
    ]
    assert method().stages()[1].target.scores and method(distillations=0).stages()[1].row == "adapted"


def test_the_presets_name_the_papers_values():
    paper = task_config("gta5_cityscapes", "cpsl")
    assert (paper.cpsl.samples, paper.cpsl.bank, paper.cpsl.temperature, paper.cpsl.epsilon) == (
        512,
        65_536,
        0.08,
        0.05,
    )
    assert paper.optimiser.weight_decay == 2e-4 and paper.views.target.crop == (512, 896)
    assert paper.model.decoder == "aspp" and paper.cpsl.balanced and paper.cpsl.regularise == "predictions"
    assert (paper.cpsl.cross_entropy, paper.cpsl.reverse_cross_entropy, paper.cpsl.share_momentum) == (1.0, 0.0, 0.999)
    released = task_config("gta5_cityscapes", "cpsl", "released")
    assert released.model.decoder == "aspp_se" and released.cpsl == replace(
        paper.cpsl,
        samples=256,
        balanced=False,
        share_momentum=1.0,
        cross_entropy=0.1,
        reverse_cross_entropy=1.0,
        regularise="assignments",
    )
    for task in ("streets", "day_dusk", "carla_camvid"):  # a U-Net has no other decoder
        build_method(task_config(task, "cpsl", "released"), K)


def test_preparation_makes_prototypes_shares_and_stored_scores():
    cpsl, _ = prepared()
    sums, counts = torch.zeros(K, cpsl.bank.channels, dtype=torch.float64), torch.zeros(K)
    with torch.no_grad():
        for part in MemoryPasses().target():
            output = cpsl.run(part.images, "target")
            z = F.normalize(output.features.double(), dim=1).movedim(1, -1).reshape(-1, cpsl.bank.channels)
            labels = output.logits.argmax(1).flatten()
            for k in range(K):
                sums[k] += z[labels == k].sum(0)
                counts[k] += (labels == k).sum()
    for k in range(K):
        prototype = sums[k] if counts[k] else sums.sum(0)
        prototype = prototype / prototype.norm()
        torch.testing.assert_close(cpsl.head.weight[k].double(), prototype, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cpsl.share, counts / counts.sum())
    assert torch.equal(cpsl.teacher_head.weight, cpsl.head.weight) and cpsl.bank.filled == 0


def test_a_class_that_no_pixel_has_gets_a_prototype_to_move():
    cpsl = method().eval()
    with torch.no_grad():
        cpsl.network.classifier.bias[2] = -1e4
        cpsl.prepare(cpsl.stages()[1], ScorePasses())
        mean = torch.zeros(cpsl.bank.channels, dtype=torch.float64)
        for part in MemoryPasses().target():
            mean += F.normalize(cpsl.run(part.images, "target").features.double(), dim=1).sum((0, 2, 3))
    assert cpsl.share[2] == 0 and cpsl.share.sum().item() == pytest.approx(1)
    torch.testing.assert_close(cpsl.head.weight[2].double(), mean / mean.norm(), rtol=1e-4, atol=1e-5)
    z = F.normalize(torch.randn(2, cpsl.bank.channels, 16, 24), dim=1)
    cpsl.self_label_loss(z, torch.randint(0, 2, (2, 32, 48)).to(torch.uint8)).backward()
    assert 0 < cpsl.head.weight.grad[2].norm() < 1e3


def test_labels_are_rectified_by_the_prototypes():
    cpsl, target = prepared()
    z, labels, _ = labels_and_cosines(cpsl, target)
    cosine = torch.einsum("nahw,ka->nkhw", z.double(), F.normalize(cpsl.teacher_head.weight.double(), dim=1))
    soft = target.scores.double()
    up = [F.interpolate(x, (32, 48), mode="bilinear", align_corners=True) for x in (cosine / 0.08, soft)]
    product = up[0].softmax(1) * up[1]
    top = product.log().topk(2, 1).values
    sure = top[:, 0] - top[:, 1] > 1e-3
    assert torch.equal(labels.long()[sure], product.argmax(1)[sure]) and sure.float().mean() > 0.95


def sinkhorn_fp64(scores, marginal, epsilon, rounds):
    q = (scores.double() / epsilon).exp()
    for _ in range(rounds):
        q = q / q.sum(0).clamp(min=1e-300) * marginal.double()  # a class without share stays empty
        q = q / q.sum(1, keepdim=True)
    return q


def test_self_label_loss_is_the_cross_entropy_of_sinkhorns_labels():
    cpsl, target = prepared()
    cpsl.bank.insert(F.normalize(torch.randn(40, cpsl.bank.channels), dim=1))
    bank = cpsl.bank.features().clone()
    z, labels, _ = labels_and_cosines(cpsl, target)
    torch.manual_seed(4)
    loss = cpsl.self_label_loss(z, labels)
    assert cpsl.bank.filled == 64
    rows = cpsl.bank.features()[40:]  # the 24 that came in
    weight = F.normalize(cpsl.head.weight.detach().double(), dim=1)
    q = sinkhorn_fp64(torch.cat([bank, rows]).double() @ weight.T, cpsl.share, 0.05, 3)[40:]
    p = (rows.double() @ weight.T / 0.08).log_softmax(1)
    assert loss.item() == pytest.approx(-(q * p).sum(1).mean().item(), rel=1e-5)
    loss.backward()
    assert cpsl.head.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in cpsl.network.parameters())
    small = labels[:, ::2, ::2]
    drawn = [
        sum(torch.equal(row, z[0, :, y, x]) for row in rows[:12])
        for y, x in zip(*(small[0] < K).nonzero().T, strict=True)
    ]
    assert sum(drawn) == 12


def test_shares_move_by_each_images_own_distribution():
    cpsl, _ = prepared(share_momentum=0.9)
    old = cpsl.share.clone()
    labels = torch.randint(0, K, (2, 8, 8), dtype=torch.uint8)
    labels[1, 3:] = 255
    cpsl.update_share(labels)
    shares = torch.stack([torch.stack([(part[part < K] == k).float().mean() for k in range(K)]) for part in labels])
    torch.testing.assert_close(cpsl.share, 0.9 * old + 0.1 * shares.mean(0))
    assert cpsl.share.sum().item() == pytest.approx(1)
    before = cpsl.share.clone()
    cpsl.update_share(torch.full((2, 8, 8), 255, dtype=torch.uint8))
    assert torch.equal(before, cpsl.share)


def test_a_step_yields_all_terms_and_moves_what_learns():
    cpsl, target = prepared()
    cpsl.train()
    parts = cpsl.self_label(batch(0), target)
    assert set(next(parts)["network"]) == {"ce", "lovasz"}
    losses = next(parts)["network"]
    assert set(losses) == {"self_label", "pseudo_ce"}
    losses |= next(parts)["network"]
    assert set(losses) == {"self_label", "pseudo_ce", "consistency"} and next(parts, None) is None
    with torch.no_grad():
        logits = cpsl.run(target.images, "target").logits.double()
    p = logits.softmax(1)
    with torch.no_grad():
        with use_domain(cpsl.teacher, "target"):
            q = cpsl.teacher(target.images).logits.double().softmax(1)
    kl = ((p - q) * (p.log() - q.log())).sum(1).mean()
    assert losses["consistency"].item() == pytest.approx(5 * kl.item(), rel=1e-4, abs=1e-7)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in [*cpsl.teacher.parameters(), *cpsl.teacher_head.parameters()])
    assert cpsl.network.classifier.weight.grad.abs().max() > 0


def test_strong_views_leave_the_logits_where_they_are_without_cutting():
    cpsl = method(strong=Augment(brightness=0.5, blur=1.0), random_operations=2)
    images, logits = batch(1).images, torch.randn(2, K, 16, 24)
    view = cpsl.strong_view(images, logits)
    assert view.images.shape == images.shape and not torch.allclose(view.images, images)
    assert torch.equal(view.logits, logits) and view.mask.all()
    torch.testing.assert_close(method().strong_view(images, logits).images, images, rtol=1e-4, atol=1e-4)


def test_strong_views_enter_no_statistics_and_labels_are_for_the_plain_image():
    states, labelled = [], []
    strong = {"strong": Augment(brightness=0.9, hue=0.5), "random_operations": 2, "cut_out": 0.3}
    for options in ({}, strong):
        cpsl, target = prepared(**options)
        _, labels, _ = labels_and_cosines(cpsl, target)
        before = cpsl.network.stride2[1].target_running_mean.clone()
        cpsl.train()
        with torch.no_grad():
            parts = [part["network"] for part in cpsl.self_label(batch(0), target)]
        layer = cpsl.network.stride2[1]
        assert layer.target_num_batches_tracked == cpsl.teacher.stride2[1].target_num_batches_tracked + 1
        assert not torch.equal(before, layer.target_running_mean)
        states.append(statistics_state(cpsl.network))
        labelled.append(parts[1]["pseudo_ce"])
        with torch.no_grad():
            logits = cpsl.run(target.images, "target").logits.double()
        up = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
        assert labelled[-1].item() == pytest.approx(
            F.cross_entropy(up, labels.long(), ignore_index=255).item(), rel=1e-4
        )
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_teachers_follow_by_the_momentum():
    cpsl, _ = prepared(momentum=0.75)
    before = [p.clone() for p in cpsl.teacher.parameters()]
    with torch.no_grad():
        for p in cpsl.network.parameters():
            p += 1
        cpsl.head.weight += 1
    cpsl.ema_update()
    for old, new in zip(before, cpsl.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    assert not cpsl.train().teacher.training


def test_the_teachers_statistics_are_averaged_like_its_weights():
    cpsl, _ = prepared(momentum=0.75)
    student, teacher = cpsl.network.stride2[1], cpsl.teacher.stride2[1]
    old = teacher.target_running_var.clone()
    student.target_running_var += 2
    student.target_num_batches_tracked += 5
    cpsl.ema_update()
    torch.testing.assert_close(teacher.target_running_var, old + 0.5)
    assert torch.equal(teacher.target_num_batches_tracked, student.target_num_batches_tracked)


def test_the_teacher_reads_the_statistics_that_the_network_gathers():
    cpsl = method(norm="trained")
    cpsl.stages()[1].optimisers()
    assert {layer.mode for layer in batch_norms(cpsl.teacher).values()} == {"trained"}
    with torch.no_grad():
        for key, buffer in cpsl.teacher.named_buffers():
            if key.endswith("running_mean") and "target" not in key:
                buffer += 1
        images = batch(1).images
        with use_domain(cpsl.teacher, "target"):
            on_target = cpsl.teacher(images).logits
        assert torch.equal(on_target, cpsl.teacher(images).logits)


def test_fewer_valid_pixels_are_repeated_and_none_count_nothing():
    cpsl, _ = prepared()
    z = F.normalize(torch.randn(2, cpsl.bank.channels, 16, 24), dim=1)
    labels = torch.full((2, 32, 48), 255, dtype=torch.uint8)
    assert cpsl.self_label_loss(z, labels).item() == 0.0
    labels[0, 4, 6] = 1
    cpsl.bank.reset()
    loss = cpsl.self_label_loss(z, labels)
    assert loss.item() > 0 and math.isfinite(loss.item())
    assert (cpsl.bank.features()[:12] == z[0, :, 2, 3]).all()


def test_distillation_starts_a_fresh_student_beside_the_adapted_teacher():
    cpsl, target = prepared()
    adapted = cpsl.network.classifier.weight.clone()
    cpsl.new_student(MemoryPasses())
    assert torch.equal(cpsl.teacher.classifier.weight, adapted)
    assert not torch.equal(cpsl.network.classifier.weight, adapted)
    parts = [part["network"] for part in cpsl.train().distil(batch(0), target)]
    assert [set(part) for part in parts] == [{"ce", "lovasz"}, {"distillation"}]
    assert parts[1]["distillation"].item() > 0


def test_everything_is_in_the_state_dict():
    cpsl, target = prepared()
    cpsl.self_label_loss(F.normalize(torch.randn(2, cpsl.bank.channels, 16, 24), dim=1), batch(1).labels)
    other = method()
    other.load_state_dict(cpsl.state_dict())
    assert other.bank.filled == 24 and torch.equal(other.share, cpsl.share)
    assert torch.equal(other.teacher_head.weight, cpsl.teacher_head.weight)
