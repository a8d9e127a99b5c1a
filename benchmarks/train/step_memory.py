"""Peak memory and time of one SDCA step of ResNet-101 at the papers' sizes, on the CPU.

    python benchmarks/train/step_memory.py --form ours|usual [--covariance full|diag] [--amp] [--output FILE]

Each form runs in a process of its own (peak = VmHWM).  "usual" computes the class statistics of the same features as
the field does, by an N x K x A tensor of class-masked features and one of their squared deviations; it is written
from the formulas and takes its memory truthfully, so expect 14 GiB for one 1280x720 image.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.methods import build_method
from fastuda.methods.config import Recipe, SDCAConfig
from fastuda.models.config import ModelConfig
from fastuda.nn.losses import resize_labels
from fastuda.train.meter import peak_mib
from fastuda.train.precision import choose_precision

CLASSES = 19
SOURCE, TARGET = (720, 1280), (512, 1024)


def usual_statistics(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (K, A) of pixels (P, A) with labels (P,) through N x K x A tensors."""
    onehot = torch.nn.functional.one_hot(labels.long().clamp(max=CLASSES), CLASSES + 1)[:, :CLASSES].float()
    masked = features[:, None, :] * onehot[:, :, None]
    count = onehot.sum(0).clamp(min=1)[:, None]
    mean = masked.sum(0) / count
    deviation = (masked - mean) * onehot[:, :, None]
    return mean, deviation.square().sum(0) / count


def batch(size: tuple[int, int], labelled: bool) -> Batch:
    images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(0, CLASSES, (1, size[0] // 40, size[1] // 40), dtype=torch.uint8)
    labels = resize_labels(blocks, size)
    return Batch(images, labels if labelled else None, torch.zeros(1, dtype=torch.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("ours", "usual"), default="ours")
    parser.add_argument("--covariance", choices=("full", "diag"), default="diag")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--output", type=Path, help="append the record to this JSON list")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cpu")
    model = ModelConfig(name="deeplab_resnet101", norm="frozen", checkpointing=options.checkpointing)
    recipe = Recipe(model=model, sdca=SDCAConfig(covariance=options.covariance, confidence=0.0))
    method = build_method(recipe, CLASSES).train()
    precision = choose_precision(device, options.amp)
    if options.form == "usual":
        ours = method.feature_statistics.update

        def update(features: Tensor, labels: Tensor) -> None:
            with torch.no_grad():
                usual_statistics(features.movedim(1, -1).flatten(0, -2).float(), labels.flatten())
            ours(features, labels)

        method.feature_statistics.update = update
    stage = method.stages()[1]
    optimiser = stage.optimisers()["network"]
    source, target = batch(SOURCE, True), batch(TARGET, False)
    before, start = peak_mib(device), time.perf_counter()
    parts = stage.step(source, target)
    losses = {}
    while True:
        with precision.autocast():
            part = next(parts, None)
        if part is None:
            break
        sum(part["network"].values()).backward()
        losses |= {name: round(loss.item(), 5) for name, loss in part["network"].items()}
    optimiser.step()
    record = {
        "form": options.form,
        "covariance": options.covariance,
        "precision": precision.reason,
        "checkpointing": options.checkpointing,
        "model": "deeplab_resnet101",
        "source": SOURCE,
        "target": TARGET,
        "peak_mib": round(peak_mib(device)),
        "before_step_mib": round(before),
        "seconds": round(time.perf_counter() - start, 1),
        "threads": torch.get_num_threads(),
        "losses": losses,
    }
    print(json.dumps(record, indent=1))
    if options.output:
        records = json.loads(options.output.read_text()) if options.output.exists() else []
        options.output.write_text(json.dumps([*records, record], indent=1) + "\n")


if __name__ == "__main__":
    main()
