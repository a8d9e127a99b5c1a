"""Cases for lovasz_softmax.cu under the emulation, each against the reference; see cases.py."""

from __future__ import annotations

import ctypes

import dense
import emulated
import loss_inputs
import torch
from torch import Tensor

from fastuda.reference import lovasz_softmax as reference

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
NAMES = (
    "seed", "type", "images", "classes", "height", "width", "align_corners", "label_bytes", "ignore_index", "bins",
    "probabilities", "with_slope", "multiprocessors", "errors_at_once", "shared_totals",
)  # fmt: skip


class Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_longlong) for name in NAMES]


def run(
    library, scores: Tensor, labels: Tensor, bins: int, probabilities: bool, align_corners: bool, ignore_index: int,
    with_slope: bool = True, *, card: int = 28, seed: int = 0, group: int = 0, shared_totals: int = 2048,
) -> tuple[tuple[Tensor, Tensor], dict[str, int]]:  # fmt: skip
    """Loss and slope, as the raw operator gives them, and facts of the launches.

    card: its multiprocessors; group: classes whose errors are sorted at once, 0: as many as usual;
    shared_totals: how many a block counts the pixels of by itself.
    """
    library.lovasz_softmax.restype = ctypes.c_char_p
    options = Options(
        seed, emulated.TYPES[scores.dtype], *scores.shape[:2], *labels.shape[1:], align_corners,
        labels.element_size(), ignore_index, bins, probabilities, with_slope, card,
        group * labels.numel(), shared_totals,
    )  # fmt: skip
    dtype = F64 if scores.dtype == F64 else F32
    results = emulated._nan((), dtype), emulated._nan(scores.shape if with_slope else (0,), dtype)
    facts = (ctypes.c_longlong * 2)()
    inputs = emulated.array(scores, True), emulated.array(labels, False)
    emulated._call(library.lovasz_softmax, options, *inputs, *(emulated.matrix(t) for t in results), facts)
    return results, dict(zip(("launches", "shared"), facts, strict=True))


def scratch(library, shape, size, bins: int, dtype=F32, with_slope: bool = True) -> int:
    library.lovasz_softmax_scratch.restype = ctypes.c_longlong
    options = Options(0, emulated.TYPES[dtype], *shape[:2], *size, True, 1, 255, bins, False, with_slope, 28)
    return library.lovasz_softmax_scratch(ctypes.byref(options), *shape[2:])


def compare(ours, truth, exact: bool, share: float) -> None:
    """In float32 an error at the edge of two bins may lie in either: so for few gradients, and the loss is near."""
    loss, slope = ours
    for value, true in zip(ours, truth, strict=True):
        assert torch.equal(value.isfinite(), true.isfinite()), "finite where the truth is not, or the reverse"
    if exact:
        torch.testing.assert_close(loss, truth[0], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(slope, truth[1], rtol=1e-10, atol=1e-13)
        return
    torch.testing.assert_close(loss.double(), truth[0], rtol=1e-4, atol=1e-6)
    if slope.numel():
        far = (slope.double() - truth[1]).abs() > 1e-4 * truth[1].abs().max() + 1e-9
        assert far.sum() <= 1 + share * far.numel(), f"{far.sum()} of {far.numel()} gradients differ"


def expected_launches(scores: Tensor, labels: Tensor, bins: int, group: int) -> int:
    """Of a call without a gradient, as the kernels' files state them."""
    if bins:
        return 5 if scores.shape[0] else 3
    passes, groups = 8 if scores.dtype == F64 else 4, -(-scores.shape[1] // group) if group else 1
    return 3 + groups * (1 + 3 * passes + 2) if labels.numel() else 2


def check(
    library, shape=(2, 5, 6, 7), size=(29, 40), dtype=F32, label_dtype=torch.int64, layout="nchw", *, bins=20,
    probabilities=False, align_corners=True, ignore_index=255, scale=1.0, change=None, value=float("nan"), card=28,
    seeds=(1,), expect=None, group=0, with_alone=True, shared_totals=2048,
) -> None:  # fmt: skip
    """change: edits labels; value: what nodes hold that no pixel needs; expect: facts of the launches;
    group, shared_totals: as in ``run``; with_alone: whether the loss without a gradient is computed, too."""

    def inputs():
        def prepare(x):
            return (scale * x).softmax(1) if probabilities else scale * x

        scores, labels = loss_inputs.make(shape, size, dtype, label_dtype, layout, prepare)
        return scores, labels if change is None else change(labels)

    scores, labels = inputs()
    options = bins, probabilities, align_corners, ignore_index
    truth = reference.forward(scores.double(), labels, *options, True)
    used, _ = inputs()
    if layout != "expanded":  # in place, to keep the strides
        used.masked_fill_(loss_inputs.unread(scores, labels, align_corners, ignore_index), value)
    first = None
    for seed in seeds:
        found, facts = run(
            library, used, labels, *options, card=card, seed=seed, group=group, shared_totals=shared_totals
        )
        compare(found, truth, dtype == F64, max(0.02, bins / 40_000))
        for name, fact in (expect or {}).items():
            assert fact(facts[name]) if callable(fact) else facts[name] == fact, f"{name} is {facts[name]}"
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True)), "another schedule gave other bits"
    if not with_alone:
        return
    alone, facts = run(library, used, labels, *options, False, card=card, group=group)
    assert torch.equal(alone[0], first[0]), "without a gradient the loss has other bits"
    assert facts["launches"] == expected_launches(scores, labels, bins, group), f"{facts['launches']} launches"


