"""lovasz_softmax with 19 classes, exact and in 1024 bins: forward, and the gradient of the logits.

pytest benchmarks/ops/test_lovasz_softmax.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import lovasz_softmax
from fastuda.reference.lovasz_softmax import forward as formula

CLASSES, BINS = 19, 1024
# Per pixel and class: two lerps, an exponential of about 12 operations; for the gradient a product and two sums.
FORWARD_FLOPS, BACKWARD_FLOPS = 18, 6


@dataclass(frozen=True)
class Case:
    images: int
    source: tuple[int, int]
    size: tuple[int, int]
    bins: int = 0  # 0: the errors are sorted

    @property
    def pixels(self) -> int:
        return self.images * self.size[0] * self.size[1]


CASES = {
    "smoke": {
        "12x20 to 37x61": Case(1, (12, 20), (37, 61)),
        "12x20 to 37x61 binned": Case(1, (12, 20), (37, 61), BINS),
        "same size": Case(1, (24, 31), (24, 31)),
        "same size binned": Case(1, (24, 31), (24, 31), BINS),
    },
    "quick": {
        "1x19x360x640": Case(1, (360, 640), (360, 640)),
        "1x19x360x640 binned": Case(1, (360, 640), (360, 640), BINS),
    },
    "full": {
        "1x19x360x640": Case(1, (360, 640), (360, 640)),
        "1x19x360x640 binned": Case(1, (360, 640), (360, 640), BINS),
        "1x19x90x160 to 720x1280": Case(1, (90, 160), (720, 1280)),
        "1x19x90x160 to 720x1280 binned": Case(1, (90, 160), (720, 1280), BINS),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits with a standard deviation of a few units that favour the label; uint8 labels, a tenth of them ignored."""
    on = {"generator": generator, "device": generator.device}
    labels = torch.randint(0, CLASSES, (case.images, *case.size), **on, dtype=torch.uint8)
    labels[torch.rand(labels.shape, **on) < 0.1] = 255
    logits = 3 * torch.randn(case.images, CLASSES, *case.source, **on)
    return logits.requires_grad_(), labels


def work(case: Case, direction: str) -> Work:
    """Labels and logits read once, the gradient written once; operations without those of a sort."""
    nodes = case.images * CLASSES * case.source[0] * case.source[1]
    flops = {"forward": FORWARD_FLOPS, "backward": BACKWARD_FLOPS, "both": FORWARD_FLOPS + BACKWARD_FLOPS}[direction]
    written = 4 if direction == "forward" else 4 * nodes
    return Work(case.pixels + 4 * nodes, written, flops * case.pixels * CLASSES)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    """The loss and its gradient, exact or in bins as the case says."""
    logits, labels = inputs
    loss, slope = formula(logits.detach().double(), labels, case.bins, False, True, 255, True)
    return (loss,), slope


def exact_truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    """The truth for providers that sort the errors in a case of bins too."""
    return truth(replace(case, bins=0), inputs)


class _Definition(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, bins: int) -> Tensor:
        loss, ctx.slope = formula(logits, labels, bins, False, True, 255, ctx.needs_input_grad[0])
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.slope * grad, None, None


def usual(logits: Tensor, labels: Tensor) -> Tensor:
    """The usual form: valid pixels as rows, then class by class a sort, a gather and sums along the sorted pixels."""
    up = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=True)
    p, y = up.softmax(1).permute(0, 2, 3, 1).reshape(-1, CLASSES), labels.reshape(-1)
    p, y = p[y != 255], y[y != 255]
    losses = []
    for k in range(CLASSES):
        is_class = (y == k).float()
        if not is_class.any():
            continue
        error, order = (is_class - p[:, k]).abs().sort(descending=True)
        is_class = is_class[order]
        total = is_class.sum()
        jaccard = 1 - (total - is_class.cumsum(0)) / (total + (1 - is_class).cumsum(0))
        losses.append(error @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))
    return torch.stack(losses).mean()


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    def operator(logits: Tensor, labels: Tensor) -> Tensor:
        return lovasz_softmax(logits, labels, bins=case.bins)

    def definition(logits: Tensor, labels: Tensor) -> Tensor:
        return _Definition.apply(logits, labels, case.bins)

    found = ours("lovasz_softmax", operator, device_type)
    return found | {"reference": definition, "usual": usual, "compile": compiled(usual)}


OPERATOR = Operator(
    name="lovasz_softmax",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    truths={"usual": exact_truth, "compile": exact_truth},
    directions=("forward", "both"),
    names=("cpu", "cuda", "triton", "reference", "usual", "compile"),
    # A pixel's weight in the gradient depends on the order of ties and the borders of bins; tests/ops is stricter.
    tolerance=0.5,
)


def test_lovasz_softmax(measure):
    measure(OPERATOR)
