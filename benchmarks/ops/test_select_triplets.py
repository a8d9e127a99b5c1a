"""select_triplets beside the loop over target rows.

pytest benchmarks/ops/test_select_triplets.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import select_triplets as _  # noqa: F401  (defines the raw operator)
from fastuda.reference.select_triplets import select_triplets as reference

CLASSES, MODES = 19, 3


@dataclass(frozen=True)
class Case:
    source: int
    target: int


CASES = {
    "smoke": {"S=570 T=300": Case(570, 300)},
    "quick": {"S=5700 T=1024": Case(5_700, 1_024)},
    "full": {"S=5700 T=1024": Case(5_700, 1_024), "S=57000 T=16384": Case(57_000, 16_384)},
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Mode and class of target rows, then of source rows, int64, a tenth of them of no class; and a seed."""
    on = {"generator": generator, "device": generator.device}
    rows = []
    for count in (case.target, case.source):
        label = torch.randint(0, CLASSES, (count,), **on)
        label[torch.rand(count, **on) < 0.1] = 255
        rows += [torch.randint(0, MODES, (count,), **on), label]
    return *rows, torch.randint(0, 1 << 32, (2,), **on)


def work(case: Case, direction: str) -> Work:
    """Class and mode of every row are read once; two partners and a flag are written for each target row."""
    return Work(16 * (case.source + case.target), 17 * case.target, 30 * case.target)


def validity(triplets: tuple[Tensor, Tensor, Tensor]) -> Sequence[Tensor]:
    """Which rows have partners; the partners are random, so they are not compared."""
    return (triplets[2],)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    mode, label, source_mode, source_label, _seed = inputs
    same = (label[:, None] == source_label) & (mode[:, None] == source_mode)
    other = (label[:, None] != source_label) & (source_label < CLASSES)
    return ((same.any(1) & other.any(1) & (label < CLASSES)).double(),), None


def operator(mode: Tensor, label: Tensor, source_mode: Tensor, source_label: Tensor, seed: Tensor):
    return torch.ops.fastuda.select_triplets(source_label, source_mode, label, mode, seed, CLASSES, MODES)


def definition(mode: Tensor, label: Tensor, source_mode: Tensor, source_label: Tensor, seed: Tensor):
    return reference(source_label, source_mode, label, mode, seed, CLASSES, MODES)


def usual(mode: Tensor, label: Tensor, source_mode: Tensor, source_label: Tensor, seed: Tensor):
    """Row by row: list the allowed partners, take one of each kind."""
    positive, negative = torch.zeros_like(label), torch.zeros_like(label)
    valid = torch.zeros_like(label, dtype=torch.bool)
    for i, (k, m) in enumerate(zip(label.tolist(), mode.tolist(), strict=True)):
        same = ((source_label == k) & (source_mode == m)).nonzero().flatten()
        other = ((source_label != k) & (source_label < CLASSES)).nonzero().flatten()
        if k < CLASSES and len(same) and len(other):
            positive[i] = same[torch.randint(len(same), (1,)).item()]
            negative[i] = other[torch.randint(len(other), (1,)).item()]
            valid[i] = True
    return positive, negative, valid


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("select_triplets", operator, device_type)
    return found | {"reference": definition, "compile": compiled(definition), "usual": usual}


OPERATOR = Operator(
    name="select_triplets",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    results=validity,
    names=("cpu", "cuda", "triton", "reference", "compile", "usual"),
)


def test_select_triplets(measure):
    measure(OPERATOR)
