"""class_thresholds: the medians of 19 classes' confidences over a picture, beside quantiles, sorts and NumPy.

pytest benchmarks/ops/test_class_thresholds.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import class_thresholds
from fastuda.reference.class_thresholds import class_thresholds as definition

CLASSES = 19


@dataclass(frozen=True)
class Case:
    """sure: confidences as of a trained network, most of them near 1, instead of uniform ones."""

    pixels: int
    sure: bool = False
    dtype: torch.dtype = torch.float32


CASES = {
    "smoke": {"even": Case(4000), "sure": Case(4000, True)},
    "quick": {"even N=2097152": Case(1024 * 2048), "sure N=2097152": Case(1024 * 2048, True)},
    "full": {
        "even N=2097152": Case(1024 * 2048),
        "sure N=2097152": Case(1024 * 2048, True),
        "sure N=2097152 bf16": Case(1024 * 2048, True, torch.bfloat16),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Confidences and uint8 labels of unequal classes, of which a tenth is ignored."""
    on = {"generator": generator, "device": generator.device}
    share = torch.linspace(1.0, 6.0, CLASSES, device=generator.device).square()
    label = torch.multinomial(share, case.pixels, replacement=True, generator=generator).to(torch.uint8)
    label[torch.rand(case.pixels, **on) < 0.1] = 255
    confidence = torch.rand(case.pixels, **on)
    if case.sure:
        confidence = torch.sigmoid(6 * torch.randn(case.pixels, **on).abs())
    return confidence.to(case.dtype), label


def work(case: Case, direction: str) -> Work:
    """Confidences and labels are read once, with one comparison each."""
    return Work(case.pixels * (case.dtype.itemsize + 1), 4 * CLASSES, case.pixels)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    return (definition(*inputs, CLASSES, 0.5, False, 255).double(),), None


def operator(confidence: Tensor, label: Tensor) -> Tensor:
    return class_thresholds(confidence, label, CLASSES)


def plain(confidence: Tensor, label: Tensor) -> Tensor:
    return definition(confidence, label, CLASSES, 0.5, False, 255)


def usual(confidence: Tensor, label: Tensor) -> Tensor:
    """torch.quantile of each class."""
    by_class = (confidence[label == k].float() for k in range(CLASSES))
    return torch.stack([torch.quantile(c, 0.5, interpolation="lower") for c in by_class])


def sort(confidence: Tensor, label: Tensor) -> Tensor:
    """CBST's form: sort the confidences of each class and take the one at the portion."""
    by_class = (confidence[label == k].float().sort().values for k in range(CLASSES))
    return torch.stack([c[(len(c) - 1) // 2] for c in by_class])


def numpy_form(device_type: str, dtype: torch.dtype) -> Callable | UnavailableError:
    """A partition of each class, as numpy.median makes it."""
    if device_type != "cpu" or dtype == torch.bfloat16:
        return UnavailableError("NumPy runs on a CPU and has no bfloat16")
    import numpy as np

    def form(confidence: Tensor, label: Tensor) -> Tensor:
        values, labels = confidence.numpy(), label.numpy()
        by_class = (values[labels == k] for k in range(CLASSES))
        return torch.stack([torch.tensor(np.partition(c, (len(c) - 1) // 2)[(len(c) - 1) // 2]) for c in by_class])

    return form


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("class_thresholds", operator, device_type)
    found |= {"reference": plain, "compile": compiled(plain), "usual": usual, "sort": sort}
    return found | {"numpy": numpy_form(device_type, case.dtype)}


OPERATOR = Operator(
    name="class_thresholds",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    names=("cpu", "cuda", "triton", "reference", "compile", "usual", "sort", "numpy"),
)


def test_class_thresholds(measure):
    measure(OPERATOR)
