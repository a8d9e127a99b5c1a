"""class_moments: every provider on the same inputs.

pytest benchmarks/ops/test_class_moments.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from _measure import Operator, UnavailableError, compiled, fits, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import class_moments
from fastuda.reference.class_moments import class_moments as reference

CLASSES = 19


@dataclass(frozen=True)
class Case:
    """nchw: the pixels are images of 90 rows, contiguous in (N, C, H, W)."""

    pixels: int
    channels: int
    covariance: Literal["diag", "full"] = "diag"
    dtype: torch.dtype = torch.float32
    nchw: bool = False


CASES = {
    "smoke": {"diag A=19 N=713": Case(713, 19), "full A=17 N=713": Case(713, 17, "full")},
    "quick": {
        "diag A=256 N=14400": Case(14_400, 256),
        "diag A=256 N=14400 bf16": Case(14_400, 256, dtype=torch.bfloat16),
        "full A=256 N=3600": Case(3_600, 256, "full"),
    },
    "full": {
        "diag A=256 N=115200": Case(115_200, 256),
        "diag A=2048 N=14400": Case(14_400, 2048),
        "diag A=256 N=115200 bf16": Case(115_200, 256, dtype=torch.bfloat16),
        "diag A=256 N=115200 NCHW": Case(115_200, 256, nchw=True),
        "full A=256 N=115200": Case(115_200, 256, "full"),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Independent labels for each pixel, the worst case for code that uses runs of one class; a tenth is ignored."""
    on = {"generator": generator, "device": generator.device}
    labels = torch.randint(0, CLASSES, (case.pixels,), **on, dtype=torch.uint8)
    labels[torch.rand(case.pixels, **on) < 0.1] = 255
    features = torch.randn(case.pixels, case.channels, **on).to(case.dtype)
    if case.nchw:
        features = features.view(1, 90, -1, case.channels).permute(0, 3, 1, 2).contiguous()
        labels = labels.view(1, 90, -1)
    return features, labels


def work(case: Case, direction: str) -> Work:
    """Features and labels are read once; a full covariance takes one triangle of N A^2 products."""
    square = case.channels if case.covariance == "full" else 1
    read = case.pixels * (case.channels * case.dtype.itemsize + 1)
    flops = case.pixels * case.channels * (square if square > 1 else 4)
    return Work(read, 4 * CLASSES * case.channels * (1 + square), flops, case.dtype)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    moments = reference(inputs[0].double(), inputs[1], CLASSES, case.covariance)
    return (moments.mean, moments.m2), None


def rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """float32 pixels and their classes; CLASSES stands for an ignored pixel."""
    if features.dim() == 4:
        features = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    y = labels.reshape(-1).long()
    return features.float(), y.where(y < CLASSES, CLASSES)


def members(y: Tensor) -> tuple[Tensor, Tensor]:
    member = torch.nn.functional.one_hot(y, CLASSES + 1)[:, :-1].float()
    return member, member.sum(0).clamp_min(1).unsqueeze(1)


def usual(features: Tensor, labels: Tensor):
    """The usual form: pixels x classes x channels, the mean first and then the centred squares."""
    x, y = rows(features, labels)
    member, count = members(y)
    by_class = x.unsqueeze(1) * member.unsqueeze(2)
    mean = by_class.sum(0) / count
    centred = (by_class - mean) * member.unsqueeze(2)
    return mean, centred.square().sum(0)


def usual_full(features: Tensor, labels: Tensor):
    """The usual form of a full covariance: the outer product of every centred pixel, summed by class."""
    x, y = rows(features, labels)
    member, count = members(y)
    mean = member.T @ x / count
    padded = torch.cat([mean, mean.new_zeros(1, mean.shape[1])])
    centred = x - padded[y]
    outer = centred.unsqueeze(2) * centred.unsqueeze(1)
    return mean, mean.new_zeros(CLASSES + 1, *outer.shape[1:]).index_add_(0, y, outer)[:-1]


def one_hot_matmul(features: Tensor, labels: Tensor):
    """The fastest rewrite in three lines; E[x^2] - E[x]^2 is not centred and loses digits."""
    x, y = rows(features, labels)
    member, count = members(y)
    mean = member.T @ x / count
    return mean, member.T @ x.square() - count * mean.square()


def index_add(features: Tensor, labels: Tensor):
    x, y = rows(features, labels)
    count = torch.bincount(y, minlength=CLASSES + 1).clamp_min(1).unsqueeze(1)
    mean = x.new_zeros(CLASSES + 1, x.shape[1]).index_add_(0, y, x) / count
    m2 = torch.zeros_like(mean).index_add_(0, y, (x - mean[y]).square_())
    return mean[:-1], m2[:-1]


def class_matmul(features: Tensor, labels: Tensor):
    """One matrix product for each class over its pixels; waits for the device at every class."""
    x, y = rows(features, labels)
    means, squares = [], []
    for k in range(CLASSES):
        class_rows = x[y == k]
        mean = class_rows.sum(0) / max(1, len(class_rows))
        class_rows -= mean
        means.append(mean)
        squares.append(class_rows.T @ class_rows)
    return torch.stack(means), torch.stack(squares)


def torch_scatter() -> Callable | UnavailableError:
    """The library's segment sums, where it is installed; like the one-hot product they are not centred."""
    try:
        from torch_scatter import scatter_sum
    except ImportError:
        return UnavailableError("torch_scatter is not installed")

    def run(features: Tensor, labels: Tensor):
        x, y = rows(features, labels)
        count = torch.bincount(y, minlength=CLASSES + 1).clamp_min(1).unsqueeze(1)
        mean = scatter_sum(x, y, 0, dim_size=CLASSES + 1) / count
        m2 = scatter_sum(x.square(), y, 0, dim_size=CLASSES + 1) - count * mean.square()
        return mean[:-1], m2[:-1]

    return run


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    full = case.covariance == "full"

    def operator(features: Tensor, labels: Tensor):
        return class_moments(features, labels, CLASSES, covariance=case.covariance)[1:]

    def plain(features: Tensor, labels: Tensor):
        return reference(features, labels, CLASSES, case.covariance)[1:]

    raw = "class_moments_full" if full else "class_moments"
    found = ours(raw, operator, device_type) | {"reference": plain, "compile": compiled(plain)}
    elements = case.pixels * case.channels
    if full:
        found["usual"] = fits(usual_full, 4 * elements * case.channels, device_type)
        return found | {"class_matmul": class_matmul}
    found["usual"] = fits(usual, 4 * 4 * elements * CLASSES, device_type)
    found |= {"one_hot_matmul": one_hot_matmul, "compile_one_hot": compiled(one_hot_matmul)}
    return found | {"index_add": index_add, "torch_scatter": torch_scatter()}


NAMES = ("cpu", "cuda", "triton", "reference", "compile", "usual", "one_hot_matmul", "compile_one_hot")
OPERATOR = Operator(
    name="class_moments",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    names=(*NAMES, "index_add", "torch_scatter", "class_matmul"),
)


def test_class_moments(measure):
    measure(OPERATOR)
