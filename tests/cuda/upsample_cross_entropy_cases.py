"""Cases for upsample_cross_entropy.cu under the emulation, each against the reference in float64; see cases.py."""

from __future__ import annotations

import ctypes

import dense
import emulated
import loss_inputs
import torch
from close import assert_as_accurate
from torch import Tensor

from fastuda.reference import upsample_cross_entropy as reference

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
EPS, EPS_DOUBLE = 2e-6, 2e-14
NAMES = (
    "seed", "type", "images", "classes", "height", "width", "align_corners", "label_bytes", "ignore_index",
    "weight_bytes", "pixel_weight_bytes", "with_map", "with_slope",
)  # fmt: skip
FACTS = ("tile", "tiles", "parts", "launches", "shared", "scratch")


class Options(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_longlong) for name in NAMES), ("smoothing", ctypes.c_double)]


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.element_size()


def run(
    library, scores: Tensor, labels: Tensor, weight: Tensor | None, pixel_weight: Tensor | None, align_corners: bool,
    ignore_index: int, smoothing: float, with_map: bool = True, with_slope: bool = True, seed: int = 0,
) -> tuple[tuple[Tensor, ...], dict[str, int]]:  # fmt: skip
    """Total, losses and slope, as the raw operator gives them, and facts of the launches."""
    library.upsample_cross_entropy.restype = ctypes.c_char_p
    options = Options(
        seed, emulated.TYPES[scores.dtype], *scores.shape[:2], *labels.shape[1:], align_corners,
        labels.element_size(), ignore_index, _bytes(weight), _bytes(pixel_weight), with_map, with_slope, smoothing,
    )  # fmt: skip
    dtype = F64 if scores.dtype == F64 else F32
    results = (
        emulated._nan((2,), dtype),
        emulated._nan(labels.shape if with_map else (0,), dtype),
        emulated._nan(scores.shape if with_slope else (0,), dtype),
    )
    facts = (ctypes.c_longlong * len(FACTS))()
    inputs = emulated.array(scores, True), emulated.array(labels, False), emulated.matrix(weight)
    pixels = emulated.array(pixel_weight, False)
    emulated._call(
        library.upsample_cross_entropy, options, *inputs, pixels, *(emulated.matrix(t) for t in results), facts
    )
    return results, dict(zip(FACTS, facts, strict=True))


def scratch(library, shape, size, dtype=F32, with_slope: bool = True) -> int:
    library.upsample_cross_entropy_scratch.restype = ctypes.c_longlong
    options = Options(0, emulated.TYPES[dtype], *shape[:2], *size, True, 1, 255, 0, 0, False, with_slope, 0.0)
    return library.upsample_cross_entropy_scratch(ctypes.byref(options), *shape[2:])


def weights(shape, classes: int, dtypes) -> tuple[Tensor | None, Tensor | None]:
    """Of classes and of pixels, strided; a dtype of None for none. Some pixels weigh nothing, some less."""
    g = torch.Generator().manual_seed(8)
    of_classes = 0.2 + torch.rand(classes, 3, generator=g, dtype=F64)
    of_pixels = 2 * torch.rand(*shape, 2, generator=g, dtype=F64) - 0.5
    of_pixels = of_pixels.where(of_pixels.abs() > 0.1, 0.0)
    first, second = dtypes
    return first and of_classes.to(first)[:, 1], second and of_pixels.to(second)[..., 1]


def check(
    library, shape=(2, 5, 6, 7), size=(29, 40), dtype=F32, label_dtype=torch.int64, layout="nchw", *,
    align_corners=True, kinds=(None, None), smoothing=0.0, ignore_index=255, scale=1.0, change=None,
    value=float("nan"), seeds=(1,), expect=None,
) -> None:  # fmt: skip
    """kinds: dtypes of the weights of classes and of pixels; change: edits labels.

    value: what nodes hold that no pixel needs; expect: facts of the launches.
    """
    inputs = shape, size, dtype, label_dtype, layout, lambda x: scale * x
    scores, labels = loss_inputs.make(*inputs)
    labels = labels if change is None else change(labels)
    options = *weights(labels.shape, scores.shape[1], kinds), align_corners, ignore_index, smoothing
    truth = reference.forward(scores.double(), labels, *options, True, True)
    plain = reference.forward(scores, labels, *options, True, True)
    used, _ = loss_inputs.make(*inputs)
    if layout != "expanded":  # in place, to keep the strides
        used.masked_fill_(loss_inputs.unread(scores, labels, align_corners, ignore_index), value)
    eps, first = EPS_DOUBLE if dtype == F64 else EPS, None
    for seed in seeds:
        found, facts = run(library, used, labels, *options, seed=seed)
        for name, ours, one, exact in zip(("total", "losses", "slope"), found, plain, truth, strict=True):
            assert_as_accurate(ours, one, exact, eps, name)
        for i in (0, 1):  # the smaller of the two as well
            assert_as_accurate(found[0][i], plain[0][i], truth[0][i], 4 * eps, f"total {i}")
        assert facts["launches"] == (3 if found[2].numel() else 1), f"{facts['launches']} launches"
        for name, fact in (expect or {}).items():
            assert fact(facts[name]) if callable(fact) else facts[name] == fact, f"{name} is {facts[name]}"
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True)), "another schedule gave other bits"
    for with_map, with_slope in ((False, False), (True, False), (False, True)):
        part, _ = run(library, used, labels, *options, with_map, with_slope)
        wanted = first[0], first[1] if with_map else part[1], first[2] if with_slope else part[2]
        assert all(torch.equal(a, b) for a, b in zip(part, wanted, strict=True)), "less asked for gave other bits"