def check_ties(library, bins_of=(1, 5, 8, 16, 64)) -> None:
    """Probabilities that are few numbers, at their own size: bit for bit where each error lies, every dtype."""
    g = torch.Generator().manual_seed(2)
    for classes, dtype in ((1, F32), (6, BF16), (9, F16), (17, F32)):
        p = torch.randint(0, 9, (2, classes, 20, 33), generator=g).to(dtype) / 8
        labels = torch.randint(-1, classes, (2, 20, 33), generator=g)
        for bins in bins_of:
            for layout in ("nchw", "channels_last"):
                (loss, slope), _ = run(library, dense.lay_out(p, layout), labels, bins, True, True, 255)
                true, expected = reference.forward(p.float(), labels, bins, True, True, 255, True)
                torch.testing.assert_close(loss, true, rtol=2e-6, atol=0)
                torch.testing.assert_close(slope, expected, rtol=2e-6, atol=0)


def check_extremes(library, bins: int = 10) -> None:
    labels = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    perfect = torch.nn.functional.one_hot(labels.long().clamp(max=1), 2).permute(0, 3, 1, 2).float()
    assert run(library, perfect, labels, 100 * bins, True, True, 255)[0][0] == 0, "perfect and yet a loss"
    assert run(library, 1 - perfect, labels, 100 * bins, True, True, 255)[0][0] == 1, "all wrong is not 1"
    wrong = perfect.clone()
    wrong[0, 0, 0, 1] = torch.nan
    assert run(library, wrong, labels, bins, False, True, 255)[0][0].isnan(), "no number in and yet a number out"
    assert run(library, wrong, labels, bins, True, True, 255)[0][0].isnan(), "no probability in and yet a number out"
    absent = torch.cat([perfect, torch.full((1, 1, 2, 2), torch.nan)], 1)
    assert run(library, absent, labels, bins, True, True, 255)[0][0] == 0, "a class that does not occur counts"
    if not bins:
        return
    beyond = 3 * perfect - 1  # not probabilities, and yet in some bin
    (loss, slope), _ = run(library, beyond, labels, bins, True, True, 255)
    true, expected = reference.forward(beyond, labels, bins, True, True, 255, True)
    torch.testing.assert_close(loss, true)
    torch.testing.assert_close(slope, expected)


def _cases():
    for i, layout in enumerate(dense.LAYOUTS):
        for j, dtype in enumerate((F32, F16, BF16, F64)):
            label_dtype = (torch.uint8, torch.int32, torch.int64)[(i + j) % 3]
            case = dict(shape=(2, 6, 5, 7), dtype=dtype, label_dtype=label_dtype, layout=layout)
            yield f"{str(dtype)[6:]}, {layout}", case | dict(align_corners=i % 2 == 0, probabilities=(i + j) % 3 == 0)
    for shape, size, name in loss_inputs.SIZES:
        for align_corners in (True, False):
            case = dict(shape=shape, size=size, align_corners=align_corners, bins=9)
            yield f"{name}, align_corners {align_corners}", case
            yield f"{name}, align_corners {align_corners}, float64", case | dict(dtype=F64)
    for classes in (1, 2, 7, 8, 9, 17, 19, 33):
        yield f"{classes} classes", dict(shape=(1, classes, 3, 4), size=(17, 21), bins=7)
        yield f"{classes} classes, float64", dict(shape=(1, classes, 3, 4), size=(17, 21), bins=30, dtype=F64)
    yield "255 classes", dict(shape=(1, 255, 2, 2), size=(5, 6), label_dtype=torch.uint8, bins=3)
    for bins in (1, 2, 3, 255, 256, 257, 1000, 4001):
        yield f"{bins} bins, float64", dict(bins=bins, dtype=F64)
        yield f"{bins} bins", dict(bins=bins, scale=0.5)
    yield "65536 bins", dict(bins=65536, shape=(1, 2, 3, 3), size=(9, 9))
    fits, not_quite = {"shared": lambda n: 40_000 < n <= 48 * 1024}, {"shared": lambda n: n < 20_000}
    yield "as many bins as fit", dict(bins=4804, expect=fits)
    yield "one bin more", dict(bins=4805, expect=not_quite)
    for ignore_index in (0, -100, 4):
        yield f"ignore_index {ignore_index}", dict(ignore_index=ignore_index)
    yield "all ignored", dict(change=lambda y: y * 0 + 255)
    yield "one label", dict(change=lambda y: y * 0 + 1)
    yield "a class is missing", dict(change=lambda y: y.where(y != 1, 2), bins=30)
    yield "a class is missing, probabilities", dict(change=lambda y: y.where(y != 1, 2), probabilities=True)
    for value in (float("inf"), -float("inf"), 0.0):
        yield f"unused nodes {value}", dict(value=value, change=lambda y: y.where(torch.arange(40) > 20, 255))
    for scale in (1e-3, 30.0):
        yield f"logits times {scale}", dict(scale=scale, bins=7)
    yield "schedules", dict(seeds=range(2, 5))
    yield "few blocks", dict(card=1, shape=(2, 3, 5, 6))
    yield "few blocks, bins in global memory", dict(card=1, shape=(2, 3, 5, 6), bins=9001)
    yield "many chunks", dict(card=1, shape=(1, 2, 2, 2), size=(1100, 300), bins=5, change=lambda y: y * 0 + 1)
    for shape in ((0, 4, 3, 3), (2, 4, 3, 3)):
        for size in ((5, 6), (0, 6), (5, 0)):
            yield f"shape {shape} to {size}", dict(shape=shape, size=size)


