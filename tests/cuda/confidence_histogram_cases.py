"""Cases for confidence_histogram.cu under the emulation: counts against float64's; see cases.py."""

from __future__ import annotations

import ctypes

import dense_room
import emulated
import torch
from dense_room import DTYPES, F32, F64, bind
from near_labels import LAYOUTS, SIZES, lay_out, logits, upsample
from torch import Tensor

from fastuda.reference import confidence_histogram as definition

FEW = (1, 48 * 1024)  # a card of one multiprocessor


def run(
    library, scores: Tensor, size, bins: int, probabilities=False, align_corners=True, *, card=emulated.PASCAL, seed=1
) -> tuple[Tensor, dict[str, int]]:
    counts = dense_room.nonsense((scores.shape[1], bins), torch.int64)
    facts = (ctypes.c_int * 3)()
    option = dense_room.options(
        scores, size, seed=seed, bins=bins, probabilities=probabilities, align_corners=align_corners, card=card
    )
    dense_room.call(library, "confidence_histogram", option, (scores,), (counts,), facts)
    return counts, dict(zip(("launches", "blocks", "shared"), facts, strict=True))


def check(
    library, shape=(2, 7, 9, 13), size=(37, 50), dtype=F32, layout="nchw", *, bins=32, probabilities=False,
    align_corners=True, card=emulated.PASCAL, schedules=(1,), expect=None, scale=3.0,
) -> None:  # fmt: skip
    """Pixels at a bin's edge, or between two classes, may be in another bin or class: no more than a few of them."""
    scores = logits(*shape, scale=scale)
    scores = lay_out((scores.softmax(1) if probabilities else scores).to(dtype), layout)
    results = [
        run(library, scores, size, bins, probabilities, align_corners, card=card, seed=seed) for seed in schedules
    ]
    counts, plan = results[0]
    for name, value in (expect or {}).items():
        assert value(plan[name]) if callable(value) else plan[name] == value, f"{name} is {plan[name]}"
    up = upsample(scores, size, align_corners)
    best, place = (up if probabilities else up.softmax(1)).max(1)
    truth = definition.count(best, place, shape[1], bins)
    pixels = shape[0] * size[0] * size[1]
    assert counts.sum() == pixels, f"{counts.sum()} pixels of {pixels}"
    moved = (counts - truth).abs().sum() / 2
    assert moved <= 1 + pixels / 500, f"{moved} of {pixels} pixels are in other bins than in float64"
    if bins > 1:  # none of them farther than a bin or a class
        error = (counts.sum(0).cumsum(0) - truth.sum(0).cumsum(0)).abs().max()
        assert error <= 1 + pixels / 500, f"{error} pixels more or fewer up to a bin"
    assert all(torch.equal(counts, other) for other, _ in results[1:]), "another schedule gave other counts"


def check_exact(library) -> None:
    """All pixels alike; 1 belongs to the last bin and so does what lies beyond, what is below 0 to the first."""
    scores = torch.zeros(1, 3, 4, 5)
    scores[:, 1] = 40
    assert run(library, scores, (37, 83), 10)[0][1, 9] == 37 * 83
    assert run(library, scores * 0, (37, 83), 10)[0][0, 3] == 37 * 83
    odd = torch.tensor([0.2, 1.0, 1.5, 7e37, -0.5]).view(1, 1, 1, 5)
    assert run(library, odd, (1, 5), 10, True)[0][0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    edges = torch.arange(9).view(1, 1, 3, 3) / 8
    assert run(library, edges, (3, 3), 8, True)[0][0].tolist() == [1, 1, 1, 1, 1, 1, 1, 2]
    ties = torch.full((1, 4, 2, 2), 0.25)
    assert run(library, ties, (5, 6), 4, True)[0][0].tolist() == [0, 30, 0, 0]


def check_nan(library, value: float, probabilities: bool) -> None:
    """Pixels next to a score that is not finite are counted where the definition counts them."""
    scores = logits(1, 4, 6, 9)
    scores = scores.softmax(1) if probabilities else scores
    scores[0, 2, 3, 4] = scores[0, 3, 5, 8] = value
    for size in ((24, 36), (6, 9), (13, 50)):
        counts, _ = run(library, scores, size, 8, probabilities)
        truth = definition.confidence_histogram(scores, *size, 8, probabilities, True)
        assert truth.sum() < size[0] * size[1] or value == torch.inf, "no pixel is touched"
        assert counts.sum() == truth.sum(), f"{counts.sum()} pixels counted instead of {truth.sum()}"
        assert (counts - truth).abs().sum() <= 4


def _cases():
    for i, dtype in enumerate(DTYPES):
        for j, layout in enumerate(LAYOUTS):
            case = dict(shape=(2, 19, 5, 8), size=(27, 45), dtype=dtype, layout=layout)
            form = dict(probabilities=bool((i + j) % 3 == 0), align_corners=bool(j % 2))
            yield f"{str(dtype)[6:]}, {layout}", case | form
    for source, size in SIZES:
        for align_corners in (True, False):
            case = dict(shape=(2, 5, *source), size=size, align_corners=align_corners)
            yield f"{source} to {size}, align {align_corners}", case
    for bins in (1, 2, 1000, 1024, 1025, 5000):
        inside = 7 * bins <= 24576
        expect = {"shared": (7 * bins + 1) // 2 * 4 if inside else 0, "launches": 2}
        yield f"{bins} bins", dict(bins=bins, expect=expect)
    for classes in (1, 2, 150, 300):
        yield f"{classes} classes", dict(shape=(1, classes, 4, 11), size=(15, 30), bins=16)
    yield "19 classes of 1024 bins", dict(shape=(1, 19, 4, 11), size=(30, 44), bins=1024, expect={"shared": 38912})
    yield "little shared memory", dict(bins=1024, card=(28, 8 * 1024), expect={"shared": 0})
    yield "more than a block may have", dict(bins=5000, card=emulated.HOPPER, expect={"shared": 0})
    yield "strips of several rounds", dict(
        shape=(1, 3, 4, 7), size=(150, 90), card=FEW, expect={"blocks": 2}, schedules=(1, 2)
    )  # fmt: skip
    yield "so many that blocks would overflow", dict(
        shape=(1, 1, 1, 2), size=(1024, 650), bins=3, card=(0, 48 * 1024), expect={"blocks": 11}
    )  # fmt: skip
    for rows in (1, 3, 4, 5, 8):
        yield f"{rows} rows", dict(shape=(2, 3, 4, 3), size=(rows, 5))
    yield "more strips than threads", dict(shape=(1, 3, 3, 5), size=(4, 513))
    yield "images", dict(shape=(9, 3, 4, 5), size=(13, 17))
    yield "no image", dict(shape=(0, 3, 4, 5), size=(13, 17))
    yield "float64 of a card", dict(dtype=F64, card=emulated.HOPPER)
    yield "scale 40", dict(scale=40.0)


HISTOGRAM = {name: bind(check, case) for name, case in _cases()}
HISTOGRAM["exact"] = check_exact
HISTOGRAM |= {
    f"{value}, {probabilities}": bind(check_nan, dict(value=value, probabilities=probabilities))
    for value in (torch.nan, torch.inf, -torch.inf)
    for probabilities in (False, True)
}
TABLES = {"confidence_histogram": HISTOGRAM}
