"""pseudo_labels and select_balanced from stride-8 logits of one picture: uint8 labels, with confidences.

pytest benchmarks/ops/test_pseudo_labels.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, label_counts, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import pseudo_labels, select_balanced
from fastuda.reference.pseudo_labels import pseudo_labels as reference

CLASSES = 19


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    balanced: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def size(self) -> tuple[int, int]:
        return 8 * self.height, 8 * self.width

    @property
    def pixels(self) -> int:
        return 64 * self.height * self.width


CASES = {
    "smoke": {"72x104": Case(9, 13), "72x104 balanced": Case(9, 13, True)},
    "quick": {"720x1280": Case(90, 160), "720x1280 balanced": Case(90, 160, True)},
    "full": {
        "720x1280": Case(90, 160),
        "720x1280 balanced": Case(90, 160, True),
        "720x1280 bf16": Case(90, 160, dtype=torch.bfloat16),
        "1024x2048": Case(128, 256),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, unused labels, and the classes' thresholds."""
    on = {"generator": generator, "device": generator.device}
    scores = 3 * torch.randn(1, CLASSES, case.height, case.width, **on)
    labels = torch.randint(0, CLASSES + 1, (64, 64), **on, dtype=torch.uint8)
    thresholds = 0.2 + 0.6 * torch.rand(CLASSES, **on)
    return scores.to(case.dtype), labels.where(labels < CLASSES, 255), thresholds


def work(case: Case, direction: str) -> Work:
    """Scores are read once; a lerp, an exponential (about 10 operations), a sum and comparison per class and pixel."""
    read = case.height * case.width * CLASSES * case.dtype.itemsize
    return Work(read, 5 * case.pixels, 15 * case.pixels * CLASSES, torch.float32)


def usual_of(case: Case) -> Callable:
    """The usual form: upsample, softmax, maximum, compare."""

    def usual(scores: Tensor, labels: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        up = F.interpolate(scores.to(dtype), size=case.size, mode="bilinear", align_corners=True)
        p, least = up.softmax(1), thresholds.to(dtype)
        if case.balanced:
            label = (p / least.view(-1, 1, 1)).argmax(1)
            confidence = p.gather(1, label.unsqueeze(1)).squeeze(1)
        else:
            confidence, label = p.max(1)
        return label.where(confidence >= least[label], 255).to(torch.uint8), confidence

    return usual


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    return results(usual_of(case)(inputs[0].double(), *inputs[1:])), None


def results(output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    label, confidence = output
    return label_counts(label), confidence.where(label != 255, 0)


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    def operator(scores: Tensor, labels: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        options = {"size": case.size, "return_confidence": True}
        if case.balanced:
            return tuple(select_balanced(scores, thresholds, **options))
        return tuple(pseudo_labels(scores, threshold=thresholds, **options))

    def definition(scores: Tensor, labels: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        return reference(scores, thresholds, *case.size, False, case.balanced, True, True)

    usual = usual_of(case)
    found = ours("pseudo_labels", operator, device_type)
    return found | {"reference": definition, "usual": usual, "compile": compiled(usual)}


OPERATOR = Operator(
    name="pseudo_labels",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    results=results,
    names=("cpu", "cuda", "triton", "reference", "usual", "compile"),
    tolerance=5e-3,  # one pixel in thousands may change its class or bin
)


def test_pseudo_labels(measure):
    measure(OPERATOR)
