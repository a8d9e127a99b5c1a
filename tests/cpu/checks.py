"""What a planted fault must fail: a fast cut of the operators' contract, for kernels loaded from a library.

An operator that is not in CASES has its own tests for that. Ugly on purpose: every new tensor starts as NaN, pixels and
channels end inside a vector, labels run far out of range, features are views inside NaN.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from close import assert_as_accurate
from cpu import checks_dense_losses, checks_modes, checks_pseudo_labels
from torch import Tensor

import fastuda.ops  # noqa: F401
from fastuda.ops._library import has_kernel
from fastuda.reference import contrastive_bound
from fastuda.reference.class_moments import class_moments

EPS = 16 * torch.finfo(torch.float32).eps
OPS = torch.ops.fastuda
TESTS = Path(__file__).resolve().parents[1] / "ops"
# Operator -> the raw operator that its library must hold, where that is of another name.
RAW = {
    "bound_forward": "contrastive_bound_forward",
    "bound_backward": "contrastive_bound_backward",
    "modes_forward": "mode_losses_forward",
    "modes_backward": "mode_losses_backward",
    "triplet_consistency_loss": "triplet_consistency_forward",
    "softmax_kl": "softmax_kl_forward",
}


def first_failure(library: Path, operator: str) -> str:
    """The first check that the library's kernel of ``operator`` fails, or an empty text. Needs a process of its own."""
    torch.set_num_threads(1)
    torch.ops.load_library(str(library))
    assert held(operator), "the library holds no kernel"
    return first_failed(operator) if operator in CASES else first_failed_test(operator)


def held(operator: str) -> bool:
    return has_kernel(RAW.get(operator, operator), "CPU")


class Failures:
    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.names.append(report.nodeid.split("::")[-1])


def first_failed_test(operator: str) -> str:
    failures, words = Failures(), io.StringIO()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(TESTS.parents[1]), "-k", "not ranks", "-m", ""]
    with contextlib.redirect_stdout(words):
        status = pytest.main([*options, str(TESTS / f"test_{operator}.py")], plugins=[failures])
    assert status == 0 or failures.names, f"the tests of {operator} cannot be run: {words.getvalue()[-500:]}"
    return failures.names[0] if failures.names else ""


def first_failed(operator: str) -> str:
    torch.use_deterministic_algorithms(True, warn_only=True)  # poisons new tensors
    for name, run in CASES[operator]():
        try:
            run()
        except AssertionError as error:
            return f"{name}: {str(error).splitlines()[0][:80]}"
        except RuntimeError as error:
            return f"{name}: RuntimeError: {str(error).splitlines()[0][:60]}"
    return ""


def make(pixels: int, channels: int, classes: int, dtype=torch.float32, labels=torch.int64, offset: float = 0.0):
    g = torch.Generator().manual_seed(pixels + channels)
    y = torch.randint(0, classes, (pixels,), generator=g)
    odd = torch.tensor([-1, classes, 255, 2**31, -(2**40)])
    if labels == torch.uint8:
        odd = torch.tensor([classes, 255])
    elif labels == torch.int32:
        odd = torch.tensor([-1, classes, 255, 2**31 - 1])
    some = torch.rand(pixels, generator=g) < 0.2
    y[some] = odd[torch.randint(0, len(odd), (pixels,), generator=g)][some]
    centre = 3 * torch.randn(classes, channels, generator=g)
    x = torch.randn(pixels, channels, generator=g) + centre[y.clamp(0, classes - 1)] + offset
    return x.to(dtype), y.to(labels)


def image(x: Tensor, y: Tensor, height: int, layout: str) -> tuple[Tensor, Tensor]:
    """(1, A, H, W) of rows: planes, channels last, or a view of either inside NaN."""
    width = len(x) // height
    x, y = x[: height * width].view(1, height, width, -1).permute(0, 3, 1, 2), y[: height * width]
    y = y.view(1, height, width)
    if layout == "planes":
        return x.contiguous(), y
    if layout == "planes in NaN":
        n, a, h, w = x.shape
        return torch.full((n, a + 1, h + 2, w + 3), torch.nan).to(x)[:, 1:, 1:-1, 2:-1].copy_(x), y
    if layout == "rows in NaN":
        n, a, h, w = x.shape
        wide = torch.full((n, h, w + 1, a + 5), torch.nan).to(x).permute(0, 3, 1, 2)
        return wide[:, 2:-3, :, 1:].copy_(x), y.mT.contiguous().mT
    return x, y


