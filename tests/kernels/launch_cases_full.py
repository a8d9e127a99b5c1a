"""Launches of the operators on full covariances, at the sizes of launch_cases.py.

The matrix instructions that they must use on each card are in test_resources_full.py.
"""

from __future__ import annotations

import torch
import triton_room
from aot import Case

sizes = triton_room.load_file(triton_room.HERE / "launch_cases.py", "triton_room_launch_cases")
CLASSES, FLOAT32 = sizes.CLASSES, torch.float32


def moments(module, channels, dtype, layout=torch.channels_last) -> None:
    module.class_moments_full(*sizes.pixels(channels, dtype, layout), CLASSES, 255)


def bound(module, channels, dtype, layout=torch.channels_last, classes=CLASSES, normalize=True) -> None:
    features, labels = sizes.pixels(channels, dtype, layout)
    mean, covariance = (torch.empty(classes, *[channels] * n, device="meta") for n in (1, 2))
    inputs = features, labels, mean, covariance
    loss, posterior = module.forward(*inputs, 100.0, normalize, 255)
    module.backward(loss, *inputs, posterior, 100.0, normalize, 255)


def _cases():
    nchw, sixteen = torch.contiguous_format, (torch.bfloat16, torch.float16)
    for dtype, channels in ((FLOAT32, 256), *((dtype, 256) for dtype in sixteen), (FLOAT32, 2048), (FLOAT32, 64)):
        name, first = f"A={channels}, {str(dtype)[6:]}", dtype == FLOAT32 and channels == 256
        yield Case(
            f"class_moments_full, {name}", "class_moments_full", lambda m, a=channels, d=dtype: moments(m, a, d),
            every_card=first,
        )  # fmt: skip
        yield Case(
            f"contrastive_bound_full, {name}", "contrastive_bound_full",
            lambda m, a=channels, d=dtype: bound(m, a, d), every_card=first,
        )  # fmt: skip
    yield Case("class_moments_full, A=256, NCHW", "class_moments_full", lambda m: moments(m, 256, FLOAT32, nchw))
    for name, options in {
        "NCHW": {"layout": nchw}, "plain": {"normalize": False}, "K=64": {"classes": 64}, "K=256": {"classes": 256}
    }.items():  # fmt: skip
        yield Case(
            f"contrastive_bound_full, A=256, {name}", "contrastive_bound_full",
            lambda m, o=options: bound(m, 256, FLOAT32, **o),
        )  # fmt: skip


CASES = list(_cases())
