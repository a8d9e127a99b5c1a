"""What a set of labels holds: how often each class is labelled, how many pixels are, and how many of them rightly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastuda.metrics.confusion import Classes, ConfusionMatrix, Scores, count_pairs
from fastuda.ops._checks import LABEL_DTYPES
from fastuda.ops.confusion_matrix import confusion_matrix
from fastuda.ops.pseudo_labels import MOST_CLASSES


def class_shares(counts: Tensor) -> Tensor:
    """The class distribution of pixel counts int64 (K,): float64 (K,) that sum to 1, NaN where nothing was counted."""
    return counts.double() / counts.sum()


class ClassDistribution(nn.Module):
    """How many pixels carry each class's label, streamed, where there is no truth to compare with.

    Buffers: ``counts`` int64 (K,) of the labels 0..K-1 and ``pixels`` int64 () of all pixels, labelled or not; ranks
    merge by adding.  Raises ValueError for fewer than one class.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("pixels", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, labels: Tensor) -> None:
        """Count the pixels of ``labels``, integers of any shape; 255 and others outside 0..K-1 carry no label.

        No host synchronisation.  Raises ValueError for labels that are no integers.
        """
        labels = _integers(labels)
        self.counts += confusion_matrix(labels, labels, self.num_classes).diagonal()
        self.pixels += labels.numel()

    def shares(self) -> Tensor:
        """Share of each class among the labelled pixels so far, float64 (K,); NaN without any."""
        return class_shares(self.counts)

    def coverage(self) -> Tensor:
        """Share of the pixels so far that carry a label, float64 (); NaN without a pixel."""
        return self.counts.sum().double() / self.pixels


@dataclass(frozen=True)
class PseudoLabelQuality:
    """How good pseudo labels are, fractions in 0..1.

    scores: of the pixels that carry both a pseudo label and a true one; None where there is none.
    miou_of_all: mean IoU over the classes of the truth with pixels without a pseudo label as misses: unlike
        ``scores.miou`` it does not rise when a class that is often wrong gets no label at all.
    coverage: share of the truly labelled pixels that carry a pseudo label; class_coverage: the same for the pixels of
        each true class, None for a class that does not occur.
    truth, labels: class distribution of all true labels, and of the pseudo labels on them (None where there are none).
    """

    scores: Scores | None
    miou_of_all: float
    coverage: float
    class_coverage: dict[str, float | None]
    truth: dict[str, float]
    labels: dict[str, float | None]

    def row(self) -> dict[str, Any]:
        """The scores as plain values, ready for JSON."""
        scored = self.scores.row() if self.scores else {"miou": None, "iou": dict.fromkeys(self.class_coverage)}
        return scored | {
            "miou_of_all": self.miou_of_all,
            "coverage": self.coverage,
            "class_coverage": dict(self.class_coverage),
            "distribution": {"truth": dict(self.truth), "labels": dict(self.labels)},
        }


class PseudoLabelScores(nn.Module):
    """mIoU, coverage and class distribution of pseudo labels against the truth, streamed (DRSL, Table 7: their mIoU).

    Buffer ``matrix`` int64 (K, K + 1), rows = truth; the last column counts pixels without a pseudo label.  Ranks merge
    by adding.  Raises ValueError for fewer than 1 or more than 255 classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if not 1 <= num_classes <= MOST_CLASSES:
            raise ValueError(f"num_classes must be between 1 and {MOST_CLASSES}, got {num_classes}")
        self.num_classes = num_classes
        self.register_buffer("matrix", torch.zeros(num_classes, num_classes + 1, dtype=torch.int64))

    @torch.no_grad()
    def update(self, labels: Tensor, truth: Tensor) -> None:
        """Count the pixels of pseudo labels and truth: integers of one shape, 255 and others outside 0..K-1 = none.

        Pixels without a true label are left out.  No host synchronisation.  Raises ValueError if the shapes differ.
        """
        if labels.shape != truth.shape:
            raise ValueError(
                f"labels and truth must have one shape, got {tuple(labels.shape)} and {tuple(truth.shape)}"
            )
        self.matrix += count_pairs(_integers(labels), _integers(truth), self.num_classes)

    def quality(self, classes: Classes) -> PseudoLabelQuality:
        """The quality so far (waits for the device).

        Raises ValueError if the class set has another number of classes or no labelled pixel was counted.
        """
        matrix, names = self.matrix.cpu(), classes.names
        if len(names) != self.num_classes:
            raise ValueError(f"the class set has {len(names)} classes, the matrix {self.num_classes}")
        kept, truth = ConfusionMatrix(self.num_classes), matrix.sum(1)
        kept.matrix[:, :-1] = matrix[:, :-1]
        if not truth.any():
            raise ValueError("no labelled pixel was counted, so there is nothing to score")
        right, labelled = kept.matrix.diagonal().double(), kept.matrix[:, :-1].sum(0)
        of_all = right / (truth + labelled - right)
        coverage = kept.matrix.sum(1).double() / truth
        some = bool(labelled.any())
        return PseudoLabelQuality(
            scores=kept.scores(classes) if some else None,
            miou_of_all=of_all[truth > 0].mean().item(),
            coverage=(labelled.sum().double() / truth.sum()).item(),
            class_coverage={n: c if t else None for n, c, t in zip(names, coverage.tolist(), truth, strict=True)},
            truth=dict(zip(names, class_shares(truth).tolist(), strict=True)),
            labels=dict(zip(names, class_shares(labelled).tolist() if some else [None] * len(names), strict=True)),
        )


def _integers(labels: Tensor) -> Tensor:
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    return labels if labels.dtype in LABEL_DTYPES else labels.long()
