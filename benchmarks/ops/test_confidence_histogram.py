"""confidence_histogram of the predictions of one picture from stride-8 logits.

pytest benchmarks/ops/test_confidence_histogram.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import confidence_histogram
from fastuda.reference.confidence_histogram import confidence_histogram as reference

CLASSES, BINS = 19, 1024


@dataclass(frozen=True)
class Case:
    """sure: logits as of a trained network: neighbours agree, and most are nearly certain."""

    height: int
    width: int
    sure: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return 8 * self.height, 8 * self.width

    @property
    def pixels(self) -> int:
        return 64 * self.height * self.width


CASES = {
    "smoke": {"72x104": Case(9, 13)},
    "quick": {"720x1280": Case(90, 160), "720x1280 sure": Case(90, 160, True)},
    "full": {"720x1280": Case(90, 160), "720x1280 sure": Case(90, 160, True), "1024x2048": Case(128, 256)},
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits, and unused labels."""
    on = {"generator": generator, "device": generator.device}
    scores = 3 * torch.randn(1, CLASSES, case.height, case.width, **on)
    if case.sure:
        coarse = 12 * torch.randn(1, CLASSES, 9, 16, **on)
        scores = scores + F.interpolate(coarse, size=scores.shape[2:], mode="bilinear")
    labels = torch.randint(0, CLASSES + 1, (64, 64), **on, dtype=torch.uint8)
    return scores, labels.where(labels < CLASSES, 255)


def work(case: Case, direction: str) -> Work:
    """Scores are read once; a lerp, an exponential (about 10 operations), a sum and comparison per class and pixel."""
    read = 4 * case.height * case.width * CLASSES
    return Work(read, 8 * CLASSES * BINS, 15 * case.pixels * CLASSES)


def usual_of(case: Case) -> Callable:
    """Upsample, softmax, maximum, and a histogram of each class's own confidences."""

    def usual(scores: Tensor, labels: Tensor) -> Tensor:
        up = F.interpolate(scores, size=case.size, mode="bilinear", align_corners=True)
        confidence, label = up.softmax(1).max(1)
        histograms = [torch.histc(confidence[label == k], BINS, 0, 1) for k in range(CLASSES)]
        return torch.stack(histograms).long()

    return usual


def counted(case: Case) -> Callable:
    """The fastest short rewrite: one bincount of class and bin together."""

    def form(scores: Tensor, labels: Tensor) -> Tensor:
        up = F.interpolate(scores, size=case.size, mode="bilinear", align_corners=True)
        confidence, label = up.softmax(1).max(1)
        place = label * BINS + (confidence * BINS).long().clamp(max=BINS - 1)
        return torch.bincount(place.flatten(), minlength=CLASSES * BINS).view(CLASSES, BINS)

    return form


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    return results(counted(case)(inputs[0].double(), inputs[1])), None


def results(output: Tensor) -> tuple[Tensor]:
    """Pixels below each bin, so that a pixel that moves to the next bin changes little."""
    return (output.double().cumsum(1),)


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    def operator(scores: Tensor, labels: Tensor) -> Tensor:
        return confidence_histogram(scores, size=case.size, bins=BINS)

    def definition(scores: Tensor, labels: Tensor) -> Tensor:
        return reference(scores, *case.size, BINS, False, True)

    found = ours("confidence_histogram", operator, device_type)
    found |= {"reference": definition, "usual": usual_of(case), "bincount": counted(case)}
    return found | {"compile": compiled(definition)}


OPERATOR = Operator(
    name="confidence_histogram",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    results=results,
    names=("cpu", "cuda", "triton", "reference", "usual", "bincount", "compile"),
    tolerance=5e-3,  # in a small picture
)


def test_confidence_histogram(measure):
    measure(OPERATOR)
