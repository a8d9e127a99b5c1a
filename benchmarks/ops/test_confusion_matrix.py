"""confusion_matrix of 19 classes on label maps of scenes and on noise, beside bincount and torchmetrics.

pytest benchmarks/ops/test_confusion_matrix.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import confusion_matrix
from fastuda.reference.confusion_matrix import confusion_matrix as definition

CLASSES = 19


@dataclass(frozen=True)
class Case:
    """dtype: of the prediction, int64 as argmax returns it; labels are uint8. noise: independent pixels."""

    height: int
    width: int
    dtype: torch.dtype = torch.uint8
    noise: bool = False


CASES = {
    "smoke": {"scene": Case(48, 80), "noise int64": Case(48, 80, torch.int64, True)},
    "quick": {"scene 1024 x 2048": Case(1024, 2048), "noise 1024 x 2048": Case(1024, 2048, noise=True)},
    "full": {
        "scene 1024 x 2048": Case(1024, 2048),
        "scene 1024 x 2048 int64": Case(1024, 2048, torch.int64),
        "noise 1024 x 2048": Case(1024, 2048, noise=True),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prediction and truth, a tenth ignored: blobs of some tenths of the picture that agree but for their edges."""
    on = {"generator": generator, "device": generator.device}
    shape = (1, case.height, case.width)
    if case.noise:
        prediction, truth = torch.randint(0, CLASSES, (2, *shape), **on, dtype=torch.uint8)
    else:
        low = torch.rand(1, CLASSES, 12, 20, **on)
        prediction, truth = (
            torch.nn.functional.interpolate(x, shape[1:], mode="bilinear").argmax(1).to(torch.uint8)
            for x in (low + 0.1 * torch.rand(low.shape, **on), low)
        )
    truth[:, case.height - case.height // 10 :] = 255
    return prediction.to(case.dtype), truth


def work(case: Case, direction: str) -> Work:
    """Both maps are read once, with one addition for each pixel."""
    pixels = case.height * case.width
    return Work(pixels * (case.dtype.itemsize + 1), 8 * CLASSES**2, pixels)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    return (definition(*inputs, CLASSES).double(),), None


def operator(prediction: Tensor, target: Tensor) -> Tensor:
    return confusion_matrix(prediction, target, CLASSES)


def plain(prediction: Tensor, target: Tensor) -> Tensor:
    return definition(prediction, target, CLASSES)


def usual(prediction: Tensor, target: Tensor) -> Tensor:
    """fast_hist of the segmentation literature: mask, combine, bincount."""
    valid = target < CLASSES
    index = target[valid].long() * CLASSES + prediction[valid]
    return torch.bincount(index, minlength=CLASSES**2).view(CLASSES, CLASSES)


def torchmetrics_form(validate: bool) -> Callable | UnavailableError:
    """torchmetrics' functional form; by default it checks the values, which needs labels of at least 16 bits."""
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix
    except ImportError:
        return UnavailableError("torchmetrics is not installed")

    def form(prediction: Tensor, target: Tensor) -> Tensor:
        return multiclass_confusion_matrix(
            prediction.long(), target.long(), CLASSES, ignore_index=255, validate_args=validate
        )

    return form


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("confusion_matrix", operator, device_type)
    found |= {"reference": plain, "compile": compiled(plain), "usual": usual}
    return found | {"torchmetrics": torchmetrics_form(True), "torchmetrics_unchecked": torchmetrics_form(False)}


OPERATOR = Operator(
    name="confusion_matrix",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    names=("cpu", "cuda", "triton", "reference", "compile", "usual", "torchmetrics", "torchmetrics_unchecked"),
)


def test_confusion_matrix(measure):
    measure(OPERATOR)
