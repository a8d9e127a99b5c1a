"""pixel_mean: the mean of a loss over the pixels that count, and their number, beside PyTorch's own operators.

pytest benchmarks/ops/test_pixel_mean.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.reference.pixel_mean import pixel_mean as definition

CLASSES = 19


@dataclass(frozen=True)
class Case:
    images: int
    height: int
    width: int
    label_dtype: torch.dtype = torch.uint8

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width


CASES = {
    "smoke": {"N=494": Case(2, 13, 19)},
    "quick": {"N=14400": Case(1, 90, 160)},
    "full": {"N=115200": Case(8, 90, 160), "N=7372800 int64": Case(8, 720, 1280, torch.int64)},
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Losses and labels, of which a tenth is ignored."""
    on = {"generator": generator, "device": generator.device}
    shape = (case.images, case.height, case.width)
    labels = torch.randint(0, CLASSES, shape, **on)
    labels[torch.rand(shape, **on) < 0.1] = 255
    return torch.randn(shape, **on).exp(), labels.to(case.label_dtype)


def work(case: Case, direction: str) -> Work:
    """Losses and labels are read once, with one addition and one comparison for each pixel."""
    return Work(case.pixels * (4 + case.label_dtype.itemsize), 12, 2 * case.pixels)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    losses, labels = inputs
    return (definition(losses.double(), None, labels, CLASSES, 255, True)[0],), None


def operator(losses: Tensor, labels: Tensor) -> Tensor:
    return torch.ops.fastuda.pixel_mean(losses, None, labels, CLASSES, 255, True)[0]


def plain(losses: Tensor, labels: Tensor) -> Tensor:
    return definition(losses, None, labels, CLASSES, 255, True)[0]


def usual(losses: Tensor, labels: Tensor) -> Tensor:
    """A mask, its sum and a quotient."""
    valid = labels < CLASSES
    return losses.where(valid, 0.0).sum() / valid.sum().clamp(min=1)


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("pixel_mean", operator, device_type)
    return found | {"reference": plain, "compile": compiled(plain), "usual": usual}


OPERATOR = Operator(
    name="pixel_mean",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    names=("cpu", "cuda", "triton", "reference", "compile", "usual"),
)


def test_pixel_mean(measure):
    measure(OPERATOR)