def agree(ours: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor], eps: float = EPS) -> None:
    for name, exact in truth.items():
        if exact.is_floating_point():
            assert_as_accurate(ours[name], plain[name], exact, eps, name)
        else:
            assert torch.equal(ours[name], exact), f"{name} differs"


def moments(x: Tensor, y: Tensor, classes: int, form: str, ignore: int = 255) -> None:
    op = OPS.class_moments_full if form == "full" else OPS.class_moments
    count, mean, m2 = op(x, y, classes, ignore)
    plain = class_moments(x, y, classes, form, ignore)
    truth = class_moments(x.double(), y, classes, form, ignore)
    agree({"count": count, "mean": mean, "m2": m2}, plain._asdict(), truth._asdict())
    for k in range(classes):  # each class by its own scale
        off = (m2[k].double() - truth.m2[k]).abs().max().item()
        assert off <= 64 * EPS * truth.m2[k].abs().max().item(), f"m2 of class {k} is off by {off:.1e}"
    if form == "full":
        assert torch.equal(m2, m2.mT), "m2 is not symmetric"


def diagonal() -> Iterator:
    for pixels, channels, classes in ((700, 37, 5), (1, 16, 2), (9, 33, 1), (2600, 19, 3), (400, 300, 19)):
        for dtype, labels in (
            (torch.float32, torch.uint8),
            (torch.bfloat16, torch.int64),
            (torch.float32, torch.int32),
        ):
            x, y = make(pixels, channels, classes, dtype, labels)
            yield f"{pixels} x {channels}, {dtype}, {labels}", lambda x=x, y=y, k=classes: moments(x, y, k, "diag")
    for layout in ("planes", "planes in NaN", "rows in NaN"):
        for dtype in (torch.float32, torch.bfloat16):
            for pixels, channels in ((667, 37), (560, 145)):
                x, y = image(*make(pixels, channels, 5, dtype), 7, layout)
                yield f"{layout}, {channels}, {dtype}", lambda x=x, y=y: moments(x, y, 5, "diag")
    x, y = make(3000, 2900, 2)  # two strips of channels, several chunks
    yield "strips", lambda: moments(x, y, 2, "diag")
    far = make(4000, 18, 3, offset=1000.0)
    yield "far from zero", lambda: moments(*far, 3, "diag")
    small = make(600, 17, 200)
    yield "rare classes", lambda: moments(*small, 200, "diag", -100)
    yield "ignored class", lambda: moments(*make(600, 20, 3), 3, "diag", 1)
    yield "no pixel", lambda: moments(torch.zeros(0, 5), torch.zeros(0, dtype=torch.uint8), 3, "diag")
    yield "no ignored pixel", lambda: all_valid("diag")
    yield "ignored NaN", lambda: ignored_nan("diag")
    yield "threads", lambda: threads(OPS.class_moments)


def full() -> Iterator:
    for pixels, channels, classes in ((700, 37, 3), (1, 16, 2), (513, 17, 1), (1100, 64, 2), (300, 130, 4)):
        for dtype, labels in ((torch.float32, torch.uint8), (torch.bfloat16, torch.int64)):
            x, y = make(pixels, channels, classes, dtype, labels)
            yield f"{pixels} x {channels}, {dtype}", lambda x=x, y=y, k=classes: moments(x, y, k, "full")
    for layout in ("planes", "planes in NaN", "rows in NaN"):
        x, y = image(*make(630, 37, 4), 7, layout)
        yield layout, lambda x=x, y=y: moments(x, y, 4, "full")
    far = make(2000, 18, 3, offset=1000.0)
    yield "far from zero", lambda: moments(*far, 3, "full")
    yield "ignored class", lambda: moments(*make(600, 20, 3), 3, "full", 1)
    yield "many pixels", lambda: moments(*make(9000, 5, 3), 3, "full")
    yield "no pixel", lambda: moments(torch.zeros(0, 5), torch.zeros(0, dtype=torch.uint8), 3, "full")
    yield "no ignored pixel", lambda: all_valid("full")
    yield "ignored NaN", lambda: ignored_nan("full")
    yield "threads", lambda: threads(OPS.class_moments_full)


def all_valid(form: str) -> None:
    """Every length of the last bundle of rows, at the end of everything."""
    for pixels in (*range(1, 20), 65, 129):
        x, y = make(pixels, 8, 2)
        moments(x, y.clamp(0, 1), 2, form)
        moments(x.bfloat16(), torch.zeros_like(y, dtype=torch.uint8), 1, form)


