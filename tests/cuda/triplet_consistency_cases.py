"""Cases for triplet_consistency_loss.cu under the emulation, against the reference in float64; see cases.py."""

from __future__ import annotations

import ctypes

import emulated
import torch
from close import assert_as_accurate
from torch import Tensor

from fastuda.reference import triplet_consistency_loss as reference

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
EPS, EPS_DOUBLE = 1e-6, 1e-13


class Options(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_longlong) for name in ("seed", "type", "rows", "sources", "channels")),
        ("margin", ctypes.c_double),
    ]


def _options(target: Tensor, source: Tensor, seed: int, margin: float = 0.0) -> Options:
    return Options(seed, emulated.TYPES[target.dtype], len(target), len(source), target.shape[1], margin)


def _kind(target: Tensor) -> torch.dtype:
    return F64 if target.dtype == F64 else F32


def forward(library, target, source, positive, negative, valid, margin: float, seed: int = 0) -> Tensor:
    library.triplet_forward.restype = ctypes.c_char_p
    loss = torch.full((len(target),), float("nan"), dtype=_kind(target))
    arrays = (emulated.matrix(t) for t in (target, source, positive, negative, valid, loss))
    emulated._call(library.triplet_forward, _options(target, source, seed, margin), *arrays)
    return loss


def backward(library, grad, target, source, positive, negative, loss, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    """Both slopes and the launches."""
    library.triplet_backward.restype = ctypes.c_char_p
    slopes = [torch.empty_like(target).fill_(float("nan")), torch.full(source.shape, float("nan"), dtype=source.dtype)]
    facts = (ctypes.c_int * 1)()
    arrays = (emulated.matrix(t) for t in (grad, target, source, positive, negative, loss, *slopes))
    emulated._call(library.triplet_backward, _options(target, source, seed), *arrays, facts)
    return *slopes, facts[0]


def scratch(library, rows: int, sources: int, channels: int, dtype) -> int:
    library.triplet_scratch.restype = ctypes.c_longlong
    return library.triplet_scratch(ctypes.byref(Options(0, emulated.TYPES[dtype], rows, sources, channels, 0.0)))


def lay_out(rows: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return rows.T.contiguous().T
    if layout == "wide":  # rows apart, still quads
        return torch.full((len(rows), rows.shape[1] + 8), float("nan"), dtype=rows.dtype)[:, 4:-4].copy_(rows)
    count, channels = rows.shape
    if layout in ("odd", "uneven", "padded"):  # no row begins where four channels do, only the first one, all do
        begin, fours = {"odd": 3, "uneven": 0, "padded": 4}[layout], -(-channels // 4) * 4
        wide = torch.full((count, fours + (5 if layout == "uneven" else 8)), float("nan"), dtype=rows.dtype)
        return wide[:, begin : begin + channels].copy_(rows)
    if layout == "gaps":
        wide = torch.full((2 * len(rows), 2 * rows.shape[1]), float("nan"), dtype=rows.dtype)
        return wide[::2, ::2].copy_(rows)
    assert layout == "rows"
    return rows


def _apart(vector: Tensor) -> Tensor:
    return torch.stack([vector, vector.logical_not().to(vector.dtype)], 1)[:, 0]


def make(rows: int, sources: int, channels: int, draw, dtype):
    """Embeddings, partners and the incoming gradient; rows that no one needs are NaN."""
    g = torch.Generator().manual_seed(rows + channels)
    target, source = (torch.randn(n, channels, generator=g) for n in (rows, sources))
    positive, negative = (torch.randint(0, max(1, sources), (rows,), generator=g) for _ in range(2))
    valid = torch.rand(rows, generator=g) < 0.9
    if draw is not None:
        positive, negative, valid = draw(positive, negative, valid)
    positive, negative = positive.where(valid, 0), negative.where(valid, 0)
    if sources:  # without any the definition takes 0 x target
        target[~valid] = float("nan")
    used = torch.zeros(sources, dtype=torch.bool)
    if sources:
        used[positive[valid]] = used[negative[valid]] = True
    source[~used] = float("nan")
    grad = (10 if dtype == F16 else 1000) * torch.randn(rows, generator=g)  # sums that float16 can hold
    return target.to(dtype), source.to(dtype), positive, negative, valid, grad.where(valid, float("nan"))


def check(
    library, rows=150, sources=90, channels=20, dtype=F32, layouts=("rows", "rows"), *, draw=None, margin=0.5,
    apart=False, schedules=(1,), passes=1,
) -> None:  # fmt: skip
    """layouts: of target and source; draw: edits positive, negative, valid; apart: strided vectors; passes: sort's."""
    target, source, positive, negative, valid, grad = make(rows, sources, channels, draw, dtype)
    kind, eps = _kind(target), EPS_DOUBLE if dtype == F64 else EPS
    grad = grad.to(kind)
    plain = reference.forward(target, source, positive, negative, valid, margin)
    truth = reference.forward(target.double(), source.double(), positive, negative, valid, margin)
    partners = positive, negative
    slopes = reference.backward(grad, target, source, *partners, plain)
    exact = reference.backward(grad.double(), target.double(), source.double(), *partners, plain)
    target, source = lay_out(target, layouts[0]), lay_out(source, layouts[1])
    given, given_grad, given_loss, given_valid = partners, grad, plain, valid
    if apart:
        given = [_apart(p) for p in partners]
        given_grad, given_loss, given_valid = torch.stack([grad, grad * 0], 1)[:, 0], _apart(plain), _apart(valid)
    first = None
    for schedule in schedules:
        loss = forward(library, target, source, *given, given_valid, margin, schedule)
        assert_as_accurate(loss, plain, truth, eps, "loss")
        assert not loss[~valid].any(), "a row without partners has a loss"
        ours = backward(library, given_grad, target, source, *given, given_loss, schedule)
        assert_as_accurate(ours[0], slopes[0], exact[0], eps, "slope of target")
        assert_as_accurate(ours[1], slopes[1], exact[1], eps, "slope of source")
        closed = ~(plain > 0)
        assert not ours[0][closed].any(), "a row without a loss has a slope"
        expected = (3 + 3 * passes if sources else 0) + 2 if rows else 2
        assert not channels or not sources or ours[2] == expected, f"{ours[2]} launches"
        results = loss, *ours[:2]
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(results, first, strict=True)), "another schedule gave other bits"


def check_wrong_partners(library) -> None:
    """Partners that are no rows of source: a loss of NaN, no gradient, nothing read or written outside."""
    target, source, positive, negative, valid, grad = make(40, 9, 8, None, F32)
    target, valid = torch.randn(40, 8), valid | True
    positive[3], negative[5], positive[7], negative[8] = 9, -1, 2**40, 2**31
    wrong = [3, 5, 7, 8]
    loss = forward(library, target, source, positive, negative, valid, 100.0)
    assert loss.isnan().nonzero().flatten().tolist() == wrong, f"a loss of NaN elsewhere: {loss}"
    for given in (loss, torch.ones(40)):
        slopes = backward(library, torch.ones(40), target, source, positive, negative, given)
        assert not slopes[0][wrong].any(), "a wrong partner gives a gradient"


def check_not_a_number(library) -> None:
    """NaN stays NaN, and the hinge gives no gradient there."""
    target, source, positive, negative, valid, grad = make(40, 9, 8, lambda p, n, v: (p, n, v | True), F32)
    target[4, 2] = float("nan")
    loss = forward(library, target, source, positive, negative, valid, 1.0)
    assert loss.isnan().nonzero().flatten().tolist() == [4], f"a loss of NaN elsewhere: {loss}"
    slopes = backward(library, torch.ones(40), target, source, positive, negative, loss)
    assert not slopes[0][4].any() and not slopes[1].isnan().any(), "a gradient where the loss is NaN"


def _one_source(positive, negative, valid):
    """Every target row draws source row 7 as positive and row 3 as negative."""
    return positive * 0 + 7, negative * 0 + 3, valid | True


def _skewed(positive, negative, valid):
    """Half of all rows draw one source row."""
    return positive.where(torch.arange(len(positive)) % 2 > 0, 11), negative.where(negative % 3 > 0, 2), valid


def _full_runs(positive, negative, valid):
    """Lists of 64 and 128 draws, which begin and end with runs."""
    i = torch.arange(len(positive))
    return i // 64, 4 + (i >= 128), valid | True


def _both(positive, negative, valid):
    """A source row that is the positive and the negative one."""
    return positive, positive, valid


def _nobody(positive, negative, valid):
    return positive, negative, valid & False


def _cases():
    layouts = ("rows", "wide", "odd", "uneven", "padded", "transposed", "gaps")
    for i, dtype in enumerate((F32, F16, BF16, F64)):
        for channels in (8, 13):
            for j in range(2):
                pair = layouts[(i + 2 * j) % 7], layouts[(i + j + channels) % 7]
                case = dict(dtype=dtype, channels=channels, layouts=pair, rows=70, sources=40, apart=j == 1)
                yield f"{str(dtype)[6:]}, {channels} channels, {pair[0]} and {pair[1]}", case
    for layout in layouts:
        yield f"target {layout}", dict(layouts=(layout, "rows"))
        yield f"source {layout}", dict(layouts=("rows", layout))
        yield f"both {layout}, 13 channels", dict(layouts=(layout, layout), channels=13)
    for channels in (0, 1, 3, 4, 31, 32, 33, 127, 128, 129, 132, 260):
        yield f"{channels} channels", dict(channels=channels, rows=70, sources=40)
    yield "260 channels, bfloat16", dict(channels=260, rows=70, sources=40, dtype=BF16)
    yield "133 channels, float64", dict(channels=133, rows=70, sources=40, dtype=F64)
    for rows in (0, 1, 8, 9, 31, 32, 33, 64, 65, 300):
        yield f"{rows} target rows", dict(rows=rows, sources=30, channels=8)
    for sources in (0, 1, 8, 9, 255, 256, 1000):
        case = dict(sources=sources, channels=8, passes=1 if sources < 256 else 2)
        yield f"{sources} source rows", case
    yield "70000 source rows", dict(sources=70_000, channels=1, passes=3)
    yield "no rows", dict(rows=0, sources=0)
    for rows in (1, 64, 65, 128, 400):
        yield f"one source row of {rows}", dict(rows=rows, sources=12, channels=8, draw=_one_source, margin=1e3)
    yield "one source row, 300 channels", dict(rows=200, sources=12, channels=300, draw=_one_source, margin=1e3)
    yield "one source row, odd, float16", dict(
        rows=200, sources=12, channels=133, draw=_one_source, margin=1e3, dtype=F16, layouts=("odd", "odd")
    )  # fmt: skip
    yield "full runs", dict(rows=256, sources=6, channels=8, draw=_full_runs, margin=1e3)
    yield "full runs, float64", dict(rows=256, sources=6, channels=8, draw=_full_runs, margin=1e3, dtype=F64)
    yield "skewed", dict(rows=500, sources=300, draw=_skewed, passes=2, schedules=(1, 2, 3))
    yield "positive is negative", dict(draw=_both, margin=0.25)
    yield "nothing valid", dict(draw=_nobody)
    yield "no loss anywhere", dict(margin=-1e6)
    yield "a loss everywhere", dict(margin=1e3)
    yield "strided vectors", dict(apart=True, schedules=(1, 2))
    yield "several tiles of draws", dict(rows=2100, sources=300, channels=4, passes=2)


def _bind(options):
    return lambda library: check(library, **options)


TRIPLETS = {name: _bind(options) for name, options in _cases()}
TRIPLETS["partners that are no rows"] = check_wrong_partners
TRIPLETS["not a number"] = check_not_a_number
TABLES = {"triplet_consistency_loss": TRIPLETS}
