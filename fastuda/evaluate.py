"""Scores of a method on labelled images: ``python -m fastuda.evaluate WORK_DIR``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.classes import ClassSet
from fastuda.data.photometric import standardise
from fastuda.data.stream import EvalStream
from fastuda.methods.protocol import Method
from fastuda.metrics.confusion import ConfusionMatrix, Scores
from fastuda.train.precision import Precision


@torch.no_grad()
def predict_logits(method: Method, images: Tensor, size: tuple[int, int], precision: Precision) -> Tensor:
    """Logits (N, K, *size) in fp32 of uint8 RGB images (N, 3, H, W) on the method's device."""
    with precision.autocast():
        logits = method.predict(standardise(images).contiguous(memory_format=torch.channels_last))
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)


def evaluate(
    method: Method,
    stream: EvalStream,
    classes: ClassSet,
    device: torch.device,
    precision: Precision,
    poll: Callable[[], None] = lambda: None,
) -> Scores:
    """IoU per class over every image of ``stream``, each at its label's own size.

    The method's training flag is restored.  ``poll`` is called before each image and may raise to stop.
    """
    training = method.training
    method.eval()
    confusion = ConfusionMatrix(classes.num_classes).to(device)
    try:
        for number in range(len(stream)):
            poll()
            batch = stream[number].to(device)
            logits = predict_logits(method, batch.images, batch.labels.shape[-2:], precision)
            confusion.update(logits.argmax(1), batch.labels)
    finally:
        method.train(training)
    return confusion.scores(classes)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    import argparse
    from pathlib import Path

    from rich.console import Console

    from fastuda.metrics.table import iou_table
    from fastuda.train.restore import one_sentence, restore

    parser = argparse.ArgumentParser(prog="python -m fastuda.evaluate", description=__doc__)
    parser.add_argument("work_dir", type=Path, help="directory of a training run")
    with one_sentence():
        restored = restore(parser.parse_args(arguments).work_dir)
        inputs = restored.inputs
        scores = evaluate(
            restored.method, inputs.validation_stream(), inputs.classes, restored.device, restored.precision
        )
        Console().print(iou_table([{"name": "checkpoint", **scores.row()}]))


if __name__ == "__main__":
    sys.exit(main())
