"""Intersection over union from a streamed confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastuda.ops._checks import LABEL_DTYPES
from fastuda.ops.confusion_matrix import confusion_matrix


class Classes(Protocol):
    """What ``scores`` reads of a class set: names by class index, and groups of names that are averaged apart."""

    names: Sequence[str]
    groups: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Scores:
    """Scores of a data set, fractions in 0..1.

    iou: by class name; None for a class that occurs neither in truth nor in prediction.
    miou: mean of ``iou`` over the classes that have one, as cityscapesScripts, torchmetrics and mmsegmentation take it.
    accuracy: share of pixels that are right; mean_accuracy: mean over the classes of the truth of that share (MPA).
    subsets: mean IoU over named parts of the class set, like ``miou`` over those that have one; None where none has.
    confusion: pixels by true class and predicted class (K rows of K + 1), the last column for predictions of no class.
    """

    iou: dict[str, float | None]
    miou: float
    accuracy: float
    mean_accuracy: float
    subsets: dict[str, float | None] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The scores as plain values, ready for JSON, without the counts."""
        row = {"miou": self.miou, "iou": dict(self.iou), "accuracy": self.accuracy, "mean_accuracy": self.mean_accuracy}
        return row | ({"subsets": dict(self.subsets)} if self.subsets else {})


class ConfusionMatrix(nn.Module):
    """Counts of (truth, prediction) pairs: buffer ``matrix`` int64 (K, K + 1), rows = truth; ranks merge by adding.

    The last column counts the pixels of each class whose prediction is no class.

    Raises ValueError for fewer than one class.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.register_buffer("matrix", torch.zeros(num_classes, num_classes + 1, dtype=torch.int64))

    @torch.no_grad()
    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count the pixels of ``prediction`` and ``truth``: class indices of one shape, any integer dtypes.

        Pixels whose truth is outside 0..K-1 (255, ...) are left out; a prediction outside 0..K-1 is a miss of the
        true class and of no other.  No host synchronisation.
        Raises ValueError if the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction and truth must have one shape, got {tuple(prediction.shape)} and {tuple(truth.shape)}"
            )
        self.matrix += count_pairs(prediction, truth, self.num_classes)

    def reset(self) -> None:
        self.matrix.zero_()

    def scores(self, classes: Classes) -> Scores:
        """The scores so far (waits for the device once).

        ``subsets`` holds the class set's groups: "miou16", "miou13" and "tail" of Cityscapes', or a user's own.
        Raises ValueError if the class set has another number of classes or no labelled pixel was counted.
        """
        if len(classes.names) != self.num_classes:
            raise ValueError(f"the class set has {len(classes.names)} classes, the matrix {self.num_classes}")
        counts, names = self.matrix.cpu(), list(classes.names)
        matrix = counts.double()
        right, truth = matrix.diagonal(), matrix.sum(1)
        if not truth.any():
            raise ValueError("no labelled pixel was counted, so there is nothing to score")
        union = truth + matrix[:, : self.num_classes].sum(0) - right
        iou = (right / union).tolist()
        occurs = (union > 0).tolist()

        def mean(indices: Sequence[int]) -> float | None:
            values = [iou[k] for k in indices if occurs[k]]
            return sum(values) / len(values) if values else None

        return Scores(
            iou={name: iou[k] if occurs[k] else None for k, name in enumerate(names)},
            miou=mean(range(self.num_classes)),
            accuracy=(right.sum() / truth.sum()).item(),
            mean_accuracy=(right / truth)[truth > 0].mean().item(),
            subsets={group: mean([names.index(name) for name in members]) for group, members in classes.groups.items()},
            confusion=counts.tolist(),
        )


def count_pairs(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """int64 (K, K + 1): pixels by true class and by prediction, which is in the last column where it is no class.

    prediction, truth: any integers (or bool) of one shape; pixels whose truth is outside 0..K-1 are left out.
    """
    prediction, truth = (t if t.dtype in LABEL_DTYPES else t.long() for t in (prediction, truth))
    counts = confusion_matrix(prediction, truth, num_classes)
    # The misses are the rest of each true class, which needs no map of pixels.
    labelled = confusion_matrix(truth, truth, num_classes).diagonal()
    return torch.cat([counts, (labelled - counts.sum(1)).unsqueeze(1)], 1)
