"""Peak memory and time of one step of a method's main stage at its paper's sizes, on the CPU.

    python benchmarks/train/step_memory.py --method METHOD [--model resnet38] [--amp] [--checkpointing] [--output FILE]
    python benchmarks/train/step_memory.py --method sdca --form ours|usual [--covariance full|diag] [--output FILE]

The step has one image of each domain and runs in a process of its own, whose peak is VmHWM.  The network is ResNet-101
unless --model names another one (resnet38 is that of MLSL's paper).  The stage's preparation passes over small images
of noise, and CPSL's bank is filled, so that the step's state has its size in training; pseudo labels are random.

"usual" computes SDCA's class statistics in the field's usual form, with an N x K x A tensor of class-masked features
and one of their squared deviations, written from the formulas: it needs 14 GiB for one 1280x720 image.  Records without
a method are of SDCA.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import records
import torch
from pseudo_label_stream import MIB, resident
from run import machine
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.methods import build_method
from fastuda.methods.config import Recipe
from fastuda.methods.protocol import Method, Stage
from fastuda.nn.feature_bank import FeatureBank
from fastuda.nn.losses import resize_labels
from fastuda.ops.class_moments import Moments
from fastuda.train.config import task_config
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision, choose_precision
from fastuda.train.step import StepListener, TrainingStep

CLASSES = 19
# A record replaces an earlier one with the same values of these fields.
SETTINGS = ("method", "form", "covariance", "precision", "checkpointing", "model", "source", "target", "threads")
Size = tuple[int, int]  # height, width
PASS_SIZE: Size = (128, 256)  # of the images of a preparation


class Measured(NamedTuple):
    """The stage whose step is measured, and the sizes of its training images."""

    stage: str
    source: Size
    target: Size


PAPERS = {
    "sdca": Measured("adapt", (720, 1280), (512, 1024)),
    "spcl": Measured("contrast", (720, 1280), (512, 1024)),
    "cpsl": Measured("self_label", (512, 896), (512, 896)),
    "mlsl": Measured("round_1", (512, 512), (512, 512)),
    "drsl": Measured("round_1", (512, 512), (512, 512)),
    "drsl+": Measured("round_1", (512, 512), (512, 512)),
}


def usual_statistics(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (K, A) of pixels (P, A) with labels (P,) through N x K x A tensors."""
    onehot = F.one_hot(labels.long().clamp(max=CLASSES), CLASSES + 1)[:, :CLASSES].float()
    masked = features[:, None, :] * onehot[:, :, None]
    count = onehot.sum(0).clamp(min=1)[:, None]
    mean = masked.sum(0) / count
    deviation = (masked - mean) * onehot[:, :, None]
    return mean, deviation.square().sum(0) / count


def use_usual_statistics(method: Method) -> None:
    """Make SDCA compute its feature statistics in the usual form as well."""
    ours = method.feature_statistics.moments

    def moments(features: Tensor, labels: Tensor) -> Moments:
        with torch.no_grad():
            usual_statistics(features.movedim(1, -1).flatten(0, -2).float(), labels.flatten())
        return ours(features, labels)

    method.feature_statistics.moments = moments


