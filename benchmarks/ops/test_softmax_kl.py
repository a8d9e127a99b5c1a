"""symmetric_kl of two predictions of 19 classes: forward, and the gradients of both.

pytest benchmarks/ops/test_softmax_kl.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

import torch
from _measure import Operator, UnavailableError, compiled, fits, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import symmetric_kl
from fastuda.reference.softmax_kl import softmax_kl as formula

CLASSES = 19


@dataclass(frozen=True)
class Case:
    images: int
    height: int
    width: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width


CASES = {
    "smoke": {"N=247": Case(1, 13, 19), "N=494 rows": Case(2, 13, 19, channels_last=True)},
    "quick": {"N=14400": Case(1, 90, 160), "N=14400 rows": Case(1, 90, 160, channels_last=True)},
    "full": {
        "N=115200": Case(8, 90, 160),
        "N=115200 rows": Case(8, 90, 160, channels_last=True),
        "N=115200 bf16": Case(8, 90, 160, torch.bfloat16),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, uint8 labels of which a tenth is ignored, other logits with mostly the same classes, and valid pixels.

    The labels themselves are not used.
    """
    on = {"generator": generator, "device": generator.device}
    labels = torch.randint(0, CLASSES, (case.images, case.height, case.width), **on, dtype=torch.uint8)
    labels[torch.rand(labels.shape, **on) < 0.1] = 255
    shape = (case.images, CLASSES, case.height, case.width)
    both = 3 * torch.randn(shape, **on), torch.randn(2, *shape, **on)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    first, second = (
        (both[0] + noise).to(case.dtype).contiguous(memory_format=layout).requires_grad_() for noise in both[1]
    )
    return first, labels, second, labels < CLASSES


def work(case: Case, direction: str) -> Work:
    """Both are read once, both gradients written; two exponentials (8 operations each) and 10 operations an element."""
    values = case.pixels * CLASSES
    read = 2 * values * case.dtype.itemsize + case.pixels
    written = 4 * case.pixels if direction == "forward" else 2 * values * case.dtype.itemsize
    return Work(read, written, 26 * values)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    first, _, second, mask = inputs
    a = first.detach().double().requires_grad_()
    loss = formula(a, second.detach().double(), mask).sum() / mask.sum()
    return (loss.detach(),), torch.autograd.grad(loss, a)[0]


class _Both(torch.autograd.Function):
    """A function whose gradient for the first logits, which the harness takes, is computed with that for the second."""

    @staticmethod
    def forward(ctx, function, first, second, mask):
        with torch.enable_grad():
            ctx.leaves = first.detach().requires_grad_(), second.detach().requires_grad_()
            ctx.loss = function(*ctx.leaves, mask)
        return ctx.loss.detach()

    @staticmethod
    def backward(ctx, grad):
        return None, *torch.autograd.grad(ctx.loss, ctx.leaves, grad), None


def with_both(function: Callable) -> Callable:
    @wraps(function)  # keeps its attributes, one of which names the backend
    def call(first: Tensor, labels: Tensor, second: Tensor, mask: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        return _Both.apply(function, first, second, mask) if wanted else function(first, second, mask)

    return call


def operator(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    return symmetric_kl(first, second, mask=mask)


def definition(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """This package's formula under autograd."""
    return formula(first, second, mask).sum() / mask.sum().clamp(min=1)


def usual(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """torch's kl_div in both directions, then the mean over pixels."""
    log_p, log_q = first.float().log_softmax(1), second.float().log_softmax(1)
    forth = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    back = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    return ((forth + back) * mask).sum() / mask.sum().clamp(min=1)


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("softmax_kl_forward", operator, device_type)
    others = {"reference": definition, "compile": compiled(definition), "usual": usual}
    others["compile_usual"] = compiled(usual)
    found |= {name: fits(function, 48 * case.pixels * CLASSES, device_type) for name, function in others.items()}
    return {k: f if isinstance(f, UnavailableError) else with_both(f) for k, f in found.items()}


OPERATOR = Operator(
    name="softmax_kl",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    directions=("forward", "backward", "both"),
    names=("cpu", "cuda", "triton", "reference", "compile", "usual", "compile_usual"),
    tolerance={torch.float32: 1e-3, torch.bfloat16: 2**-8 + 1e-3},  # bfloat16 rounds by 2^-8
)


def test_softmax_kl(measure):
    measure(OPERATOR)