def check_columns(library) -> None:
    """Every number of rows and columns from a few nodes, both ways: each pixel is counted once."""
    for align_corners in (True, False):
        for source in (1, 2, 3, 5):
            for size in range(1, 24):
                scores = torch.zeros(1, 2, source, 2)
                labels = torch.zeros(1, size, 3, dtype=torch.uint8)
                (total, losses, slope), _ = run(library, scores, labels, None, None, align_corners, 255, 0.0)
                assert losses.allclose(torch.tensor(2.0).log()), f"{source} to {size}"
                assert total[1] == size * 3, f"the divisor of {source} to {size}"
                assert abs(slope[0, 0].sum() + size * 3 / 2) < 1e-4, f"the gradient of {source} to {size}"


def _cases():
    layouts = dense.LAYOUTS
    for i, layout in enumerate(layouts):
        for j, dtype in enumerate((F32, F16, BF16, F64)):
            label_dtype = (torch.uint8, torch.int32, torch.int64)[(i + j) % 3]
            case = dict(shape=(2, 6, 5, 7), dtype=dtype, label_dtype=label_dtype, layout=layout)
            yield f"{str(dtype)[6:]}, {layout}", case | dict(align_corners=i % 2 == 0)
    for shape, size, name in loss_inputs.SIZES:
        for align_corners in (True, False):
            yield f"{name}, align_corners {align_corners}", dict(shape=shape, size=size, align_corners=align_corners)
    for classes in (1, 2, 7, 8, 9, 16, 17, 19, 33):
        yield f"{classes} classes", dict(shape=(1, classes, 3, 4), size=(17, 21), kinds=(F32, F32))
    yield "255 classes", dict(shape=(1, 255, 2, 2), size=(5, 6), label_dtype=torch.uint8)
    for kinds in ((F32, None), (None, F32), (F64, F64), (F32, F64)):
        for smoothing in (0.0, 0.2, 1.0):
            names = " and ".join("none" if k is None else str(k)[6:] for k in kinds)
            yield f"weights {names}, smoothing {smoothing}", dict(kinds=kinds, smoothing=smoothing)
    yield "smoothing alone", dict(smoothing=0.1, align_corners=False)
    yield "all of it, float64", dict(kinds=(F64, F32), smoothing=0.3, dtype=F64)
    for ignore_index in (0, -100, 4):
        yield f"ignore_index {ignore_index}", dict(ignore_index=ignore_index)
    yield "all ignored", dict(change=lambda y: y * 0 + 255)
    yield "one label", dict(change=lambda y: y * 0 + 1)
    yield "labels far out", dict(change=lambda y: y.where(y != 1, 2**40).where(y != 2, -(2**40)))
    for value in (float("inf"), -float("inf"), 0.0):
        yield f"unused nodes {value}", dict(value=value, change=lambda y: y.where(torch.arange(40) > 20, 255))
    yield "unused rows", dict(change=lambda y: y.where(torch.arange(29)[:, None] > 15, 255), smoothing=0.1)
    for scale in (1e-3, 30.0):
        yield f"logits times {scale}", dict(scale=scale)
    yield "schedules", dict(seeds=range(2, 5), kinds=(F32, F32), smoothing=0.1)
    yield "8-fold tiles", dict(shape=(1, 2, 3, 40), size=(24, 320), expect={"tile": 15, "tiles": 3, "parts": 1})
    yield "long cells", dict(shape=(1, 2, 2, 3), size=(100, 9), expect={"parts": 3})
    for shape in ((0, 4, 3, 3), (2, 4, 3, 3)):
        for size in ((5, 6), (0, 6), (5, 0)):
            yield f"shape {shape} to {size}", dict(shape=shape, size=size)


def _bind(options):
    return lambda library: check(library, **options)


CROSS_ENTROPY = {name: _bind(options) for name, options in _cases()}
CROSS_ENTROPY["every size"] = check_columns
TABLES = {"upsample_cross_entropy": CROSS_ENTROPY}
