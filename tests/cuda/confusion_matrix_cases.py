"""Cases for confusion_matrix.cu under the emulation: exactly the definition's counts; see cases.py."""

from __future__ import annotations

import ctypes

import dense_room
import emulated
import torch
from dense_room import bind
from torch import Tensor

from fastuda.reference.confusion_matrix import confusion_matrix as definition

LABELS = (torch.uint8, torch.int32, torch.int64)
LAYOUTS = ("plain", "transposed", "inside", "images last", "expanded", "row of columns", "every third")
SMALL = (1, 48 * 1024)  # one multiprocessor: few blocks, each with many tiles


def run(library, prediction: Tensor, truth: Tensor, classes: int, *, card=SMALL, seed=1) -> tuple[Tensor, list[int]]:
    library.confusion_matrix.restype = ctypes.c_char_p
    result = dense_room.nonsense((classes, classes), torch.int64)
    images, height, width = ([1, 1] + list(truth.shape))[-3:]
    option = dense_room.Options(
        seed=seed, type=truth.element_size(), other_type=prediction.element_size(), images=images, classes=classes,
        height=height, width=width, multiprocessors=card[0], shared_limit=card[1],
    )  # fmt: skip
    facts = (ctypes.c_int * 3)()
    labels = (emulated.array(t, False) for t in (truth, prediction))
    emulated._call(library.confusion_matrix, option, *labels, emulated.matrix(result), facts)
    return result, list(facts)


def pair(shape, classes: int, mean_run: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two maps of runs of pixels, with ignored, negative and out-of-range classes."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.Size(shape).numel()
    place = (torch.rand(pixels, generator=g) < 1 / mean_run).cumsum(0)
    values = torch.randint(0, classes, (2, pixels + 2), generator=g)
    odd = torch.tensor([255, classes, -1, 2**31 - 1])[torch.randint(0, 4, values.shape, generator=g)]
    values = torch.where(torch.rand(values.shape, generator=g) < 0.2, odd, values)
    moved = place + (torch.rand(pixels, generator=g) < 0.1 / mean_run)
    return values[0][moved].view(shape), values[1][place].view(shape)


def lay_out(t: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return t.mT.contiguous().mT
    if layout == "inside":
        n, h, w = t.shape
        return torch.full((n + 1, h + 2, 3 * w), 1, dtype=t.dtype)[1:, 1:-1, 2::3].copy_(t)
    if layout == "every third":  # of one row, though not side by side
        return t.repeat_interleave(3, -1)[..., ::3]
    if layout == "images last":
        return t.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    if layout == "expanded":
        return t[:1].expand(len(t), -1, -1)
    if layout == "row of columns":  # rows follow each other, images do not
        n, h, w = t.shape
        return torch.full((n, h + 1, w), 1, dtype=t.dtype)[:, :-1].copy_(t)
    assert layout == "plain"
    return t


def check(
    library, shape=(3, 17, 23), classes=7, dtypes=(torch.uint8, torch.uint8), layouts=("plain", "plain"), *,
    mean_run=3, card=SMALL, schedules=(1,), shift=0, expect=None, change=None,
) -> None:  # fmt: skip
    """dtypes, layouts: of prediction and truth; shift: labels begin so many elements into their memory."""
    both = [t.to(d) for t, d in zip(pair(shape, classes, mean_run), dtypes, strict=True)]
    if change is not None:
        both = list(change(*both))
    both = [lay_out(t, layout) for t, layout in zip(both, layouts, strict=True)]
    if shift:
        both = [torch.cat([t.flatten()[:shift] * 0, t.flatten()])[shift:].view(t.shape) for t in both]
    truth = definition(*both, classes)
    for seed in schedules:
        counts, facts = run(library, *both, classes, card=card, seed=seed)
        assert torch.equal(counts, truth), f"{(counts - truth).abs().sum()} counts differ"
        for name, value in (expect or {}).items():
            found = dict(zip(("launches", "blocks", "in_shared"), facts, strict=True))[name]
            assert found == value, f"{name} is {found}"


def _one_pair(prediction, truth):
    return prediction * 0 + 2, truth * 0 + 1


def _no_label(prediction, truth):
    return prediction * 0 + 255, truth


def _far(value: int):
    def change(prediction, truth):
        return prediction.masked_fill(prediction == 2, value), truth.masked_fill(truth == 1, value)

    return change


def _cases():
    for i, first in enumerate(LABELS):
        for j, second in enumerate(LABELS):
            for k, layout in enumerate(LAYOUTS):
                layouts = (layout, LAYOUTS[(i + 2 * j + k) % 7]) if k % 2 else (LAYOUTS[(i + j + k) % 7], layout)
                name = f"{str(first)[6:]}, {str(second)[6:]}, {layouts[0]}, {layouts[1]}"
                yield name, dict(dtypes=(first, second), layouts=layouts)
    for pixels in (0, 1, 2, 3, 4, 5, 31, 33, 127, 1023, 1024, 1025, 2049):
        yield f"{pixels} pixels", dict(shape=(pixels,), classes=3)
    for shift in (1, 2, 3):
        for dtype in LABELS:
            yield f"shift {shift}, {str(dtype)[6:]}", dict(shape=(301,), dtypes=(dtype, dtype), shift=shift)
    for layout in LAYOUTS[1:]:
        yield f"one image, {layout}", dict(shape=(1, 13, 23), layouts=(layout, "plain"))
    for shape in ((1, 1, 70), (70, 1, 1), (5, 1, 9), (5, 9, 1), (0, 3, 4), (3, 0, 4)):
        for layout in ("plain", "transposed", "expanded"):
            yield f"{shape}, {layout}", dict(shape=shape, layouts=("plain", layout))
    for classes, inside in ((1, 1), (2, 1), (19, 1), (150, 1), (156, 1), (157, 0), (300, 0)):
        wide = dict(dtypes=(torch.int32, torch.int64), shape=(1, 40, 41), classes=classes)
        yield f"{classes} classes", wide | dict(expect={"in_shared": inside, "launches": 2})
    small = dict(shape=(2, 40, 41), classes=100, card=(28, 16 * 1024), expect={"in_shared": 0})
    yield "little shared memory", small
    many = dict(shape=(1, 300, 300), classes=3, mean_run=500, expect={"blocks": 4})
    yield "many tiles of a block", many
    yield "so many that blocks would overflow", dict(
        shape=(1, 600, 1100), classes=3, change=_one_pair, card=(0, 48 * 1024), expect={"blocks": 11}
    )  # fmt: skip
    yield "one pair", dict(shape=(2, 50, 60), change=_one_pair)
    yield "no label", dict(change=_no_label)
    for value in (-1, 7, 256, 2**31, 2**32, -(2**40)):
        yield f"{value} is no class", dict(dtypes=(torch.int64, torch.int64), change=_far(value))
    yield "schedules", dict(shape=(2, 50, 60), schedules=(1, 2, 3), mean_run=20)


CONFUSION = {name: bind(check, case) for name, case in _cases()}
TABLES = {"confusion_matrix": CONFUSION}
