"""IoU against a loop over pixels."""

import json
from types import SimpleNamespace

import needed
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.data.classes import class_set
from fastuda.metrics import ConfusionMatrix


def classes(count: int):
    return SimpleNamespace(names=tuple(f"c{k}" for k in range(count)), groups={})


def naive(prediction, truth, count: int):
    """IoU, recall and accuracy from the definition: a prediction that is no class is a miss of the true class."""
    pairs = [(p, t) for p, t in zip(prediction.reshape(-1).tolist(), truth.reshape(-1).tolist(), strict=True)]
    pairs = [(p, t) for p, t in pairs if 0 <= t < count]
    iou, recall = {}, []
    for k in range(count):
        both = sum(p == k and t == k for p, t in pairs)
        either = sum(p == k or t == k for p, t in pairs)
        own = sum(t == k for _, t in pairs)
        iou[f"c{k}"] = both / either if either else None
        if own:
            recall.append(both / own)
    return iou, recall, sum(p == t for p, t in pairs) / len(pairs)


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([1, 2, 5, 19]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
    used=st.integers(1, 19),
    seed=st.integers(0, 99),
)
def test_scores_are_the_loops(count, shape, used, seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, min(used, count), shape, generator=generator)
    prediction = torch.randint(-1, count + 1, shape, generator=generator)
    truth[torch.rand(shape, generator=generator) < 0.2] = 255
    truth[0, 0, 0], prediction[0, 0, 0] = 0, 0
    confusion = ConfusionMatrix(count)
    for p, t in zip(prediction, truth, strict=True):
        confusion.update(p, t.to(torch.uint8))
    scores = confusion.scores(classes(count))
    iou, recall, accuracy = naive(prediction, truth, count)
    scored = [value for value in iou.values() if value is not None]
    assert scores.iou == pytest.approx(iou)
    assert scores.miou == pytest.approx(sum(scored) / len(scored))
    assert scores.mean_accuracy == pytest.approx(sum(recall) / len(recall))
    assert scores.accuracy == pytest.approx(accuracy)


def test_absent_and_only_predicted_classes():
    confusion = ConfusionMatrix(4)
    confusion.update(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 255], dtype=torch.uint8))
    scores = confusion.scores(classes(4))
    assert scores.iou == {"c0": 1.0, "c1": 0.5, "c2": 0.0, "c3": None}
    assert scores.miou == pytest.approx(0.5)  # c2 is predicted but does not occur: its 0 counts, c3 has no score
    row = json.loads(json.dumps(scores.row(), allow_nan=False))
    assert row["iou"]["c3"] is None and row["miou"] == scores.miou and "subsets" not in row


@pytest.mark.parametrize("void", [255, -1, 4, 2**40])
def test_a_prediction_that_is_no_class_is_a_miss(void):
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, void, 1, void]), torch.tensor([0, 0, 1, 255]))
    scores = confusion.scores(classes(2))
    assert scores.iou == {"c0": 0.5, "c1": 1.0} and scores.accuracy == pytest.approx(2 / 3)
    assert scores.mean_accuracy == pytest.approx(0.75)


def test_cityscapes_scripts_agree():
    """mIoU of the Cityscapes benchmark's own script, on random labels with absent classes and void predictions."""
    needed.module("cityscapesscripts")
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
    from cityscapesscripts.helpers.labels import trainId2label

    chosen = class_set("cityscapes19")
    script.args.evalLabels = [label_id for label_id in sorted(script.id2label) if label_id >= 0]
    ids = torch.tensor([trainId2label[t].id if t < 19 else 0 for t in range(256)])  # 0: unlabelled
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        used = torch.randperm(19, generator=generator)[: 1 + seed % 19]
        truth = used[torch.randint(len(used), (40, 50), generator=generator)]
        other = torch.randint(0, 20, truth.shape, generator=generator)
        prediction = truth.where(torch.rand(truth.shape, generator=generator) < 0.6, other)
        prediction[prediction == 19] = 255
        truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
        confusion = ConfusionMatrix(19)
        confusion.update(prediction.to(torch.uint8), truth.to(torch.uint8))
        counts = script.generateMatrix(script.args)
        for t, p in zip(ids[truth].flatten().tolist(), ids[prediction].flatten().tolist(), strict=True):
            counts[t, p] += 1
        named = {k: script.getIouScoreForLabel(trainId2label[k].id, counts, script.args) for k in range(19)}
        values = [value for value in named.values() if value == value]
        ours = confusion.scores(chosen)
        assert abs(ours.miou - sum(values) / len(values)) < 1e-12
        for k, value in named.items():
            assert ours.iou[chosen.names[k]] == (pytest.approx(value, abs=1e-12) if value == value else None)


def test_subsets():
    confusion = ConfusionMatrix(19)
    truth = torch.arange(19)
    prediction = truth.clone()
    prediction[[3, 9, 14]] = 0  # wall, terrain, truck are missed; road then has IoU 1/4
    confusion.update(prediction, truth.to(torch.uint8))
    scores = confusion.scores(class_set("cityscapes19"))
    assert scores.miou == pytest.approx(15.25 / 19)
    assert scores.subsets == pytest.approx({"miou16": 14.25 / 16, "miou13": 12.25 / 13, "tail": 8 / 11})
    assert set(one_pixel_of("synthia16").subsets) == {"miou13"}
    assert one_pixel_of("common11").subsets == {}


def one_pixel_of(name: str):
    chosen = class_set(name)
    confusion = ConfusionMatrix(chosen.num_classes)
    confusion.update(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return confusion.scores(chosen)


def test_counts_merge_reset_and_travel():
    first, second = ConfusionMatrix(3), ConfusionMatrix(3)
    truth = torch.randint(0, 3, (2, 50))
    prediction = torch.randint(0, 3, (2, 50))
    first.update(prediction[0], truth[0])
    second.load_state_dict(first.state_dict())
    second.update(prediction[1], truth[1])
    assert second.matrix.dtype == torch.int64 and second.matrix.sum() == 100
    for t, p in [(t, p) for t in range(3) for p in range(3)]:
        assert second.matrix[t, p] == ((truth == t) & (prediction == p)).sum()
    second.reset()
    assert second.matrix.sum() == 0 and first.matrix.sum() == 50


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.uint8, torch.int32, torch.bool])
def test_any_integers(dtype):
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, 1, 1, 1]).to(dtype), torch.tensor([0, 0, 1, 1]).to(dtype))
    assert confusion.matrix.tolist() == [[1, 1, 0], [0, 2, 0]]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 1"):
        ConfusionMatrix(0)
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="no labelled pixel"):
        confusion.scores(classes(3))
    with pytest.raises(ValueError, match="one shape"):
        confusion.update(torch.zeros(4), torch.zeros(5))
    with pytest.raises(ValueError, match="the class set has 4 classes, the matrix 3"):
        confusion.scores(classes(4))
