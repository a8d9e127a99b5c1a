"""class_balanced_sample and sample_per_class beside the loop over images and classes.

pytest benchmarks/ops/test_class_balanced_sample.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import class_balanced_sample as _  # noqa: F401  (defines the raw operators)
from fastuda.reference import class_balanced_sample as reference

CLASSES = 19


@dataclass(frozen=True)
class Case:
    """per_class: ``wanted`` pixels of each class (DRSL) instead of ``wanted`` pixels by the classes' shares (CPSL)."""

    images: int
    pixels: int
    wanted: int
    per_class: bool = False

    @property
    def operator(self) -> str:
        return "sample_per_class" if self.per_class else "class_balanced_sample"


TRAINING = {
    "by share 4 x 90 x 160, 512": Case(4, 90 * 160, 512),
    "per class 4 x 90 x 160, 32": Case(4, 90 * 160, 32, True),
}
CASES = {
    "smoke": {"by share": Case(2, 700, 64), "per class": Case(2, 700, 8, True)},
    "quick": TRAINING,
    "full": TRAINING | {"by share 2 x 512 x 1024, 2048": Case(2, 512 * 1024, 2048)},
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A seed, and independent uint8 labels of which a tenth is ignored."""
    on = {"generator": generator, "device": generator.device}
    labels = torch.randint(0, CLASSES, (case.images, case.pixels), **on, dtype=torch.uint8)
    labels[torch.rand(labels.shape, **on) < 0.1] = 255
    return torch.randint(0, 1 << 32, (2,), **on), labels


def work(case: Case, direction: str) -> Work:
    """Labels are read once, one random number is made for each pixel (12 operations), the drawn pixels are written."""
    pixels, drawn = case.images * case.pixels, case.images * case.wanted * (CLASSES if case.per_class else 1)
    return Work(pixels, 8 * drawn, 12 * pixels)


def numbers(drawn: Tensor) -> Sequence[Tensor]:
    """The number of drawn pixels; which pixels are drawn is random, so they are not compared."""
    return ((drawn >= 0).sum(-1),)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    sizes = torch.nn.functional.one_hot(inputs[1].long().clamp(max=CLASSES), CLASSES + 1).sum(1)[:, :-1].double()
    return ((sizes if case.per_class else sizes.sum(1)).clamp(max=case.wanted),), None


def loop_by_share(seed: Tensor, labels: Tensor, wanted: int) -> Tensor:
    """CPSL Eq. 8-9 as written: a random part of each class in each image, then random pixels of the rest."""
    result = torch.full((len(labels), wanted), -1, device=labels.device)
    for row, image in zip(result, labels, strict=True):
        valid = (image < CLASSES).nonzero().flatten()
        left = image < CLASSES
        drawn = []
        for c in range(CLASSES):
            pixels = (image == c).nonzero().flatten()
            part = pixels[
                torch.randperm(len(pixels), device=pixels.device)[: wanted * len(pixels) // max(1, len(valid))]
            ]
            left[part] = False
            drawn.append(part)
        rest = left.nonzero().flatten()
        missing = min(wanted, len(valid)) - sum(map(len, drawn))
        drawn.append(rest[torch.randperm(len(rest), device=rest.device)[:missing]])
        found = torch.cat(drawn).sort().values
        row[: len(found)] = found
    return result


def loop_per_class(seed: Tensor, labels: Tensor, wanted: int) -> Tensor:
    result = torch.full((len(labels), CLASSES, wanted), -1, device=labels.device)
    for rows, image in zip(result, labels, strict=True):
        for c in range(CLASSES):
            pixels = (image == c).nonzero().flatten()
            found = pixels[torch.randperm(len(pixels), device=pixels.device)[:wanted]].sort().values
            rows[c, : len(found)] = found
    return result


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    raw, definition = getattr(torch.ops.fastuda, case.operator), getattr(reference, case.operator)
    loop = loop_per_class if case.per_class else loop_by_share

    def operator(seed: Tensor, labels: Tensor) -> Tensor:
        return raw(labels, seed, CLASSES, case.wanted, 255)

    def plain(seed: Tensor, labels: Tensor) -> Tensor:
        return definition(labels, seed, CLASSES, case.wanted, 255)

    def usual(seed: Tensor, labels: Tensor) -> Tensor:
        return loop(seed, labels, case.wanted)

    found = ours(case.operator, operator, device_type)
    return found | {"reference": plain, "compile": compiled(plain), "usual": usual}


OPERATOR = Operator(
    name="class_balanced_sample",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    results=numbers,
    names=("cpu", "cuda", "triton", "reference", "compile", "usual"),
)


def test_class_balanced_sample(measure):
    measure(OPERATOR)
