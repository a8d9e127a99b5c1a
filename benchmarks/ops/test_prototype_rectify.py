"""prototype_rectify from stride-8 scores and stored stride-8 soft labels of one picture.

pytest benchmarks/ops/test_prototype_rectify.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, label_counts, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import prototype_rectify
from fastuda.reference.prototype_rectify import prototype_rectify as reference

CLASSES, TEMPERATURE = 19, 0.5


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    stored: torch.dtype = torch.float32

    @property
    def size(self) -> tuple[int, int]:
        return 8 * self.height, 8 * self.width

    @property
    def pixels(self) -> int:
        return 64 * self.height * self.width


CASES = {
    "smoke": {"72x104": Case(9, 13)},
    "quick": {"720x1280": Case(90, 160)},
    "full": {
        "720x1280": Case(90, 160),
        "720x1280 fp16 soft labels": Case(90, 160, torch.float16),
        "1024x2048": Case(128, 256),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, unused labels, and soft labels."""
    on = {"generator": generator, "device": generator.device}
    shape = 1, CLASSES, case.height, case.width
    labels = torch.randint(0, CLASSES + 1, (64, 64), **on, dtype=torch.uint8)
    soft = torch.randn(shape, **on).softmax(1).to(case.stored)
    return torch.randn(shape, **on), labels.where(labels < CLASSES, 255), soft


def work(case: Case, direction: str) -> Work:
    """Both are read once; two lerps, a logarithm (about 12 operations), a sum and comparison per class and pixel."""
    read = case.height * case.width * CLASSES * (4 + case.stored.itemsize)
    return Work(read, case.pixels, 19 * case.pixels * CLASSES)


def usual_of(case: Case) -> Callable:
    """The usual form: the product of two volumes of full resolution."""

    def usual(scores: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        dtype = torch.promote_types(scores.dtype, torch.float32)
        up, share = (
            F.interpolate(x.to(dtype), size=case.size, mode="bilinear", align_corners=True) for x in (scores, soft)
        )
        return ((up / TEMPERATURE).softmax(1) * share).argmax(1).to(torch.uint8)

    return usual


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    return results(usual_of(case)(inputs[0].double(), *inputs[1:])), None


def results(output: Tensor) -> tuple[Tensor]:
    return (label_counts(output),)


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    def operator(scores: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        return prototype_rectify(scores, soft, size=case.size, temperature=TEMPERATURE)

    def definition(scores: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        return reference(scores, soft, *case.size, TEMPERATURE, True)

    usual = usual_of(case)
    found = ours("prototype_rectify", operator, device_type)
    return found | {"reference": definition, "usual": usual, "compile": compiled(usual)}


OPERATOR = Operator(
    name="prototype_rectify",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    results=results,
    names=("cpu", "cuda", "triton", "reference", "usual", "compile"),
    tolerance=5e-3,  # a pixel of a small picture
)


def test_prototype_rectify(measure):
    measure(OPERATOR)
