"""IoU against a loop over pixels."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.data.classes import class_set
from fastuda.metrics import ConfusionMatrix


def classes(count: int):
    return SimpleNamespace(names=tuple(f"c{k}" for k in range(count)), train_ids=tuple(range(100, 100 + count)))


def naive(prediction, truth, count: int):
    pairs = [
        (p, t)
        for p, t in zip(prediction.reshape(-1).tolist(), truth.reshape(-1).tolist(), strict=True)
        if 0 <= t < count and 0 <= p < count
    ]
    iou, recall = {}, []
    for k in range(count):
        both = sum(p == k and t == k for p, t in pairs)
        either = sum(p == k or t == k for p, t in pairs)
        own = sum(t == k for _, t in pairs)
        iou[f"c{k}"] = both / either if either else None
        if own:
            recall.append((both / own, both / either))
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
    iou, present, accuracy = naive(prediction, truth, count)
    assert scores.iou == pytest.approx(iou)
    assert scores.miou == pytest.approx(sum(i for _, i in present) / len(present))
    assert scores.mean_accuracy == pytest.approx(sum(r for r, _ in present) / len(present))
    assert scores.accuracy == pytest.approx(accuracy)


def test_absent_and_only_predicted_classes():
    confusion = ConfusionMatrix(4)
    confusion.update(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 255], dtype=torch.uint8))
    scores = confusion.scores(classes(4))
    assert scores.iou == {"c0": 1.0, "c1": 0.5, "c2": 0.0, "c3": None}
    assert scores.miou == pytest.approx(0.75)  # c2 is predicted but does not occur
    row = json.loads(json.dumps(scores.row(), allow_nan=False))
    assert row["iou"]["c3"] is None and row["miou"] == scores.miou and "subsets" not in row


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
    assert confusion.matrix.tolist() == [[1, 1], [0, 2]]


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
