"""Cases for softmax_kl.cu under the emulation, each against the reference in float64; see cases.py."""

from __future__ import annotations

import ctypes

import emulated
import torch
from close import assert_as_accurate
from torch import Tensor

from fastuda.reference import softmax_kl as reference

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
EPS, EPS_DOUBLE = 2e-6, 1e-14
LAYOUTS = ("nchw", "channels_last", "rows", "inside", "turned")


class Options(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_longlong) for name in ("seed", "type", "images", "classes", "symmetric")),
        ("temperature", ctypes.c_double),
    ]


def run(
    library, logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float, symmetric: bool,
    grad: Tensor | None = None, seed: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The losses, or with ``grad`` both gradients."""
    library.softmax_kl.restype = ctypes.c_char_p
    images = logits.shape[0] if logits.dim() == 4 else 1
    options = Options(seed, emulated.TYPES[logits.dtype], images, logits.shape[1], symmetric, temperature)
    dtype = F64 if logits.dtype == F64 else F32
    loss = emulated._nan(logits.shape[:1] + logits.shape[2:], dtype) if grad is None else None
    slopes = [None, None]
    if grad is not None:
        slopes = [torch.empty_like(x).fill_(float("nan")) for x in (logits, other)][: 1 + symmetric]
        slopes += [None] * (2 - len(slopes))
    optional = (emulated.array(t, False) for t in (mask, grad))
    results = emulated.matrix(loss), *(emulated.array(t, True) for t in slopes)
    emulated._call(
        library.softmax_kl, options, emulated.array(logits, True), emulated.array(other, True), *optional, *results
    )
    return (loss,) if grad is None else tuple(s for s in slopes if s is not None)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The values (N, K, h, w) of ``x``, or with (P,) in its place all of its pixels as rows."""
    if layout == "rows":
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "inside":  # every stride is its own, with NaN between
        n, k, h, w = x.shape
        whole = torch.full((n + 1, 2 * k, h + 1, 3 * w + 2), float("nan"), dtype=x.dtype)
        return whole[1:, ::2, 1:, 1:-1:3].copy_(x)
    if layout == "turned":
        return x.mT.contiguous().mT
    assert layout == "nchw"
    return x


def lay_out_pixels(x: Tensor, layout: str) -> Tensor:
    if layout == "rows":
        return x.reshape(-1)
    if layout == "inside":
        n, h, w = x.shape
        return torch.ones(n, h + 2, 2 * w + 1, dtype=x.dtype)[:, 1:-1, 1::2].copy_(x)
    return x.mT.contiguous().mT if layout == "turned" else x


def check(
    library, shape=(2, 19, 5, 7), dtype=F32, layout="nchw", other_layout=None, *, scale=1.0, apart=None, shift=0.0,
    temperature=1.0, symmetric=True, share=0.7, value=float("nan"), expanded=False, seeds=(1,),
) -> None:  # fmt: skip
    """apart: the two logits differ by so much only; share: of pixels that count, 1 without a mask.

    value: what the pixels that do not count hold; expanded: one mask for all images.
    """
    g = torch.Generator().manual_seed(3)
    logits = (scale * torch.randn(shape, generator=g) + shift).to(dtype)
    other = scale * torch.randn(shape, generator=g) + shift if apart is None else 0
    other = other.to(dtype) if apart is None else (logits + apart * torch.randn(shape, generator=g)).to(dtype)
    pixels = (shape[0], *shape[2:])
    mask = None if share == 1 else torch.rand(pixels, generator=g) < share
    if expanded:
        mask = mask[:1].expand(pixels)
    grad = 1000 * torch.randn(pixels, generator=g, dtype=F64)
    options = temperature, symmetric
    narrow = grad.to(F64 if dtype == F64 else F32)
    truth = reference.forward(logits.double(), other.double(), mask, *options)
    plain = reference.forward(logits, other, mask, *options)
    slopes = reference.backward(grad, logits.double(), other.double(), mask, *options)
    plain_slopes = reference.backward(narrow, logits, other, mask, *options)
    if mask is not None:
        logits, other = (x.masked_fill(~mask.unsqueeze(1), value) for x in (logits, other))
        if value != value:
            narrow = narrow.masked_fill(~mask, value)
    other_layout = "rows" if layout == "rows" else other_layout or layout
    logits, other = lay_out(logits, layout), lay_out(other, other_layout)
    mask = mask if mask is None or expanded else lay_out_pixels(mask, layout)
    narrow = lay_out_pixels(narrow, other_layout)
    eps, first = EPS_DOUBLE if dtype == F64 else EPS, None
    for seed in seeds:
        (loss,) = run(library, logits, other, mask, *options, seed=seed)
        assert_as_accurate(loss.view(truth.shape), plain, truth, eps, "loss")
        found = run(library, logits, other, mask, *options, grad=narrow, seed=seed)
        for i, ours in enumerate(found):
            if layout == "rows":
                ours = ours.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
            # A gradient is a probability, right to some last places of 1, times a gap between logits.
            largest = slopes[i].abs().max().item() if slopes[i].numel() else 0.0
            room = eps * max(2.0, 1000 / max(largest, 1e-30))
            assert_as_accurate(ours, plain_slopes[i], slopes[i], room, f"gradient {i}")
        results = loss, *found
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(results, first, strict=True)), "another schedule gave other bits"


