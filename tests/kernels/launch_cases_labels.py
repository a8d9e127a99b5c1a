"""Launches of the operators on dense labels: 19 classes at 1/8 of an image of 1024 x 2048."""

from __future__ import annotations

import torch
import triton_room
from aot import Case

sizes = triton_room.load_file(triton_room.HERE / "launch_cases.py", "triton_room_launch_cases")
CLASSES, SIZE, BINS = sizes.CLASSES, (1024, 2048), 1024
F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
NCHW, LAST = torch.contiguous_format, torch.channels_last


def scores(dtype=F32, layout=NCHW, classes=CLASSES, size=(128, 256)) -> torch.Tensor:
    return torch.empty(1, classes, *size, dtype=dtype, device="meta").to(memory_format=layout)


def labels(module, probabilities=False, balanced=False, align=True, least=F32, to=SIZE, **options) -> None:
    given = scores(**options)
    least = torch.empty(given.shape[1], dtype=least, device="meta")
    module.pseudo_labels(given, least, *to, probabilities, balanced, align, not balanced)


def histogram(module, probabilities=False, align=True, **options) -> None:
    module.confidence_histogram(scores(**options), *SIZE, BINS, probabilities, align)


def confusion(module, classes=CLASSES, first=torch.uint8, second=torch.uint8) -> None:
    pair = (torch.empty(4, *SIZE, dtype=dtype, device="meta") for dtype in (first, second))
    module.confusion_matrix(*pair, classes)


def rectify(module, dtype=F32, soft=F16, size=(128, 256), align=True, layout=NCHW) -> None:
    module.prototype_rectify(scores(dtype, layout), scores(soft, size=size), *SIZE, 0.08, align)


def patches(module, dtype=F32, full=None, probabilities=False, align=True, bins=BINS, classes=CLASSES, volume=False):
    given = torch.empty(1, 50, classes, 64, 64, dtype=dtype, device="meta")
    offsets = torch.empty(1, 50, 2, dtype=torch.int64, device="meta")
    whole = None if full is None else scores(full)
    module.aggregate_patches(given, offsets, whole, *SIZE, 512, 512, probabilities, align, bins, volume)


def _cases():
    name, balanced = "pseudo_labels", {"balanced": True, "align": False, "dtype": BF16, "layout": LAST}
    yield Case(f"{name}, 1024 x 2048", name, labels, every_card=True)
    yield Case(f"{name}, balanced, channels_last", name, lambda m: labels(m, **balanced))
    yield Case(f"{name}, probabilities", name, lambda m: labels(m, True, dtype=F16, classes=150, least=F64))
    yield Case(f"{name}, probabilities, balanced", name, lambda m: labels(m, True, True, layout=LAST))
    yield Case(f"{name}, one row of scores", name, lambda m: labels(m, size=(1, 7), to=(33, 50)))
    name = "confidence_histogram"
    yield Case(f"{name}, 1024 x 2048", name, histogram, every_card=True)
    yield Case(f"{name}, 255 classes, probabilities", name, lambda m: histogram(m, True, False, classes=255, dtype=F16))
    name = "confusion_matrix"
    yield Case(f"{name}, 4 x 1024 x 2048", name, confusion, every_card=True)
    yield Case(f"{name}, 31 classes", name, lambda m: confusion(m, 31, torch.int64, torch.int32))
    yield Case(f"{name}, 150 classes", name, lambda m: confusion(m, 150, torch.int64))
    name = "prototype_rectify"
    yield Case(f"{name}, 1024 x 2048", name, rectify, every_card=True)
    yield Case(f"{name}, another size", name, lambda m: rectify(m, BF16, F64, (64, 96), False, LAST))
    name = "aggregate_patches"
    yield Case(f"{name}, 50 x 512 x 512", name, patches, every_card=True)
    yield Case(f"{name}, whole image, volume", name, lambda m: patches(m, BF16, F16, bins=0, volume=True))
    yield Case(f"{name}, 150 classes, probabilities", name, lambda m: patches(m, F16, None, True, False, classes=150))
    yield Case(f"{name}, 16 classes", name, lambda m: patches(m, F32, F32, classes=16))


CASES = list(_cases())