def ignored_nan(form: str) -> None:
    op = OPS.class_moments_full if form == "full" else OPS.class_moments
    x, y = make(600, 20, 3)
    dirty = x.masked_fill(((y < 0) | (y >= 3)).unsqueeze(1), torch.nan)
    for a, b in zip(op(x, y, 3, 255), op(dirty, y, 3, 255), strict=True):
        assert torch.equal(a, b), "an ignored pixel is read"


def threads(op) -> None:
    x, y = make(20000, 100, 3)
    first = op(x, y, 3, 255)
    torch.set_num_threads(2)
    for a, b in zip(first, op(x, y, 3, 255), strict=True):
        assert torch.equal(a, b), "other bits with two threads"
    torch.set_num_threads(1)


def bound(backward: bool) -> Iterator:
    for kind in (None, "diag", "full"):
        for layout in ("planes", "rows", "rows in NaN", "planes in NaN"):
            for pixels, channels, classes, dtype in (
                (660, 37, 5, torch.float32), (31, 17, 13, torch.float32), (100, 269 if kind != "full" else 51, 3,
                torch.float32), (140, 35, 19, torch.bfloat16), (60, 16, 65, torch.float32),
            ):  # fmt: skip
                x, y = image(*make(pixels, channels, classes, dtype), 5, layout)
                name = f"{kind}, {layout}, {pixels} x {channels}, {classes} classes, {dtype}"
                yield name, lambda x=x, y=y, k=classes, kind=kind: one_bound(x, y, k, kind, backward)
    x, y = image(*make(90, 12, 3), 5, "rows")
    for kind in (None, "diag", "full"):
        yield f"{kind}, not normalised", lambda kind=kind: one_bound(x, y, 3, kind, backward, (0.9, False, 1))
    yield "far logits", lambda: one_bound(30 * x, y, 3, "diag", backward, (0.5, False, 255))
    yield "all ignored", lambda: one_bound(x, torch.full_like(y, 255), 3, "diag", backward)


def one_bound(x: Tensor, y: Tensor, classes: int, kind: str | None, backward: bool, options=(1.7, True, 255)) -> None:
    g = torch.Generator().manual_seed(classes)
    channels = x.shape[1]
    mean = torch.randn(classes, channels, generator=g)
    root = torch.randn(classes, channels, channels if kind == "full" else 1, generator=g)
    covariance = root @ root.mT / channels if kind == "full" else root[:, :, 0].square()
    covariance = None if kind is None else (covariance + covariance.mT) / 2 if kind == "full" else covariance
    grad = torch.randn(y.shape, generator=g)
    reference = contrastive_bound.forward(x, y, mean, covariance, *options)
    valid = (y >= 0) & (y < classes) & (y != options[2])
    if not backward:
        ours = OPS.contrastive_bound_forward(x, y, mean, covariance, *options)
        truth = contrastive_bound.forward(x.double(), y, mean, covariance, *options)
        for what, a, b, c in zip(("loss", "softmax"), ours, reference, truth, strict=True):
            assert_as_accurate(a[valid], b[valid], c[valid], 2e-6, what)
        assert (ours[0][~valid] == 0).all(), "a loss at an ignored pixel"
        return
    # One softmax for all, so that the backward alone is looked at.
    posterior = reference[1]
    ours = OPS.contrastive_bound_backward(grad, x, y, mean, covariance, posterior, *options)
    plain = contrastive_bound.backward(grad, x, y, mean, covariance, posterior, *options)
    truth = contrastive_bound.backward(grad.double(), x.double(), y, mean, covariance, posterior.double(), *options)
    a, b, c = (t.movedim(1, -1) for t in (ours, plain, truth))
    assert (a[~valid] == 0).all(), "gradient at an ignored pixel"
    assert_as_accurate(a[valid], b[valid], c[valid], 2e-6, "gradient")


CASES = {
    "class_moments": diagonal,
    "class_moments_full": full,
    "bound_forward": lambda: bound(False),
    "bound_backward": lambda: bound(True),
    "modes_forward": lambda: checks_modes.cases(make, image, False),
    "modes_backward": lambda: checks_modes.cases(make, image, True),
    "upsample_cross_entropy": checks_dense_losses.cross_entropy,
    "lovasz_softmax": checks_dense_losses.lovasz,
    "pseudo_labels": checks_pseudo_labels.pseudo_labels,
    "confidence_histogram": checks_pseudo_labels.confidence_histogram,
    "prototype_rectify": checks_pseudo_labels.prototype_rectify,
    "aggregate_patches": checks_pseudo_labels.aggregate_patches,
}
