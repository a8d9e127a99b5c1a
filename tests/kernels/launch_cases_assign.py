"""Launches of the assignment operators: a bank of 65,536 + 2,048 rows, and DRSL's modes at 8 x 90 x 160 pixels."""

from __future__ import annotations

import torch
import triton_room
from aot import Case

sizes = triton_room.load_file(triton_room.HERE / "launch_cases.py", "triton_room_launch_cases")
CLASSES, MODES, FLOAT32, BFLOAT16 = sizes.CLASSES, 3, torch.float32, torch.bfloat16


def sinkhorn(module, dtype, classes=CLASSES) -> None:
    scores = torch.empty(1, 65_536 + 2_048, classes, dtype=dtype, device="meta")
    module.sinkhorn(scores, torch.empty(1, classes, device="meta"), 0.05, 3, 2_048)


def modes(module, dtype, channels=256, layout=torch.channels_last, classes=CLASSES, square=False) -> None:
    features, labels = sizes.pixels(channels, dtype, layout)
    inputs = features, labels, torch.empty(classes, MODES, channels, device="meta")
    triplet, loss, _, *saved = module.forward(*inputs, 0.5, 1.0, square, 255)
    module.backward(triplet, loss, *inputs, triplet, *saved, 255)


def _cases():
    yield Case("sinkhorn, float32", "sinkhorn", lambda m: sinkhorn(m, FLOAT32), every_card=True)
    yield Case("sinkhorn, bfloat16, 150 classes", "sinkhorn", lambda m: sinkhorn(m, BFLOAT16, 150))
    matrix = dict.fromkeys(("_mode_losses", "_feature_slopes", "_sum_modes"), "bf16")
    for name, options in {
        "d=256, float32": {"dtype": FLOAT32}, "d=64, bfloat16, NCHW, square": {
            "dtype": BFLOAT16, "channels": 64, "layout": torch.contiguous_format, "square": True
        },
        "64 classes": {"dtype": FLOAT32, "classes": 64},
    }.items():  # fmt: skip
        yield Case(
            f"mode_losses, {name}", "mode_losses", lambda m, o=options: modes(m, **o), matrix,
            every_card=options == {"dtype": FLOAT32},
        )  # fmt: skip


CASES = list(_cases())
