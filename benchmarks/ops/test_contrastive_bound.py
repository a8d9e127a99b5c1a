"""contrastive_bound, normalised, tau = 100, 19 classes: forward, backward and both.

pytest benchmarks/ops/test_contrastive_bound.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from _measure import Operator, UnavailableError, compiled, fits, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import contrastive_bound
from fastuda.reference.contrastive_bound import contrastive_bound as formula

CLASSES, TAU = 19, 100.0
IGNORED = 0.1  # share of the pixels
TRUTH_ROWS = 4096  # pixels at a time, which bounds the intermediates of the float64 truth


@dataclass(frozen=True)
class Case:
    images: int
    height: int
    width: int
    channels: int
    covariance: Literal["diag", "full"] | None = "diag"
    dtype: torch.dtype = torch.float32

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width


CASES = {
    "smoke": {
        "diag A=19 N=247": Case(1, 13, 19, 19),
        "None A=19 N=247": Case(1, 13, 19, 19, None),
        "full A=17 N=247": Case(1, 13, 19, 17, "full"),
    },
    "quick": {
        "diag A=256 N=14400": Case(1, 90, 160, 256),
        "None A=256 N=14400": Case(1, 90, 160, 256, None),
        "full A=256 N=3600": Case(1, 45, 80, 256, "full"),
    },
    "full": {
        "diag A=256 N=115200": Case(8, 90, 160, 256),
        "diag A=2048 N=14400": Case(1, 90, 160, 2048),
        "diag A=256 N=115200 bf16": Case(8, 90, 160, 256, dtype=torch.bfloat16),
        "None A=256 N=115200": Case(8, 90, 160, 256, None),
        "full A=256 N=115200": Case(8, 90, 160, 256, "full"),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple:
    """channels_last features, uint8 labels of which a tenth is ignored, and each class's mean and covariance."""
    on = {"generator": generator, "device": generator.device}
    shape = (case.images, case.height, case.width)
    q = torch.randn(*shape, case.channels, **on).to(case.dtype).permute(0, 3, 1, 2)
    labels = torch.randint(0, CLASSES, shape, **on, dtype=torch.uint8)
    labels[torch.rand(shape, **on) < IGNORED] = 255
    mean = torch.randn(CLASSES, case.channels, **on)
    statistics: tuple = (mean,)
    if case.covariance == "diag":
        statistics += (torch.rand(CLASSES, case.channels, **on),)
    elif case.covariance == "full":
        scale, direction = torch.rand(CLASSES, case.channels, **on), torch.randn(CLASSES, case.channels, **on)
        statistics += (torch.diag_embed(scale) + direction.unsqueeze(2) * direction.unsqueeze(1) / case.channels,)
    return (q.requires_grad_(), labels, *statistics)


def work(case: Case, direction: str) -> Work:
    """q read once, its gradient written once; two products of K x A a direction, or of a full covariance its triangle
    forward and all of it backward, which gives the form's value too. Ignored pixels need no product.
    """
    n, a, k = case.pixels, case.channels, CLASSES
    products = {"diag": (4 * a, 4 * a, 8 * a), "full": (a * a + 2 * a, 2 * a * a + 2 * a, 2 * a * a + 6 * a)}
    products[None] = (2 * a, 2 * a, 4 * a)
    forward, backward, both = ((1 - IGNORED) * n * k * x for x in products[case.covariance])
    statistics = 4 * k * a * {"diag": 2, "full": 1 + a, None: 1}[case.covariance]
    read = n * (a * case.dtype.itemsize + 1) + statistics
    written = n * 4 if direction == "forward" else n * a * case.dtype.itemsize
    flops = {"forward": forward, "backward": backward, "both": both}[direction]
    return Work(read, written, flops, case.dtype)


def pixel_rows(q: Tensor) -> Tensor:
    return q.permute(0, 2, 3, 1).flatten(0, 2)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    """The definition under autograd in float64, some pixels at a time: their losses do not depend on each other."""
    q, labels, *statistics = inputs
    statistics = [s.double() for s in statistics]
    labels, valid, total, slopes = labels.flatten(), (labels < CLASSES).sum().clamp(min=1), 0.0, []
    for part, y in zip(pixel_rows(q.detach()).split(TRUTH_ROWS), labels.split(TRUTH_ROWS), strict=True):
        part = part.double().requires_grad_()
        covariance = statistics[1] if len(statistics) > 1 else None
        loss = formula(part, y, statistics[0], covariance, TAU, True).sum() / valid
        slopes.append(torch.autograd.grad(loss, part)[0])
        total = total + loss.detach()
    slope = torch.cat(slopes).view(case.images, case.height, case.width, -1).permute(0, 3, 1, 2)
    return (total,), slope


def operator(q: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None = None) -> Tensor:
    return contrastive_bound(q, labels, mean, covariance, temperature=TAU, normalize=True)


def definition(q: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None = None) -> Tensor:
    """This package's differentiable formula under autograd, all pixels at once."""
    loss = formula(pixel_rows(q), labels.flatten(), mean, covariance, TAU, True)
    return loss.sum() / (labels < CLASSES).sum().clamp(min=1)


def mean_loss(first: Tensor, second: Tensor | float, labels: Tensor) -> Tensor:
    target = labels.flatten().long()
    valid = target < CLASSES
    first_of_label = first.gather(1, target.where(valid, 0).unsqueeze(1)).squeeze(1)
    loss = (first + second).logsumexp(1) - first_of_label
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def usual(q: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None = None) -> Tensor:
    """SDCA Eq. 14 with the linear and the quadratic form as sums over pixels x classes x channels."""
    q = F.normalize(pixel_rows(q).float(), dim=1).unsqueeze(1)
    first = (q * F.normalize(mean, dim=1)).sum(2) / TAU
    second = 0.0 if covariance is None else (q.square() * F.normalize(covariance, dim=1)).sum(2) / (2 * TAU**2)
    return mean_loss(first, second, labels)


def bmm(q: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """A full covariance as a batched product over the classes: classes x pixels x channels."""
    q = F.normalize(pixel_rows(q).float(), dim=1)
    covariance = covariance / covariance.flatten(1).norm(dim=1).view(-1, 1, 1)
    first = q @ F.normalize(mean, dim=1).T / TAU
    second = (torch.bmm(q.expand(CLASSES, -1, -1), covariance) * q).sum(2).T / (2 * TAU**2)
    return mean_loss(first, second, labels)


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    form = "_full" if case.covariance == "full" and device_type != "cpu" else ""
    found = ours(f"contrastive_bound{form}_forward", operator, device_type)
    cube = 4 * case.pixels * case.channels * CLASSES  # bytes of classes x pixels x channels
    found |= {"reference": definition, "compile": compiled(definition)}
    others = {"usual": (usual, 5), "compile_usual": (compiled(usual), 1)}
    if case.covariance == "full":
        found |= {name: fits(found[name], 3 * cube, device_type) for name in ("reference", "compile")}
        others = {"bmm": (bmm, 3), "compile_bmm": (compiled(bmm), 3)}
    return found | {name: fits(function, cubes * cube, device_type) for name, (function, cubes) in others.items()}


OPERATOR = Operator(
    name="contrastive_bound",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    directions=("forward", "backward", "both"),
    names=("cpu", "cuda", "triton", "reference", "compile", "usual", "compile_usual", "bmm", "compile_bmm"),
)


def test_contrastive_bound(measure):
    measure(OPERATOR)
