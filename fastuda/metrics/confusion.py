"""Intersection over union from a streamed confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastuda.ops._checks import LABEL_DTYPES
from fastuda.ops.confusion_matrix import confusion_matrix

# Cityscapes train ids of the means that the literature reports beside mIoU (SYNTHIA's 16 and 13, the rare classes).
SUBSETS = {
    "miou16": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    "miou13": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    "tail": (3, 4, 6, 7, 9, 12, 14, 15, 16, 17, 18),
}


class Classes(Protocol):
    """What ``scores`` reads of a class set: names and Cityscapes train ids by class index."""

    names: Sequence[str]
    train_ids: Sequence[int]


@dataclass(frozen=True)
class Scores:
    """Scores of a data set, fractions in 0..1.

    iou: by class name; None for a class that occurs neither in truth nor in prediction.
    miou: mean IoU over the classes that occur in the truth.
    accuracy: share of pixels that are right; mean_accuracy: mean over the classes of the truth of that share (MPA).
    subsets: mean IoU over named parts of the class set, like ``miou`` over those that occur; None where none does.
    """

    iou: dict[str, float | None]
    miou: float
    accuracy: float
    mean_accuracy: float
    subsets: dict[str, float | None] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The scores as plain values, ready for JSON."""
        row = {"miou": self.miou, "iou": dict(self.iou), "accuracy": self.accuracy, "mean_accuracy": self.mean_accuracy}
        return row | ({"subsets": dict(self.subsets)} if self.subsets else {})


class ConfusionMatrix(nn.Module):
    """Counts of (truth, prediction) pairs: buffer ``matrix`` int64 (K, K), rows = truth; ranks merge by adding.

    Raises ValueError for fewer than one class.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.register_buffer("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count the pixels of ``prediction`` and ``truth``: class indices of one shape, any integer dtypes.

        Pixels whose truth (255, ...) or prediction is outside 0..K-1 are left out.  No host synchronisation.
        Raises ValueError if the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction and truth must have one shape, got {tuple(prediction.shape)} and {tuple(truth.shape)}"
            )
        prediction, truth = (t if t.dtype in LABEL_DTYPES else t.long() for t in (prediction, truth))
        self.matrix += confusion_matrix(prediction, truth, self.num_classes)

    def reset(self) -> None:
        self.matrix.zero_()

    def scores(self, classes: Classes) -> Scores:
        """The scores so far (waits for the device once).

        ``subsets`` holds "miou16", "miou13" and "tail" where the class set has all their classes and others.
        Raises ValueError if the class set has another number of classes or no labelled pixel was counted.
        """
        if len(classes.names) != self.num_classes:
            raise ValueError(f"the class set has {len(classes.names)} classes, the matrix {self.num_classes}")
        matrix = self.matrix.cpu().double()
        right, truth = matrix.diagonal(), matrix.sum(1)
        if not truth.any():
            raise ValueError("no labelled pixel was counted, so there is nothing to score")
        union = truth + matrix.sum(0) - right
        iou = (right / union).tolist()
        occurs = (truth > 0).tolist()

        def mean(indices: Sequence[int]) -> float | None:
            values = [iou[k] for k in indices if occurs[k]]
            return sum(values) / len(values) if values else None

        index = {train_id: k for k, train_id in enumerate(classes.train_ids)}
        return Scores(
            iou={name: iou[k] if union[k] > 0 else None for k, name in enumerate(classes.names)},
            miou=mean(range(self.num_classes)),
            accuracy=(right.sum() / truth.sum()).item(),
            mean_accuracy=(right / truth)[truth > 0].mean().item(),
            subsets={
                name: mean([index[i] for i in train_ids])
                for name, train_ids in SUBSETS.items()
                if set(train_ids) < set(index)
            },
        )
