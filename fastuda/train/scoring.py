"""Labels and scores of a method on images: what evaluation, prediction and the memory forecast share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastuda.data.classes import ClassSet
from fastuda.data.photometric import standardise
from fastuda.data.stream import EvalStream
from fastuda.methods.protocol import Method
from fastuda.metrics.confusion import ConfusionMatrix, Scores
from fastuda.nn.windows import Size, windowed_labels
from fastuda.ops import pseudo_labels
from fastuda.ops.pseudo_labels import PseudoLabels
from fastuda.ranks import rank, total, world
from fastuda.train.precision import Precision

OVERLAP = 1 / 3  # of neighbouring windows


@torch.no_grad()
def predict_labels(
    method: Method,
    images: Tensor,
    size: Size,
    precision: Precision,
    window: Size | None = None,
    *,
    confidence: bool = False,
) -> Tensor | PseudoLabels:
    """Class indices (N, *size) uint8 of uint8 RGB images (N, 3, H, W) on the method's device.

    confidence: return ``PseudoLabels``: also the probability of each pixel's class.  window: (height, width) of
    overlapping windows that are predicted one after another instead of whole images.  Logits are upsampled to ``size``
    while the labels are computed; they are never stored at that size.
    """

    def predict(part: Tensor) -> Tensor:
        with precision.autocast():
            return method.predict(standardise(part).contiguous(memory_format=torch.channels_last))

    if window is None:
        return pseudo_labels(predict(images), size=size, return_confidence=confidence)
    found = windowed_labels(predict, images, size, window, OVERLAP)
    return found if confidence else found.label


def evaluate(
    method: Method,
    stream: EvalStream,
    classes: ClassSet,
    device: torch.device,
    precision: Precision,
    poll: Callable[[], None] = lambda: None,
    window: Size | None = None,
) -> Scores:
    """IoU per class over every image of ``stream``, each at its label's own size.

    Inside ``fastuda.ops.global_batch`` the images are divided among the processes; the scores are those of all images.
    poll: called before each image; may raise to stop.  window: as in ``predict_labels``.  The method's training flag is
    restored afterwards.
    """
    training = method.training
    method.eval()
    confusion = ConfusionMatrix(classes.num_classes).to(device)
    try:
        for number in range(rank(), len(stream), world()):
            poll()
            batch = stream[number].to(device)
            labels = predict_labels(method, batch.images, batch.labels.shape[-2:], precision, window)
            confusion.update(labels, batch.labels)
    finally:
        method.train(training)
    confusion.matrix = total(confusion.matrix)
    return confusion.scores(classes)