def batch(size: Size, labelled: float) -> Batch:
    """One image of noise with blocks of random labels on a share ``labelled`` of its pixels; 0: without labels."""
    images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(0, CLASSES, (1, max(size[0] // 40, 1), max(size[1] // 40, 1)), dtype=torch.uint8)
    blocks[torch.rand(blocks.shape) >= labelled] = 255
    labels = resize_labels(blocks, size) if labelled else None
    return Batch(images, labels, torch.zeros(1, dtype=torch.int64))


class SmallPasses:
    """fastuda.methods.protocol.Passes over one small image of noise of each domain; nothing is saved."""

    target_images = 1

    def source(self) -> Iterator[Batch]:
        cells = torch.arange(PASS_SIZE[0] // 8 * (PASS_SIZE[1] // 8)) % CLASSES
        labels = resize_labels(cells.to(torch.uint8).view(1, PASS_SIZE[0] // 8, -1), PASS_SIZE)
        yield Batch(torch.randn(1, 3, *PASS_SIZE), labels, torch.zeros(1, dtype=torch.int64))

    def target(self) -> Iterator[Batch]:
        yield Batch(torch.randn(1, 3, *PASS_SIZE), None, torch.zeros(1, dtype=torch.int64))

    def save_pseudo_labels(self, index: Tensor, labels: Tensor) -> None:
        pass

    def save_scores(self, index: Tensor, scores: Tensor) -> None:
        pass


@torch.no_grad()
def prepare(method: Method, stage: Stage, target: Batch) -> Batch:
    """Run the stage's preparation on small images and fill feature banks; the target batch, with scores if used.

    With small images the preparation needs less memory than the step, which is to be measured.
    """
    method.eval()
    method.prepare(stage, SmallPasses())
    for bank in (module for module in method.modules() if isinstance(module, FeatureBank)):
        # In parts, since all rows at once would need more memory than the step.
        for first in range(0, bank.size, 1024):
            rows = min(1024, bank.size - first)
            bank.insert(F.normalize(torch.randn(rows, bank.channels), dim=1))
    method.train()
    if not stage.target.scores:
        return target
    # Saved scores are of the whole image: 512x1024 at stride 8.
    return replace(target, scores=torch.randn(1, CLASSES, 64, 128).softmax(1).half())


class Losses(StepListener):
    """Keeps the losses of a step as numbers."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def computed(self, losses: dict[str, dict[str, Tensor]]) -> None:
        for terms in losses.values():
            self.values |= {name: round(loss.item(), 5) for name, loss in terms.items()}


def step(stage: Stage, precision: Precision, source: Batch, target: Batch) -> dict[str, float]:
    """The first step of a stage, as the trainer takes it; its losses."""
    losses = Losses()
    taken = TrainingStep(stage, Optimisers(stage, precision, {}), precision, listener=losses)
    taken.take(0, iter([(source, target)]))
    return losses.values


def measure(recipe: Recipe, sizes: Measured, precision: Precision, usual: bool = False) -> dict:
    """Peak MiB of this process, MiB before the step, its seconds and its losses.

    Raises ValueError where a loss is not finite.
    """
    torch.manual_seed(0)
    method = build_method(recipe, CLASSES)
    if usual:
        use_usual_statistics(method)
    stage = next(stage for stage in method.stages() if stage.name == sizes.stage)
    # In the last round half of the pixels have a pseudo label.
    pseudo = 0.5 if stage.target.labels == "pseudo" else 0.0
    source, target = batch(sizes.source, 1.0), prepare(method, stage, batch(sizes.target, pseudo))
    before, start = resident("VmRSS"), time.perf_counter()
    losses = step(stage, precision, source, target)
    seconds = time.perf_counter() - start
    if not all(map(math.isfinite, losses.values())):
        raise ValueError(f"a loss is not finite: {losses}")
    return {
        "source": sizes.source,
        "target": sizes.target,
        "peak_mib": round(resident("VmHWM") / MIB),
        "before_step_mib": round(before / MIB),
        "seconds": round(seconds, 1),
        "losses": losses,
    }


def papers_recipe(options: argparse.Namespace) -> Recipe:
    """The method's recipe for GTA5 and Cityscapes by the preset "paper", with the options' network."""
    recipe = task_config("gta5_cityscapes", options.method)
    model = replace(recipe.model, name=options.model, checkpointing=options.checkpointing)
    # An untrained network is confident of no pixel: use every target pixel.
    sdca = replace(recipe.sdca, covariance=options.covariance, confidence=0.0)
    # A step does not depend on the number of patches, and the preparation takes as long as they are many.
    return replace(recipe, model=model, sdca=sdca, mlsl=replace(recipe.mlsl, patches=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(PAPERS), default="sdca")
    parser.add_argument("--model", default="deeplab_resnet101")
    parser.add_argument("--form", choices=("ours", "usual"), default="ours", help="of SDCA's statistics")
    parser.add_argument("--covariance", choices=("full", "diag"), default="diag", help="SDCA's")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--output", type=records.output, help="put the record into this JSON list")
    options = parser.parse_args()
    if options.form == "usual" and options.method != "sdca":
        parser.error("--form usual needs --method sdca")
    precision = choose_precision(torch.device("cpu"), options.amp)
    figures = measure(papers_recipe(options), PAPERS[options.method], precision, options.form == "usual")
    record = {
        "method": options.method,
        "stage": PAPERS[options.method].stage,
        "form": options.form,
        **({"covariance": options.covariance} if options.method == "sdca" else {}),
        "precision": precision.reason,
        "checkpointing": options.checkpointing,
        "model": options.model,
        **figures,
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    print(json.dumps(record, indent=1))
    if options.output:
        records.keep(options.output, record, SETTINGS)


if __name__ == "__main__":
    main()