def check_zero(library) -> None:
    """Exactly, of logits that are the same."""
    x = 3 * torch.randn(2, 19, 4, 5)
    for y in (x, torch.randn(1, 40, 3, 3)):
        for symmetric in (True, False):
            assert not run(library, y, y.clone(), None, 2.0, symmetric)[0].any(), "the same logits are not the same"
            grad = torch.ones(y.shape[0], *y.shape[2:])
            for slope in run(library, y, y.clone(), None, 2.0, symmetric, grad):
                assert not slope.any(), "the same logits have a gradient"


def _cases():
    for i, dtype in enumerate((F32, F16, BF16, F64)):
        for j, layout in enumerate(LAYOUTS):
            case = dict(dtype=dtype, layout=layout, symmetric=(i + j) % 2 == 0, temperature=1.0 + j / 2)
            yield f"{str(dtype)[6:]}, {layout}", case
    for layout, other in (("nchw", "channels_last"), ("channels_last", "turned"), ("inside", "nchw")):
        yield f"{layout} and {other}", dict(layout=layout, other_layout=other)
    for classes in (1, 2, 3, 4, 5, 16, 17, 20, 21, 24, 33, 64, 150, 255, 300):
        for symmetric in (True, False):
            layout = LAYOUTS[classes % 3]
            case = dict(shape=(1, classes, 3, 11), layout=layout, symmetric=symmetric, temperature=2.0)
            yield f"{classes} classes, symmetric {symmetric}", case
    for dtype in (F16, BF16, F64):
        yield f"21 classes, {str(dtype)[6:]}", dict(shape=(2, 21, 5, 3), dtype=dtype, layout="channels_last")
    for pixels in (1, 7, 8, 9, 63, 64, 65, 129):
        yield f"{pixels} pixels", dict(shape=(1, 6, 1, pixels), layout=LAYOUTS[pixels % 3])
    for share in (0.0, 0.05, 1):
        for layout in ("nchw", "rows"):
            yield f"share {share}, {layout}", dict(share=share, layout=layout)
    for value in (float("inf"), -float("inf"), 1.0):
        yield f"elsewhere {value}", dict(value=value)
        yield f"elsewhere {value}, 30 classes", dict(value=value, shape=(1, 30, 5, 7), symmetric=False)
    for symmetric in (True, False):
        for size in (1e-3, 30.0, 1e3):
            yield f"of size {size}, symmetric {symmetric}", dict(scale=size, symmetric=symmetric)
        yield f"far off, symmetric {symmetric}", dict(shift=1e4, symmetric=symmetric)
    for apart in (1e-1, 1e-3):
        yield f"{apart} apart", dict(apart=apart)
        yield f"{apart} apart, 40 classes", dict(apart=apart, shape=(1, 40, 5, 7))
    for temperature in (0.25, 4.0):
        for symmetric in (True, False):
            name = f"temperature {temperature}, symmetric {symmetric}"
            yield name, dict(temperature=temperature, symmetric=symmetric)
    yield "one mask for all", dict(expanded=True, shape=(3, 5, 4, 6))
    yield "schedules", dict(seeds=range(2, 5))
    yield "schedules, 30 classes", dict(seeds=range(2, 5), shape=(1, 30, 5, 7))
    for shape in ((0, 4, 3, 3), (1, 4, 0, 3), (3, 5, 1, 1), (4, 3, 7, 1)):
        yield f"shape {shape}", dict(shape=shape)


def _bind(options):
    return lambda library: check(library, **options)


KL = {name: _bind(options) for name, options in _cases()}
KL["the same logits"] = check_zero
TABLES = {"softmax_kl": KL}
