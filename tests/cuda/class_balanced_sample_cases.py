"""Cases for class_balanced_sample.cu under the emulation: the definition's pixels, number for number; see cases.py."""

from __future__ import annotations

import ctypes

import emulated
import torch
from torch import Tensor

from fastuda.reference import class_balanced_sample as definition
from fastuda.reference._random import random_bits

NAMES = (
    "seed", "images", "pixels", "label_bytes", "classes", "ignore_index", "wanted", "by_share", "multiprocessors",
    "resident",
)  # fmt: skip
STEPS = {True: 22, False: 13}  # a launch each where a card has no cooperative launches
SHARE = torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01])


class Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_longlong) for name in NAMES]


def run(
    library, labels: Tensor, seed: Tensor, classes: int, wanted: int, ignore_index: int, by_share: bool, card: int,
    schedule: int, resident: int = 2,
) -> tuple[Tensor, int, int]:  # fmt: skip
    """The pixels, launches and pixels of a block; card: its multiprocessors; resident: blocks of each, or 0."""
    library.class_draw.restype = ctypes.c_char_p
    images, pixels = labels.shape
    shape = (images, wanted) if by_share else (images, classes, wanted)
    result = torch.full(shape, -7, dtype=torch.int64)
    facts = (ctypes.c_int * 2)()
    options = Options(
        schedule, images, pixels, labels.element_size(), classes, ignore_index, wanted, by_share, card, resident
    )  # fmt: skip
    arrays = (emulated.matrix(t) for t in (labels, seed, result))
    emulated._call(library.class_draw, options, *arrays, facts)
    return result, facts[0], facts[1]


def scratch(library, images: int, pixels: int, classes: int, by_share: bool) -> int:
    library.class_draw_scratch.restype = ctypes.c_longlong
    return library.class_draw_scratch(ctypes.byref(Options(0, images, pixels, 1, classes, 255, 9, by_share, 28, 2)))


def make(images: int, pixels: int, classes: int, dtype, seed: int = 0) -> Tensor:
    """Classes of very different sizes, some pixels ignored or out of range; the last image has few valid ones."""
    g = torch.Generator().manual_seed(seed)
    share = torch.cat([SHARE, 0.02 / torch.arange(1, max(2, classes))])[:classes]
    y = torch.multinomial(share, max(1, images * pixels), replacement=True, generator=g)[: images * pixels]
    far = {torch.uint8: (255, 254), torch.int32: (-1, 2**31 - 1), torch.int64: (-(2**40), 2**40)}
    odd = torch.tensor([255, classes, *far[dtype]])
    other = odd[torch.randint(0, 4, y.shape, generator=g)]
    y = y.where(torch.rand(y.shape, generator=g) < 0.85, other).view(images, pixels)
    if images > 1:
        y[-1, : pixels - 5] = 255
    return y.to(dtype)


