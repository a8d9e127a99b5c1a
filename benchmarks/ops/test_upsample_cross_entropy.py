"""upsample_cross_entropy with 19 classes: low-resolution logits against labels of full resolution, and their gradient.

pytest benchmarks/ops/test_upsample_cross_entropy.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, fits, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import upsample_cross_entropy
from fastuda.reference.upsample_cross_entropy import forward as formula

CLASSES = 19
# Per pixel and class: two lerps, an exponential of about 12 operations; for the gradient a product and two sums.
FORWARD_FLOPS, BACKWARD_FLOPS = 18, 6


@dataclass(frozen=True)
class Case:
    images: int
    source: tuple[int, int]
    size: tuple[int, int]
    dtype: torch.dtype = torch.float32
    align_corners: bool = True

    @property
    def pixels(self) -> int:
        return self.images * self.size[0] * self.size[1]


CITY = (90, 160), (720, 1280)
CASES = {
    "smoke": {"12x20 to 37x61": Case(1, (12, 20), (37, 61)), "same size": Case(1, (24, 31), (24, 31))},
    "quick": {"1x19x90x160 to 720x1280": Case(1, *CITY)},
    "full": {
        "1x19x90x160 to 720x1280": Case(1, *CITY),
        "1x19x90x160 to 720x1280 bf16": Case(1, *CITY, torch.bfloat16),
        "1x19x90x160 to 720x1280, corners not aligned": Case(1, *CITY, align_corners=False),
        "1x19x64x64 to 512x512": Case(1, (64, 64), (512, 512)),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits of a few units; independent uint8 labels for each pixel, a tenth of them ignored."""
    on = {"generator": generator, "device": generator.device}
    labels = torch.randint(0, CLASSES, (case.images, *case.size), **on, dtype=torch.uint8)
    labels[torch.rand(labels.shape, **on) < 0.1] = 255
    logits = 3 * torch.randn(case.images, CLASSES, *case.source, **on)
    return logits.to(case.dtype).requires_grad_(), labels


def work(case: Case, direction: str) -> Work:
    """Labels and logits read once, the low-resolution gradient written once; operations of float32 in any dtype."""
    nodes = case.images * CLASSES * case.source[0] * case.source[1]
    read = case.pixels + nodes * case.dtype.itemsize
    flops = {"forward": FORWARD_FLOPS, "backward": BACKWARD_FLOPS, "both": FORWARD_FLOPS + BACKWARD_FLOPS}[direction]
    written = 4 if direction == "forward" else nodes * case.dtype.itemsize
    return Work(read, written, flops * case.pixels * CLASSES)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    logits, labels = inputs
    total, _, slope = formula(logits.detach().double(), labels, None, None, case.align_corners, 255, 0.0, False, True)
    return (total[0] / total[1],), slope / total[1]


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    def operator(logits: Tensor, labels: Tensor) -> Tensor:
        return upsample_cross_entropy(logits, labels, align_corners=case.align_corners)

    def usual(logits: Tensor, labels: Tensor) -> Tensor:
        """The usual form: all logits upsampled in float32, and torch's loss on them."""
        up = F.interpolate(logits.float(), size=case.size, mode="bilinear", align_corners=case.align_corners)
        return F.cross_entropy(up, labels.long(), ignore_index=255)

    class Definition(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits: Tensor, labels: Tensor) -> Tensor:
            options = None, None, case.align_corners, 255, 0.0, False
            total, _, ctx.slope = formula(logits, labels, *options, ctx.needs_input_grad[0])
            ctx.divisor = total[1]
            return total[0] / total[1]

        @staticmethod
        def backward(ctx, grad: Tensor):
            return ctx.slope * (grad / ctx.divisor), None

    found = ours("upsample_cross_entropy", operator, device_type)
    usual_bytes = 4 * 4 * case.pixels * CLASSES
    found |= {"reference": Definition.apply, "usual": fits(usual, usual_bytes, device_type)}
    return found | {"compile": compiled(usual)}


OPERATOR = Operator(
    name="upsample_cross_entropy",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    directions=("forward", "both"),
    names=("cpu", "cuda", "triton", "reference", "usual", "compile"),
    tolerance={torch.float32: 1e-3, torch.bfloat16: 2**-8 + 1e-3},  # bfloat16 rounds by 2^-8
)


def test_upsample_cross_entropy(measure):
    measure(OPERATOR)