def _exact_cases():
    """What the walks share with the bins is tested there; here the order: tiles, passes, groups of classes."""
    for i, dtype in enumerate((F32, F16, BF16, F64)):
        layout, label_dtype = dense.LAYOUTS[i], (torch.uint8, torch.int32, torch.int64)[i % 3]
        case = dict(shape=(2, 3, 5, 7), size=(9, 40), dtype=dtype, label_dtype=label_dtype, layout=layout)
        yield f"{str(dtype)[6:]}, {layout}", case | dict(align_corners=i % 2 == 0)
        yield f"{str(dtype)[6:]}, {layout}, probabilities", case | dict(probabilities=True)
    for i, (shape, size, name) in enumerate(loss_inputs.SIZES):
        case = dict(shape=(shape[0], 2, *shape[2:]), size=size, align_corners=i % 2 == 0)
        yield f"{name}", case
        if size[0] * size[1] < 500:
            yield f"{name}, float64", case | dict(dtype=F64)
    for classes in (1, 8, 9, 17):
        yield f"{classes} classes", dict(shape=(1, classes, 3, 4), size=(5, 11))
    yield "9 classes, float64", dict(shape=(1, 9, 3, 4), size=(5, 11), dtype=F64)
    yield "70 classes", dict(shape=(1, 70, 2, 2), size=(3, 2), label_dtype=torch.uint8)
    yield "totals in global memory", dict(shape=(1, 3, 3, 4), size=(9, 40), shared_totals=2)
    yield "totals in global memory, float64", dict(shape=(2, 3, 3, 4), size=(3, 40), shared_totals=2, dtype=F64)
    for pixels in (2047, 2048, 2049, 4200):
        yield f"{pixels} pixels", dict(shape=(1, 2, 1, 20), size=(1, pixels))
    yield "many tiles", dict(shape=(1, 2, 1, 20), size=(1, 2048 * 33 + 5), probabilities=True, with_alone=False)
    yield "groups of classes, float64", dict(shape=(1, 4, 3, 4), size=(5, 11), group=3, dtype=F64)
    yield "groups of one class", dict(shape=(1, 9, 3, 4), size=(5, 11), group=1)
    yield "groups, probabilities", dict(shape=(1, 5, 3, 4), size=(5, 11), group=2, probabilities=True)
    for scale in (1e-3, 30.0):
        yield f"logits times {scale}", dict(scale=scale, shape=(1, 3, 3, 4), size=(9, 40))
    yield "all ignored", dict(change=lambda y: y * 0 + 255, shape=(1, 3, 3, 4))
    yield "one label", dict(change=lambda y: y * 0 + 1, shape=(1, 3, 3, 4))
    for probabilities in (False, True):
        yield (
            f"a class is missing, {probabilities}",
            dict(change=lambda y: y.where(y != 1, 2), probabilities=probabilities, shape=(1, 3, 3, 4)),
        )
    yield "unused nodes", dict(value=float("inf"), change=lambda y: y.where(torch.arange(40) > 20, 255))
    yield "schedules", dict(seeds=range(2, 5), shape=(1, 2, 5, 6), size=(29, 80))
    yield "schedules, float64", dict(seeds=range(2, 4), shape=(1, 2, 5, 6), size=(9, 40), dtype=F64)
    yield "few blocks", dict(card=1, shape=(2, 2, 5, 6))
    for shape in ((0, 4, 3, 3), (2, 2, 3, 3)):
        for size in ((5, 6), (0, 6), (5, 0)):
            yield f"shape {shape} to {size}", dict(shape=shape, size=size)


def check_exact_ties(library) -> None:
    check_ties(library, (0,))


def check_exact_extremes(library) -> None:
    check_extremes(library, 0)


def _bind(options):
    return lambda library: check(library, **options)


LOVASZ = {name: _bind(options) for name, options in _cases()}
LOVASZ |= {"ties": check_ties, "extremes": check_extremes}
LOVASZ |= {f"exact, {name}": _bind(options | dict(bins=0)) for name, options in _exact_cases()}
LOVASZ |= {"exact, ties": check_exact_ties, "exact, extremes": check_exact_extremes}
TABLES = {"lovasz_softmax": LOVASZ}
