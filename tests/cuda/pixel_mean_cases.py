"""Cases for pixel_mean.cu under the emulation, each against exact sums; see cases.py."""

from __future__ import annotations

import ctypes
import math

import cases
import emulated
import torch
from cases import F32, F64
from torch import Tensor

LABELS = (torch.uint8, torch.int32, torch.int64)
LAYOUTS = ("plain", "turned", "inside", "images last", "rows", "expanded")


def run(library, losses: Tensor, others: Tensor | None, labels: Tensor, classes: int, ignore_index: int, mean: bool,
        seed: int) -> tuple[tuple[Tensor, ...], list[int]]:  # fmt: skip
    library.pixel_mean.restype = ctypes.c_char_p
    options = emulated.Options(
        seed, emulated.TYPES[losses.dtype], labels.element_size(), labels.numel(), 0, classes, ignore_index,
        *emulated.PASCAL, mean,
    )  # fmt: skip
    values = [emulated._nan((1,), losses.dtype) for _ in range(1 if others is None else 2)]
    divisor = torch.full((1,), -7)
    pixels = (emulated.array(t, False) for t in (losses, others, labels))
    facts = (ctypes.c_int * 2)()
    results = values[0], values[1] if len(values) == 2 else None, divisor
    emulated._call(library.pixel_mean, options, *pixels, *map(emulated.matrix, results), facts)
    return (*values, divisor), list(facts)


def lay_out(t: Tensor, layout: str) -> Tensor:
    """The pixels (N, H, W) of ``t`` with other strides, or as (P,)."""
    if layout == "turned":
        return t.mT.contiguous().mT
    if layout == "inside":  # every stride is its own
        n, h, w = t.shape
        return torch.ones(n + 1, h + 2, 3 * w + 1, dtype=t.dtype)[1:, 1:-1, 1::3].copy_(t)
    if layout == "images last":
        return t.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return t.reshape(-1) if layout == "rows" else t


def exact(values: Tensor, valid: Tensor, mean: bool) -> float:
    total = math.fsum(values[valid].double().tolist())
    return total / max(1, int(valid.sum())) if mean else total


def check(
    library, shape=(2, 19, 31), classes=5, dtype=F32, label_dtype=torch.int64, layouts=("plain", "plain", "plain"), *,
    two=True, mean=True, ignore_index=255, change=None, ignored=float("nan"), seeds=(1,), blocks=None,
) -> None:  # fmt: skip
    """ignored: what the losses of the pixels hold that do not count; blocks: how many the plan has to take."""
    g = torch.Generator().manual_seed(3)
    losses, others = (torch.randn(shape, generator=g, dtype=F64).exp().to(dtype) for _ in range(2))
    labels = torch.randint(0, classes, shape, generator=g)
    odd = torch.tensor([255, classes] if label_dtype == torch.uint8 else [255, classes, -1, 2**31 - 1])
    odd = odd[torch.randint(0, len(odd), shape, generator=g)]
    labels = odd.where(torch.rand(shape, generator=g) < 0.3, labels).to(label_dtype)
    labels = labels if change is None else change(labels)
    if "expanded" in layouts:  # one image for all, as a broadcast loss would be
        losses, others, labels = (t[:1].expand(shape) for t in (losses, others, labels))
    valid = cases.valid_of(labels, classes, ignore_index)
    truth = [exact(t, valid, mean) for t in (losses, others)[: 1 + two]]
    count = int(valid.sum())
    if "expanded" not in layouts:
        losses, others = (t.masked_fill(~valid, ignored) for t in (losses, others))
    losses, others, labels = map(lay_out, (losses, others, labels), layouts)
    first = None
    for seed in seeds:
        given = losses, others if two else None, labels
        (*values, divisor), facts = run(library, *given, classes, ignore_index, mean, seed)
        assert divisor.item() == (max(1, count) if mean else count), "another number of pixels"
        assert facts[0] == 2 and blocks in (None, facts[1]), f"launches and blocks are {facts}"
        for ours, true in zip(values, truth, strict=two):
            true = torch.tensor([true], dtype=F64).to(dtype)
            gap = (ours - true).abs() / true.abs().clamp(min=1e-30)
            assert gap.item() <= torch.finfo(dtype).eps * (1 if dtype == F32 else 8), f"{ours} instead of {true}"
        first = first or values
        assert all(torch.equal(a, b) for a, b in zip(values, first, strict=True)), "another schedule gave other bits"


def _cases():
    for i, label_dtype in enumerate(LABELS):
        for dtype in (F32, F64):
            for two in (False, True):
                name = f"{str(dtype)[6:]}, {str(label_dtype)[6:]}, {1 + two} losses"
                yield name, dict(dtype=dtype, label_dtype=label_dtype, two=two, mean=i != 1)
    for i, layout in enumerate(LAYOUTS[1:]):
        same = layout in ("rows", "expanded")
        for turn in range(1 if same else 3):
            layouts = (layout,) * 3 if same else tuple(layout if k == turn else "plain" for k in range(3))
            yield f"{layout}, {turn}", dict(layouts=layouts, mean=i % 2 == 0)
    for pixels in (0, 1, 31, 255, 256, 257, 2048):
        yield f"{pixels} pixels", dict(shape=(1, 1, pixels), blocks=1)
    for pixels, blocks in ((2049, 2), (4096, 2), (6145, 4)):
        yield f"{pixels} pixels", dict(shape=(1, 1, pixels), blocks=blocks)
    yield "more stretches than blocks", dict(shape=(1, 700, 800), blocks=256)
    for mean in (False, True):
        yield f"all ignored, mean {mean}", dict(mean=mean, change=lambda y: y * 0 + 255)
    yield "none ignored", dict(change=lambda y: y * 0)
    yield "ignored pixels hold infinity", dict(ignored=float("inf"))
    yield "another ignore_index", dict(ignore_index=2)
    yield "ignore_index beyond the classes", dict(ignore_index=-100)
    yield "schedules", dict(shape=(1, 60, 70), seeds=(1, 2, 3))


def _bind(options):
    return lambda library: check(library, **options)


MEANS = {name: _bind(options) for name, options in _cases()}
TABLES = {"pixel_mean": MEANS}
