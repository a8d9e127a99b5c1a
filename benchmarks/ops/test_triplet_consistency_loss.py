"""triplet_consistency_loss beside the gathered form.

pytest benchmarks/ops/test_triplet_consistency_loss.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import triplet_consistency_loss
from fastuda.reference.triplet_consistency_loss import triplet_consistency_loss as formula

MARGIN = 1.0


@dataclass(frozen=True)
class Case:
    target: int
    source: int
    channels: int
    dtype: torch.dtype = torch.float32


CASES = {
    "smoke": {"T=60 S=300 d=19": Case(60, 300, 19)},
    "quick": {"T=1024 S=5700 d=256": Case(1_024, 5_700, 256)},
    "full": {
        "T=1024 S=5700 d=256": Case(1_024, 5_700, 256),
        "T=1024 S=5700 d=64": Case(1_024, 5_700, 64),
        "T=16384 S=5700 d=256": Case(16_384, 5_700, 256),
        "T=16384 S=5700 d=256 bf16": Case(16_384, 5_700, 256, torch.bfloat16),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Source rows, whose gradient is taken, target rows, partners, and valid: a tenth of the rows have no partners."""
    on = {"generator": generator, "device": generator.device}
    source, target = (
        torch.randn(n, case.channels, **on).mul_(0.3).to(case.dtype).requires_grad_()
        for n in (case.source, case.target)
    )
    positive, negative = (torch.randint(0, case.source, (case.target,), **on) for _ in range(2))
    valid = torch.rand(case.target, **on) >= 0.1
    return source, target, positive.where(valid, 0), negative.where(valid, 0), valid


def work(case: Case, direction: str) -> Work:
    """Three rows of each triplet are read, the source's gradient is written; six operations a channel and direction."""
    rows, size = case.target * case.channels, case.dtype.itemsize
    if direction == "forward":
        return Work(3 * size * rows, 4 * case.target, 6 * rows, case.dtype)
    flops = (6 if direction == "backward" else 12) * rows
    return Work(3 * size * rows, size * case.source * case.channels, flops, case.dtype)


def operator(source: Tensor, target: Tensor, positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    """The operator; its backward computes both gradients, as training needs, the others leave out the target's."""
    return triplet_consistency_loss(target, source, positive, negative, valid, margin=MARGIN)


def definition(source: Tensor, target: Tensor, positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    loss = formula(target, source, positive, negative, valid, MARGIN)
    return loss.sum() / valid.sum().clamp(min=1)


def usual(source: Tensor, target: Tensor, positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    """The gathered form on the valid rows alone, in float32: it waits for the device to count them."""
    target, source = target.float(), source.float()
    t, p, n = target[valid], source[positive[valid]], source[negative[valid]]
    return torch.relu((t - p).pow(2).sum(1) - (t - n).pow(2).sum(1) + MARGIN).mean()


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    source = inputs[0].detach().double().requires_grad_()
    loss = definition(source, inputs[1].detach().double(), *inputs[2:])
    return (loss.detach(),), torch.autograd.grad(loss, source)[0]


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("triplet_consistency_forward", operator, device_type)
    return found | {"reference": definition, "compile": compiled(definition), "usual": usual}


OPERATOR = Operator(
    name="triplet_consistency_loss",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    directions=("forward", "backward", "both"),
    names=("cpu", "cuda", "triton", "reference", "compile", "usual"),
    tolerance=1e-2,  # the rounding of a bfloat16 gradient
)


def test_triplet_consistency_loss(measure):
    measure(OPERATOR)
