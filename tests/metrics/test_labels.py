"""Class distribution, coverage and IoU of pseudo labels against plain NumPy over whole arrays, in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.data.classes import class_set
from fastuda.metrics import ClassDistribution, PseudoLabelScores, class_shares

COMMON = class_set("common11")
K = COMMON.num_classes


def draw(seed: int, used: int = K):
    """Pseudo labels and truth (3, 5, 7) uint8, a third of each outside the classes: 255, but 254 and 11 as well."""
    rng = np.random.default_rng(seed)
    labels, truth = (rng.integers(0, used, (3, 5, 7)).astype(np.uint8) for _ in range(2))
    for array in (labels, truth):
        outside = rng.random(array.shape) < 0.3
        array[outside] = rng.choice(np.array([255, 254, K], np.uint8), outside.sum())
    labels[0, 0, :2], truth[0, 0, :2] = 0, 0
    return labels, truth


def plain(labels, truth):
    """What the metric should say, from the masks themselves."""
    both, true = (labels < K) & (truth < K), truth < K
    iou, of_all, recall, coverage = {}, [], [], {}
    for k, name in enumerate(COMMON.names):
        hit = ((labels == k) & (truth == k)).sum()
        among_kept = both & ((labels == k) | (truth == k))
        iou[name] = hit / among_kept.sum() if among_kept.any() else None
        if (both & (truth == k)).any():
            recall.append(iou[name])
        coverage[name] = (both & (truth == k)).sum() / (truth == k).sum() if (truth == k).any() else None
        if (truth == k).any():
            of_all.append(hit / (true & ((labels == k) | (truth == k))).sum())
    return {
        "iou": iou,
        "miou": np.mean(recall),
        "miou_of_all": np.mean(of_all),
        "coverage": both.sum() / true.sum(),
        "class_coverage": coverage,
        "truth": np.array([(truth == k).sum() for k in range(K)]) / true.sum(),
        "labels": np.array([(both & (labels == k)).sum() for k in range(K)]) / both.sum(),
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), used=st.integers(1, K), dtype=st.sampled_from([torch.uint8, torch.int32, torch.int16]))
def test_quality_is_the_masks(seed, used, dtype):
    labels, truth = draw(seed, used)
    metric = PseudoLabelScores(K)
    for of_image, true in zip(labels, truth, strict=True):
        given = torch.from_numpy(of_image).to(dtype)
        metric.update(given if dtype == torch.uint8 else given.where(given != 254, -1), torch.from_numpy(true))
    row, wanted = metric.quality(COMMON).row(), plain(labels, truth)
    for name in ("iou", "class_coverage"):
        assert [k for k, v in row[name].items() if v is None] == [k for k, v in wanted[name].items() if v is None]
        assert [v or 0.0 for v in row[name].values()] == pytest.approx([v or 0.0 for v in wanted[name].values()])
    for name in ("miou", "miou_of_all", "coverage"):
        assert row[name] == pytest.approx(wanted[name], rel=1e-12), name
    for name in ("truth", "labels"):
        assert list(row["distribution"][name].values()) == pytest.approx(wanted[name], rel=1e-12), name
    json.dumps(row, allow_nan=False)


def test_labelling_nothing_of_a_class_does_not_help():
    truth = torch.tensor([0, 0, 1, 1])
    labelled, dropped = PseudoLabelScores(K), PseudoLabelScores(K)
    labelled.update(torch.tensor([0, 0, 0, 1]), truth)
    dropped.update(torch.tensor([0, 0, 255, 255]), truth)
    labelled, dropped = labelled.quality(COMMON), dropped.quality(COMMON)
    assert dropped.scores.miou == 1.0 > labelled.scores.miou
    assert dropped.miou_of_all == 0.5 < labelled.miou_of_all == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert dropped.coverage == 0.5 and dropped.class_coverage["sidewalk"] == 0.0


def test_no_label_at_all_is_no_error_and_no_truth_is_one():
    metric = PseudoLabelScores(K)
    with pytest.raises(ValueError, match="no labelled pixel"):
        metric.quality(COMMON)
    metric.update(torch.full((4,), 255, dtype=torch.uint8), torch.arange(4))
    row = json.loads(json.dumps(metric.quality(COMMON).row(), allow_nan=False))
    assert row["miou"] is None and row["coverage"] == 0 and row["miou_of_all"] == 0
    assert row["distribution"]["labels"]["road"] is None and row["distribution"]["truth"]["road"] == 0.25


def test_as_many_classes_as_a_byte_holds():
    metric = PseudoLabelScores(255)
    every = torch.arange(256).to(torch.uint8)
    metric.update(every, every)
    metric.update(every.flip(0)[:1], every[:1])
    assert metric.matrix[:, :-1].equal(torch.eye(255, dtype=torch.int64)) and metric.matrix[:, -1].sum() == 1


def test_distribution_and_coverage_without_truth():
    labels, _ = draw(3)
    metric = ClassDistribution(K)
    for part in labels:
        metric.update(torch.from_numpy(part))
    counts = np.array([(labels == k).sum() for k in range(K)])
    assert metric.counts.tolist() == counts.tolist()
    assert metric.shares().tolist() == pytest.approx(counts / counts.sum(), rel=1e-12)
    assert metric.coverage().item() == pytest.approx((labels < K).mean(), rel=1e-12)
    metric.update(torch.full((1, 4), -1))
    assert metric.coverage().item() == pytest.approx((labels < K).sum() / (labels.size + 4), rel=1e-12)
    assert ClassDistribution(2).shares().isnan().all() and ClassDistribution(2).coverage().isnan()
    assert class_shares(torch.tensor([1, 3])).tolist() == [0.25, 0.75]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="between 1 and 255"):
        PseudoLabelScores(256)
    with pytest.raises(ValueError, match="at least 1"):
        ClassDistribution(0)
    with pytest.raises(ValueError, match="one shape"):
        PseudoLabelScores(2).update(torch.zeros(3, dtype=torch.uint8), torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="integers"):
        ClassDistribution(2).update(torch.zeros(3))
    with pytest.raises(ValueError, match="the class set has 11 classes, the matrix 3"):
        PseudoLabelScores(3).quality(COMMON)
