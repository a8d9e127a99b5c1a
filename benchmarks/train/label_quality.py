"""Quality of a method's labels of target training images; only here is the truth of such images read.

    python benchmarks/train/label_quality.py WORK_DIR       a finished run of mlsl

The labels are made with the run's configuration and network. Of all target pixels those with the largest quotients
p_c / k_c are kept, as many as the share p of its first round, so that two ways of labelling have one coverage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastuda.data.build import build_dataset
from fastuda.data.cache import ImageCache
from fastuda.data.classes import IGNORE, ClassSet
from fastuda.data.photometric import standardise
from fastuda.methods.mlsl import BINS
from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.metrics.confusion import ConfusionMatrix
from fastuda.train.checkpoint import write_json
from fastuda.train.config import Config
from fastuda.train.restore import Restored, restore


def best(labels: Tensor, quotients: Tensor, share: float) -> Tensor:
    """The labels (P,) of the floor(share P) pixels with the largest quotients (of ties the first); 255 elsewhere."""
    kept = quotients.sort(descending=True, stable=True).indices[: int(share * len(labels))]
    return torch.full_like(labels, 255).index_copy_(0, kept, labels[kept])


def scores(labels: Tensor, truth: Tensor, classes: ClassSet) -> dict:
    """Coverage of all pixels, and accuracy and mIoU over the labelled ones with a truth.

    The mean is over all classes of the truth; a class without a label counts 0, also where none of its pixels is kept.
    """
    confusion = ConfusionMatrix(classes.num_classes)
    confusion.update(labels, truth.where(labels != IGNORE, IGNORE))  # only pixels with a label are scored
    found = confusion.scores(classes)
    occurring = [name for k, name in enumerate(classes.names) if (truth == k).any()]
    miou = sum(found.iou[name] or 0.0 for name in occurring) / len(occurring)
    return {"coverage": (labels != IGNORE).double().mean().item(), "accuracy": found.accuracy, "miou": miou}


def target_with_truth(config: Config, classes: ClassSet) -> ImageCache:
    """The target training images of a run with their labels."""
    dataset = build_dataset(replace(config.data.target, labelled=True), classes)
    return ImageCache(dataset, config.data.target.size, config.data.cache_mib)


@torch.no_grad()
def composites(run: Restored, target: ImageCache, thresholds: Tensor | None) -> Iterator:
    """SISC's labels of every target image, as the first round makes them."""
    for index in range(len(target.dataset)):
        image = torch.from_numpy(target.load(index, with_label=False)[0]).permute(2, 0, 1).unsqueeze(0)
        image = standardise(image.to(run.device)).contiguous(memory_format=torch.channels_last)
        with run.precision.autocast():
            yield run.method.composite(image, 0, index, thresholds)


def label_quality(work_dir: Path) -> dict:
    """Scores of a run's SISC labels at the coverage of its first round; kept in ``work_dir``."""
    path = work_dir / "labels.json"
    if not path.exists():
        run = restore(work_dir)
        config, classes = run.config, run.classes
        target = target_with_truth(config, classes)
        histogram = ConfidenceHistogram(classes.num_classes, BINS)
        for found in composites(run, target, None):
            histogram.counts += found.histogram.cpu()
        thresholds = run.method.thresholds(histogram, 0).clamp(min=1 / BINS)
        ranked = [(f.label.cpu(), f.confidence.cpu()) for f in composites(run, target, thresholds.to(run.device))]
        labels, quotients = (torch.cat([part.flatten() for part in parts]) for parts in zip(*ranked, strict=True))
        truth = torch.cat([torch.from_numpy(target.load(i)[1]).flatten() for i in range(len(target.dataset))])
        write_json(path, scores(best(labels, quotients, config.mlsl.portion), truth, classes))
    return json.loads(path.read_text())


def coverage(work_dir: Path) -> float:
    """Share of pixels that have a pseudo label in a run's last round."""
    labelled = [np.mean(np.asarray(Image.open(path)) != 255) for path in (work_dir / "pseudo_labels").glob("*.png")]
    if not labelled:
        raise ValueError(f"{work_dir} holds no pseudo labels")
    return float(np.mean(labelled))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    print(json.dumps(label_quality(parser.parse_args().work_dir), indent=1))
