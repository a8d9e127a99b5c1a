"""Cases for mode_losses.cu under the emulation, each against the reference in float64; see cases.py."""

from __future__ import annotations

import ctypes
import math

import cases
import emulated
import torch
from cases import BF16, F16, F32, F64
from close import assert_as_accurate
from torch import Tensor

from fastuda.reference import mode_losses as reference

EPS, EPS_DOUBLE = 1e-6, 1e-13
PLAN = ("slices", "tiles", "runs")
FORWARD = ("triplet", "cross_entropy", "own_mode", "rival", "weight", "nearest")


class Options(ctypes.Structure):
    _fields_ = [
        ("common", emulated.Options),
        *((name, ctypes.c_longlong) for name in ("per_class", "double_modes", "square")),
        *((name, ctypes.c_double) for name in ("sigma2", "margin")),
    ]


def _options(features, labels, modes, ignore_index, card, seed, sigma2=0.5, margin=1.0, square=False) -> Options:
    common = emulated._options(features, labels, modes.shape[0], ignore_index, card, seed)
    return Options(common, modes.shape[1], modes.dtype == F64, square, sigma2, margin)


def forward(
    library, features: Tensor, labels: Tensor, modes: Tensor, sigma2: float, margin: float, square: bool,
    ignore_index: int, *, card=emulated.PASCAL, seed: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    library.mode_losses_forward.restype = ctypes.c_char_p
    dtype, shape = F64 if features.dtype == F64 else F32, tuple(labels.shape)
    results = (
        emulated._nan(shape, dtype),
        emulated._nan(shape, dtype),
        torch.full(shape, 77),
        torch.full(shape, 77),
        emulated._nan((*shape, modes.shape[0]), dtype),
        torch.full((*shape, modes.shape[0]), 77, dtype=torch.uint8),
    )
    options = _options(features, labels, modes, ignore_index, card, seed, sigma2, margin, square)
    inputs = emulated.array(features, True), emulated.array(labels, False), emulated.matrix(modes)
    emulated._call(library.mode_losses_forward, options, *inputs, *(emulated.matrix(t) for t in results))
    return results


def backward(
    library, grad_triplet: Tensor, grad_cross_entropy: Tensor, features: Tensor, labels: Tensor, modes: Tensor,
    triplet: Tensor, rival: Tensor, weight: Tensor, nearest: Tensor, ignore_index: int, *, card=emulated.PASCAL,
    seed: int = 0,
) -> tuple[Tensor, Tensor, dict[str, int]]:  # fmt: skip
    library.mode_losses_backward.restype = ctypes.c_char_p
    slope = torch.empty_like(features).fill_(float("nan"))
    modes_slope = emulated._nan(modes.shape, triplet.dtype)
    options = _options(features, labels, modes, ignore_index, card, seed)
    inputs = emulated.array(features, True), emulated.array(labels, False), emulated.matrix(modes)
    grads = (emulated.array(g, False) for g in (grad_triplet, grad_cross_entropy))
    saved = (emulated.matrix(t) for t in (triplet, rival, weight, nearest))
    plan = (ctypes.c_int * len(PLAN))()
    results = emulated.array(slope, True), emulated.matrix(modes_slope)
    emulated._call(library.mode_losses_backward, options, *inputs, *grads, *saved, *results, plan)
    return slope, modes_slope, dict(zip(PLAN, plan, strict=True))


def centres(classes: int, per_class: int, channels: int, dtype=F32, near: float = 3.0, seed: int = 5) -> Tensor:
    """Modes spread by ``near`` around a centre of their class."""
    g = torch.Generator().manual_seed(seed)
    middle = 3 * torch.randn(classes, 1, channels, generator=g)
    return (middle + near * torch.randn(classes, per_class, channels, generator=g)).to(dtype)


def _images(tensor: Tensor) -> Tensor:
    """(P, d) or (P,) as the raw operator takes them."""
    return tensor.T[None, :, :, None] if tensor.dim() == 2 else tensor[None, :, None] if tensor.dim() == 1 else tensor


def _incoming(labels: Tensor, wide, dtype, broadcast: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Incoming gradients in float64, and the same in the losses' dtype."""
    g = torch.Generator().manual_seed(9)
    grads = [1000 * torch.randn(labels.shape, generator=g, dtype=wide) for _ in range(2)]
    if not broadcast:
        return grads, [grad.to(dtype) for grad in grads]
    one = torch.full((1,) * labels.dim(), 3.0, dtype=wide)
    return [one.expand(labels.shape)] * 2, [one.to(dtype).expand(labels.shape)] * 2


def check(
    library, shape=(2, 37, 5, 13), classes=5, per_class=3, dtype=F32, label_dtype=torch.int64, layout="nchw", *,
    sigma2=0.5, margin=1.0, square=False, mode_dtype=F32, near=3.0, scale=1.0, ignore_index=255, change=None,
    change_modes=None, strided_modes=False, broadcast=False, card=emulated.PASCAL, seeds=(1,), expect=None,
    exact=True, offset=0.0, numbers=False,
) -> None:  # fmt: skip
    """change, change_modes: edit labels, modes; broadcast: incoming gradients of stride 0; expect: facts of the plan.

    exact: modes and rival must be those of float64, else only their distances; numbers: ignored pixels are no NaN.
    """
    features, labels = cases.make(shape, classes, torch.float32, label_dtype, seed=3)
    scale *= 2.0 ** -round(math.log2(4 * max(1, shape[1]) ** 0.5))
    features = (features * scale + offset).to(dtype)
    modes = (centres(classes, per_class, shape[1], mode_dtype, near) * scale) + offset
    labels = labels if change is None else change(labels)
    modes = modes if change_modes is None else change_modes(modes)
    valid = cases.valid_of(labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0.0)
    settings = sigma2, margin, square, ignore_index
    truth = reference.forward(clean.double(), labels, modes, *settings)
    plain = reference.forward(clean, labels, modes, *settings)
    grads, narrow = _incoming(labels, truth[0].dtype, plain[0].dtype, broadcast)

    def gradients(found, incoming, values):
        return reference.backward(*incoming, values, labels, modes, found[0], *found[3:], ignore_index)

    slopes, plain_slopes = gradients(truth, grads, clean.double()), gradients(plain, narrow, clean)
    if not numbers:
        features = features.masked_fill(~valid.unsqueeze(1), float("nan"))  # ignored pixels reach no result
    features, labels = (_images(t) for t in cases.lay_out(features, labels, layout))
    if strided_modes:
        wide = torch.full((classes + 1, 2 * per_class, shape[1] + 3), float("nan"), dtype=mode_dtype)
        modes = wide[1:, ::2, 2:-1].copy_(modes)
    images = labels.shape
    narrow = [grad if broadcast and layout != "rows" else grad.reshape(images) for grad in narrow]
    eps, first = EPS if dtype != F64 else EPS_DOUBLE, None
    for seed in seeds:
        found = forward(library, features, labels, modes, *settings, card=card, seed=seed)
        for name, ours, one, true in zip(FORWARD, found, plain, truth, strict=True):
            ours = ours.view(true.shape)
            if ours.is_floating_point():
                assert_as_accurate(ours, one, true, eps, name)
            elif exact:
                assert torch.equal(ours, true), f"{name} differs at {(ours != true).sum()} places"
        saved = found[0], *found[3:]
        slope, modes_slope, plan = backward(
            library, *narrow, features, labels, modes, *saved, ignore_index, card=card, seed=seed
        )
        for name, value in (expect or {}).items():
            assert value(plan[name]) if callable(value) else plan[name] == value, f"{name} is {plan[name]}: {plan}"
        ours = slope.permute(0, 2, 3, 1).reshape(-1, shape[1])
        one, true = (s[0].permute(0, 2, 3, 1).reshape(-1, shape[1]) for s in (plain_slopes, slopes))
        assert_as_accurate(ours, one, true, 2 * eps, "slope")
        assert_as_accurate(modes_slope, plain_slopes[1], slopes[1], 2 * eps, "slope of modes")
        results = *found, slope, modes_slope
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(results, first, strict=True)), "another schedule gave other bits"


def check_ties(library) -> None:
    """Equal modes and equal classes: the lowest index, in one tile and across two."""
    for classes, per_class, tied in ((3, 2, 6), (30, 3, 90), (3, 70, 210)):
        modes = torch.ones(classes * per_class, 4)
        modes[: classes * per_class - tied] = 9.0
        modes = modes.view(classes, per_class, 4)
        features, labels = torch.zeros(1, 4, 1, classes + 1), torch.arange(classes + 1)[None, None]
        triplet, _, own, rival, _, nearest = forward(library, features, labels, modes, 0.5, 1.0, False, 255)
        assert not nearest.any(), "not the first of equal modes"
        assert own.flatten().tolist() == [0] * classes + [-1]
        assert rival.flatten().tolist() == [1, *[0] * (classes - 1), -1], "not the first of equal classes"
        assert triplet.flatten().tolist() == [1.0] * classes + [0.0]


def _duplicate(modes: Tensor) -> Tensor:
    """Each class's modes once more, and class 1 as class 0."""
    half = (modes.shape[1] + 1) // 2
    modes[:, half:] = modes[:, : modes.shape[1] - half]
    modes[1] = modes[0]
    return modes


def _cases():
    layouts = ("nchw", "rows", "channels_last", "sliced", "wide_rows")
    kinds = [(f, y) for f in (F32, F16, BF16, F64) for y in (torch.uint8, torch.int32, torch.int64)]
    for i, (dtype, label_dtype) in enumerate(kinds):
        name = f"{str(dtype)[6:]}, {str(label_dtype)[6:]}, {layouts[i % 5]}"
        yield name, dict(dtype=dtype, label_dtype=label_dtype, layout=layouts[i % 5], square=i % 4 == 3)
    for layout in layouts:
        yield f"double modes, {layout}", dict(shape=(2, 9, 3, 11), mode_dtype=F64, layout=layout, strided_modes=True)
    for channels in (1, 3, 31, 32, 33, 64, 65, 130):
        case = dict(shape=(1, channels, 3, 11), classes=3, layout=layouts[channels % 2])
        yield f"{channels} channels", case
    yield "65 channels, rows", dict(shape=(1, 65, 3, 11), classes=3, layout="rows", expect={"slices": 2})
    yield "33 channels, float64", dict(shape=(1, 33, 3, 11), classes=3, dtype=F64, expect={"slices": 2, "tiles": 1})
    for pixels in (1, 31, 32, 33, 127, 128, 129, 257):
        case = dict(shape=(1, 6, 1, pixels), classes=3, layout=layouts[pixels % 2])
        yield f"{pixels} pixels", case
    for classes, per_class in ((1, 1), (1, 3), (2, 1), (19, 3), (64, 1), (65, 1), (16, 4), (22, 3), (2, 70), (3, 256)):
        tiles = -(-classes * per_class // 64)
        case = dict(shape=(1, 7, 5, 15), classes=classes, per_class=per_class, expect={"tiles": tiles})
        yield f"{classes} classes of {per_class} modes", case
    yield "tiles, rows, bfloat16", dict(shape=(1, 66, 3, 13), classes=30, layout="rows", dtype=BF16)
    yield "tiles, float64", dict(shape=(1, 7, 3, 13), classes=7, dtype=F64)
    yield "tiles, two slices, runs", dict(
        shape=(1, 70, 9, 15), classes=25, card=(2, 48 * 1024), expect={"slices": 2, "tiles": 2, "runs": 2}
    )  # fmt: skip
    few = {"runs": lambda n: 1 < n < 6}
    for layout in ("nchw", "rows"):
        yield f"runs of several steps, {layout}", dict(
            shape=(1, 8, 11, 37), classes=4, layout=layout, card=(1, 48 * 1024), expect=few
        )  # fmt: skip
    yield "schedules", dict(shape=(1, 40, 7, 19), seeds=range(2, 6), expect={"runs": 5})
    yield "schedules, tiles", dict(shape=(1, 9, 3, 19), classes=23, seeds=range(2, 4))
    yield "square", dict(square=True, sigma2=2.0, margin=0.25)
    yield "another sigma2 and margin", dict(sigma2=0.05, margin=7.0)
    yield "no margin", dict(margin=0.0)
    yield "large distances", dict(scale=16.0)
    yield "near modes", dict(near=1e-3, exact=False)
    yield "near modes far off", dict(near=0.01, offset=100.0, exact=False)
    yield "equal modes", dict(per_class=4, change_modes=_duplicate)
    yield "gradients of stride 0", dict(broadcast=True)
    yield "gradients of stride 0, rows", dict(broadcast=True, layout="channels_last")
    yield "ignored pixels are numbers", dict(numbers=True)
    yield "all ignored", dict(change=lambda y: y * 0 + 255)
    yield "a class is missing", dict(change=lambda y: y.where(y != 1, 2))
    yield "another ignore_index", dict(ignore_index=2)
    yield "ignore_index beyond the classes", dict(ignore_index=-100)
    for shape in ((0, 4, 3, 3), (1, 4, 0, 3), (3, 5, 1, 1)):
        yield f"shape {shape}", dict(shape=shape, classes=3)


def _bind(options):
    return lambda library: check(library, **options)


MODES = {name: _bind(options) for name, options in _cases()}
MODES["ties"] = check_ties
TABLES = {"mode_losses": MODES}
