"""Launches of the samplers and of the triplet loss, at the sizes of their benchmarks."""

from __future__ import annotations

import torch
import triton_room
from aot import Case

sizes = triton_room.load_file(triton_room.HERE / "launch_cases.py", "triton_room_launch_cases")
CLASSES, MODES = sizes.CLASSES, 3


def empty(*shape: int, dtype=torch.int64) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def partners(module, source=57_000, target=16_384, classes=CLASSES) -> None:
    rows = empty(source), empty(source), empty(target), empty(target)
    module.select_triplets(*rows, empty(2), classes, MODES)


def losses(module, dtype, channels=256, layout=lambda x: x) -> None:
    target, source = (layout(empty(n, channels, dtype=dtype)) for n in (16_384, 5_700))
    drawn = empty(16_384), empty(16_384)
    loss = module.forward(target, source, *drawn, empty(16_384, dtype=torch.bool), 1.0)
    module.backward(loss, target, source, *drawn, loss)


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.T.clone().T


def sample(module, images=4, pixels=90 * 160, wanted=512, classes=CLASSES, dtype=torch.uint8) -> None:
    labels, seed = empty(images, pixels, dtype=dtype), empty(2)
    module.class_balanced_sample(labels, seed, classes, wanted, 255)
    module.sample_per_class(labels, seed, classes, wanted, 255)


def _cases():
    yield Case("select_triplets, S=57000", "select_triplets", partners, every_card=True)
    yield Case("select_triplets, 150 classes", "select_triplets", lambda m: partners(m, 5_701, 1_023, 150))
    name = "triplet_consistency_loss"
    yield Case(f"{name}, d=256, float32", name, lambda m: losses(m, torch.float32), every_card=True)
    yield Case(f"{name}, d=64, bfloat16", name, lambda m: losses(m, torch.bfloat16, 64))
    yield Case(f"{name}, d=401, float16, strided", name, lambda m: losses(m, torch.float16, 401, transposed))
    name = "class_balanced_sample"
    yield Case(f"{name}, 4 x 90 x 160", name, sample, every_card=True)
    yield Case(f"{name}, 2 x 512 x 1024, int64", name, lambda m: sample(m, 2, 512 * 1024, 2048, dtype=torch.int64))
    yield Case(f"{name}, 256 classes", name, lambda m: sample(m, classes=256, dtype=torch.int32))


CASES = list(_cases())
