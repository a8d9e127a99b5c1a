"""Launches of the losses and thresholds on dense labels: 8 x 90 x 160 scores, 8 x 720 x 1280 pixels."""

from __future__ import annotations

import torch
import triton_room
from aot import Case

sizes = triton_room.load_file(triton_room.HERE / "launch_cases.py", "triton_room_launch_cases")
CLASSES = sizes.CLASSES


def scores(dtype=torch.float32, layout=torch.contiguous_format, classes=CLASSES, size=(90, 160)) -> torch.Tensor:
    return torch.empty(8, classes, *size, dtype=dtype, device="meta").to(memory_format=layout)


def labels(dtype=torch.uint8, size=(720, 1280)) -> torch.Tensor:
    return torch.empty(8, *size, dtype=dtype, device="meta")


def divergences(module, symmetric=True, masked=False, **options) -> None:
    logits = scores(**options)
    mask = labels(torch.bool, logits.shape[2:]) if masked else None
    loss = module.forward(logits, logits, mask, 2.0, symmetric)
    module.backward(loss, logits, logits, mask, 2.0, symmetric)


def thresholds(module, dtype=torch.float32, classes=CLASSES) -> None:
    module.class_thresholds(labels(dtype), labels(), classes, 0.5, False, 255)


def losses(module, weighted=False, smoothing=0.0, outputs=(False, True), align=True, **options) -> None:
    logits, classes = scores(**options), options.get("classes", CLASSES)
    given = (torch.empty(classes, device="meta"), labels(torch.float32)) if weighted else (None, None)
    module.upsample_cross_entropy(logits, labels(), *given, align, 255, smoothing, *outputs)


def errors(module, bins=1024, probabilities=False, with_slope=True, align=True, **options) -> None:
    module.lovasz_softmax(scores(**options), labels(), bins, probabilities, align, 255, with_slope)


def mean(module, two=True, average=True, dtype=torch.uint8) -> None:
    pair = labels(torch.float32), labels(torch.float32) if two else None
    module.pixel_mean(*pair, labels(dtype), CLASSES, 255, average)


def _cases():
    last, half = torch.channels_last, torch.bfloat16
    name = "softmax_kl"
    yield Case(name, name, divergences, every_card=True)
    yield Case(
        f"{name}, masked bfloat16, channels_last", name, lambda m: divergences(m, masked=True, dtype=half, layout=last)
    )
    yield Case(f"{name}, of a teacher", name, lambda m: divergences(m, False, dtype=torch.float16))
    yield Case(f"{name}, 150 classes", name, lambda m: divergences(m, classes=150))
    name = "class_thresholds"
    yield Case(name, name, thresholds, every_card=True)
    yield Case(f"{name}, 255 classes, float16", name, lambda m: thresholds(m, torch.float16, 255))
    yield Case(f"{name}, 2 classes, float64", name, lambda m: thresholds(m, torch.float64, 2))
    name = "upsample_cross_entropy"
    yield Case(name, name, losses, every_card=True)
    yield Case(f"{name}, channels_last", name, lambda m: losses(m, layout=last))
    yield Case(f"{name}, every option, bfloat16", name, lambda m: losses(m, True, 0.1, (True, True), False, dtype=half))
    yield Case(f"{name}, without a gradient", name, lambda m: losses(m, outputs=(True, False), dtype=torch.float16))
    yield Case(f"{name}, 150 classes", name, lambda m: losses(m, classes=150))
    yield Case(f"{name}, one class", name, lambda m: losses(m, classes=1))
    name = "lovasz_softmax"
    yield Case(name, name, errors, every_card=True)
    yield Case(f"{name}, channels_last, bfloat16", name, lambda m: errors(m, dtype=half, layout=last, align=False))
    yield Case(f"{name}, probabilities", name, lambda m: errors(m, 20, True))
    yield Case(f"{name}, without a gradient", name, lambda m: errors(m, 65536, with_slope=False, dtype=torch.float16))
    yield Case(f"{name}, 150 classes", name, lambda m: errors(m, 100, classes=150))
    name = "pixel_mean"
    yield Case(name, name, mean, every_card=True)
    yield Case(f"{name}, one sum, int64", name, lambda m: mean(m, False, False, torch.int64))


CASES = list(_cases())
