"""Cases for select_triplets.cu under the emulation: the definition's partners, number for number; see cases.py."""

from __future__ import annotations

import ctypes

import emulated
import torch
from torch import Tensor

from fastuda.reference.select_triplets import select_triplets as definition

NAMES = ("seed", "source_rows", "target_rows", "classes", "modes")


class Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_longlong) for name in NAMES]


def run(library, rows: list[Tensor], seed: Tensor, classes: int, modes: int, schedule: int) -> tuple[tuple, int]:
    """Results and launches."""
    library.select_triplets.restype = ctypes.c_char_p
    targets = len(rows[2])
    index = [torch.full((targets,), -7, dtype=torch.int64) for _ in range(2)]
    valid = torch.full((targets,), 7, dtype=torch.uint8)
    options = Options(schedule, len(rows[0]), targets, classes, modes)
    facts = (ctypes.c_int * 1)()
    arrays = (emulated.matrix(t) for t in (*rows, seed, *index, valid))
    emulated._call(library.select_triplets, options, *arrays, facts)
    assert (valid <= 1).all(), "valid is no boolean"
    return (*index, valid.bool()), facts[0]


def scratch(library, sources: int, classes: int, modes: int) -> int:
    library.select_triplets_scratch.restype = ctypes.c_longlong
    return library.select_triplets_scratch(ctypes.byref(Options(0, sources, 1, classes, modes)))


def make(sources: int, targets: int, classes: int, modes: int, seed: int) -> list[Tensor]:
    """Some labels and modes just outside, one far outside."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i, count in enumerate((sources, sources, targets, targets)):
        limit = modes if i % 2 else classes
        values = torch.randint(0, limit, (count,), generator=g)
        odd = torch.tensor([-1, limit, 255 + limit, 2**40, -(2**40)])[torch.randint(0, 5, (count,), generator=g)]
        rows.append(values.where(torch.rand(count, generator=g) < 0.9, odd))
    return rows


def check(
    library, sources=300, targets=400, classes=5, modes=3, *, change=None, strided=False, seed=(3, 4), schedules=(1,),
    passes=1,
) -> None:  # fmt: skip
    """change: edits the four vectors; strided: with gaps of nonsense between; passes: of the sort."""
    rows = make(sources, targets, classes, modes, seed=sources + targets)
    rows = rows if change is None else change(rows)
    key = torch.tensor(seed)
    truth = definition(*rows, key, classes, modes)
    if strided:
        rows = [torch.full((3 * len(r) + 1,), 1, dtype=torch.int64)[1::3].copy_(r) for r in rows]
        key = torch.stack([key, key * 0 + 9], 1)[:, 0]
    for schedule in schedules:
        found, launches = run(library, rows, key, classes, modes, schedule)
        for name, ours, true in zip(("positive", "negative", "valid"), found, truth, strict=True):
            assert torch.equal(ours, true), f"{name} differs at {(ours != true).sum()} of {len(true)} rows"
        assert not targets or launches == (3 + 3 * passes if sources else 2), f"{launches} launches"


def _one_class(rows):
    return [rows[0] * 0 + 2, rows[1], rows[2], rows[3]]


def _first_mode(rows):
    return [rows[0], rows[1] * 0, rows[2], rows[3]]


def _outside(rows):
    return [rows[0] * 0 + 255, rows[1], rows[2], rows[3]]


def _a_row_each(rows):
    """Bucket after bucket, one row each: every partner is decided by where buckets begin."""
    count = len(rows[0])
    return [torch.arange(count) // 60 % 70, torch.arange(count) % 60, rows[2], rows[3]]


def _skewed(rows):
    """Nearly all source rows in one bucket."""
    label = rows[0] * 0 + 1
    label[::50] = 3
    return [label, rows[1] * 0 + 2, torch.arange(len(rows[2])) % 5, rows[3] * 0 + 2]


def _cases():
    for classes, modes in ((1, 1), (2, 1), (1, 3), (5, 3), (19, 4), (85, 3), (32, 8), (150, 2)):
        case = dict(classes=classes, modes=modes, passes=1 if classes * modes < 256 else 2)
        yield f"{classes} classes of {modes} modes", case
    for sources, targets in ((0, 7), (7, 0), (0, 0), (1, 3), (2, 300), (31, 40), (32, 40), (33, 257), (255, 256)):
        yield f"{sources} and {targets} rows", dict(sources=sources, targets=targets, classes=2, modes=1)
    for sources in (2047, 2048, 2049, 5000):
        yield f"{sources} source rows", dict(sources=sources, schedules=(1, 2, 3) if sources == 5000 else (1,))
    many = dict(sources=4200, targets=900, classes=70, modes=60, passes=2)
    yield "thousands of buckets", many | dict(schedules=(1, 2))
    yield "thousands of buckets, a row each", many | dict(change=_a_row_each)
    yield "65535 buckets", dict(sources=3000, targets=600, classes=255, modes=257, passes=2)
    yield "65536 buckets", dict(sources=3000, targets=600, classes=256, modes=256, passes=3)
    yield "more tiles than threads", dict(sources=2048 * 257 + 5, targets=64, classes=3, modes=2)
    yield "strided", dict(strided=True)
    yield "one class", dict(change=_one_class)
    yield "modes without rows", dict(change=_first_mode)
    yield "no row takes part", dict(change=_outside)
    yield "skewed", dict(sources=3000, change=_skewed)
    yield "the largest seed", dict(seed=(2**32 - 1, 2**32 - 1))
    yield "schedules", dict(sources=700, targets=300, schedules=range(2, 6))


def _bind(options):
    return lambda library: check(library, **options)


SELECT = {name: _bind(options) for name, options in _cases()}
TABLES = {"select_triplets": SELECT}