def check(
    library, images=2, pixels=700, classes=5, wanted=60, dtype=torch.uint8, *, ignore_index=255, layout="rows",
    labels=None, seed=(3, 4), card=28, schedules=(1,), blocks=None, resident=2,
) -> None:  # fmt: skip
    """Both operators. labels: instead of random ones; card: multiprocessors; blocks: of an image when it is counted."""
    y = make(images, pixels, classes, dtype) if labels is None else labels()
    key = torch.tensor(seed)
    both = ((True, definition.class_balanced_sample), (False, definition.sample_per_class))
    truths = [true(y, key, classes, wanted, ignore_index) for _, true in both]
    if layout == "transposed":
        y = y.T.contiguous().T
    elif layout == "gaps":
        y = torch.ones(2 * len(y), 2 * y.shape[1], dtype=y.dtype)[::2, 1::2].copy_(y)
        key = torch.stack([key, key * 0 + 9], 1)[:, 0]
    else:
        assert layout == "rows"
    for (by_share, _), true in zip(both, truths, strict=True):
        name = "by share" if by_share else "per class"
        for schedule in schedules:
            ours, launches, block = run(
                library, y, key, classes, wanted, ignore_index, by_share, card, schedule, resident
            )
            assert torch.equal(ours, true), f"{name}: {(ours != true).sum()} of {true.numel()} differ"
            expected = 0 if not ours.numel() else 1 if resident or not y.shape[1] else STEPS[by_share]
            assert launches == expected, f"{name}: {launches} launches"
            assert blocks is None or -(-y.shape[1] // block) == blocks, f"blocks of {block} pixels"


def check_tie(library, seed, pixels: int, pair: tuple[int, int], stream: int) -> None:
    """Two pixels of equal random bits of which one is drawn: the one with the lower number."""
    key = torch.tensor(seed)
    bits = random_bits(key, stream, torch.arange(pixels)) >> 1
    assert bits[pair[0]] == bits[pair[1]], "no tie"
    rank = (bits < bits[pair[0]]).sum().item()
    first = lambda: torch.zeros(1, pixels, dtype=torch.int64)  # noqa: E731
    fives = lambda: torch.arange(pixels)[None] // 5  # noqa: E731  # so few that no class has a share
    for wanted in (rank, rank + 1, rank + 2):  # none, one or both of the two
        case = dict(labels=first, classes=1) if stream == 0 else dict(labels=fives, classes=pixels // 5)
        check(library, wanted=wanted, seed=seed, ignore_index=-1, **case)


def _few(count: int):
    def labels():
        y = torch.full((3, 900), 255)
        y[1, 400 : 400 + count] = 1
        y[2, ::100] = 0
        return y

    return labels


def _blocks_of_classes():
    """As images are: one class after the other."""
    return (torch.arange(6000) // 512 % 7)[None].int()


def _every_pixel_its_own():
    return torch.arange(70)[None].expand(2, -1)


def _cases():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        for layout in ("rows", "transposed", "gaps"):
            yield f"{str(dtype)[6:]}, {layout}", dict(dtype=dtype, layout=layout)
    for ignore_index in (0, -100, 2**40, 3):
        yield f"ignore_index {ignore_index}", dict(ignore_index=ignore_index, dtype=torch.int64)
    for wanted in (0, 1, 2, 31, 128, 594, 700, 5000):
        yield f"{wanted} wanted", dict(wanted=wanted)
    for pixels in (0, 1, 7, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 2049):
        yield f"{pixels} pixels", dict(pixels=pixels, wanted=20)
    for images in (0, 1, 7):
        yield f"{images} images", dict(images=images, pixels=97, wanted=20)
    for classes in (1, 2, 19, 40, 41, 150):
        yield f"{classes} classes", dict(classes=classes, pixels=1500, wanted=100)
    yield "no valid pixel", dict(labels=lambda: torch.full((2, 300), 255), classes=3)
    yield "few valid pixels", dict(labels=_few(7), classes=3, wanted=5)
    yield "as many as there are", dict(labels=_few(9), classes=3, wanted=9)
    yield "more than there are", dict(labels=_few(1), classes=3, wanted=40)
    yield "one class", dict(labels=lambda: torch.zeros(2, 500, dtype=torch.uint8), classes=1, wanted=77)
    yield "top-up only", dict(labels=_every_pixel_its_own, classes=70, wanted=33)
    yield "blocks of classes", dict(labels=_blocks_of_classes, classes=7, wanted=300, schedules=(1, 2))
    yield "long blocks", dict(images=1, pixels=40_000, wanted=3000, card=1, blocks=5)
    yield "short blocks", dict(images=1, pixels=9000, wanted=500, card=132, blocks=5)
    yield "more chunks than threads", dict(images=1, pixels=1024 * 257 + 3, wanted=400, classes=2, card=4)
    yield "nearly all", dict(images=1, pixels=3000, wanted=2300, schedules=(1, 2, 3))
    for classes in (5, 41):
        yield f"steps, {classes} classes", dict(resident=0, classes=classes, schedules=(1, 2))
    yield "steps, long blocks", dict(images=1, pixels=40_000, wanted=3000, card=1, resident=0)
    yield "one block a multiprocessor", dict(images=1, pixels=9000, wanted=500, card=3, resident=1)
    yield "the largest seed", dict(seed=(2**32 - 1, 2**32 - 1))
    yield "schedules", dict(schedules=range(2, 6))


# Found by search: numbers of the second mixer's key under which two pixels have the same 31 bits.
TIES = {
    "a tie in different tiles": dict(seed=(12345, 3620), pixels=2500, pair=(1351, 1776), stream=0),
    "a tie in one tile": dict(seed=(12345, 15392), pixels=700, pair=(269, 359), stream=0),
    "a tie in the top-up": dict(seed=(12345, 18860), pixels=600, pair=(352, 470), stream=1),
}


def _bind(function, options):
    return lambda library: function(library, **options)


DRAWS = {name: _bind(check, options) for name, options in _cases()}
DRAWS |= {name: _bind(check_tie, options) for name, options in TIES.items()}
TABLES = {"class_balanced_sample": DRAWS}
