"""The fast cut of the contract of mode_losses, beside checks.py: every pass alone, against its reference in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from close import assert_as_accurate
from torch import Tensor

from fastuda.reference import mode_losses as reference

OPS = torch.ops.fastuda
FORWARD = ("triplet", "cross entropy", "own mode", "rival", "weight", "nearest")


def modes_of(classes: int, per_class: int, channels: int, spread: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(classes + channels)
    return (0.5 + spread * torch.randn(classes, per_class, channels, generator=g)) / channels**0.5


def cases(make, image, backward: bool) -> Iterator:
    """(name, check) of one pass; ``make`` and ``image`` are those of checks.py."""
    run = backward_pass if backward else forward_pass
    for layout in ("planes", "rows", "rows in NaN", "planes in NaN"):
        for pixels, channels, classes, per_class, dtype in (
            (1330, 37, 5, 3, torch.float32), (31, 17, 13, 1, torch.float32), (100, 269, 3, 5, torch.float32),
            (700, 64, 19, 3, torch.float32), (140, 35, 19, 2, torch.bfloat16), (60, 16, 33, 4, torch.float32),
        ):  # fmt: skip
            x, y = image(*make(pixels, channels, classes, dtype), 5, layout)
            x = x / (4 * channels**0.5)
            v = modes_of(classes, per_class, channels)
            name = f"{layout}, {pixels} x {channels}, {classes} x {per_class} modes, {dtype}"
            yield name, lambda x=x, y=y, v=v: run(x, y, v)
    x, y = image(*make(200, 12, 3), 5, "rows")
    yield "square", lambda: run(x / 14, y, modes_of(3, 3, 12), (0.9, 0.3, True, 1))
    deep, other = image(*make(60, 530, 3), 5, "rows")
    yield "square of many channels", lambda: run(deep / 92, other, modes_of(3, 3, 530), (0.9, 0.3, True, 255))
    for layout in ("planes", "rows", "planes in NaN"):
        near, z = image(*make(300, 40, 2), 5, layout)
        v = modes_of(3, 2, 40, 0.01)
        v[2] += 300  # two classes among the pixels, and one that moves the mean of the modes away
        near = near * (1e-3 / 40**0.5) + 0.5 / 40**0.5
        yield f"near modes, {layout}", lambda x=near, y=z, v=v: run(x, y, v, (1e-4, 0.0, False, 255))
    twice = v[:, :1].expand(3, 2, 40)
    yield "near and equal modes", lambda: run(near, z, twice, (1e-4, 0.0, False, 255))
    same = modes_of(1, 1, 12).expand(19, 3, 12)
    if not backward:  # whose true gradient is nothing but what cancels
        yield "equal modes", lambda: run(x / 14, y, same)
    yield "one class", lambda: run(x / 14, y.where(y != 1, 0), modes_of(1, 3, 12))
    yield "all ignored", lambda: run(x, torch.full_like(y, 255), modes_of(3, 3, 12))
    yield "no pixel", lambda: run(x[:, :, :0], y[:, :0], modes_of(3, 3, 12))
    long, z = image(*make(30_000, 20, 4), 5, "rows")
    yield "threads", lambda: threads(long / 16, z, modes_of(4, 3, 20), run)
    wide, z = image(*make(132_000, 64, 4), 5, "rows")
    yield "larger than caches", lambda: run(wide / 32, z, modes_of(4, 3, 64))


def forward_pass(x: Tensor, y: Tensor, v: Tensor, options=(0.5, 1.0, False, 255)) -> tuple[Tensor, ...]:
    ours = OPS.mode_losses_forward(x, y, v, *options)
    plain = reference.forward(x, y, v, *options)
    truth = reference.forward(x.double(), y, v.double(), *options)
    for what, a, b, c in zip(FORWARD, ours, plain, truth, strict=True):
        if c.is_floating_point():
            assert_as_accurate(a, b, c, 4e-6, what)
        elif c.numel():  # two modes may be as near as makes no difference to float32
            assert (a != c).double().mean() <= 1e-4, f"{what} differs"
    if options[1] == 1.0 and v.stride()[0] == 0 and v.shape[0] > 1:
        assert (ours[0].unique() <= 1).all() and not ours[5].any(), "equal modes are told apart"
    return ours


def backward_pass(x: Tensor, y: Tensor, v: Tensor, options=(0.5, 1.0, False, 255)) -> tuple[Tensor, ...]:
    # One forward pass for all, so that the backward alone is looked at.
    g = torch.Generator().manual_seed(0)
    grads = torch.randn(y.mT.shape, generator=g).mT, torch.randn(y.shape, generator=g)
    saved = reference.forward(x, y, v, *options)
    saved = saved[0], *saved[3:]
    ignore = options[-1]
    ours = OPS.mode_losses_backward(*grads, x, y, v, *saved, ignore)
    plain = reference.backward(*grads, x, y, v, *saved, ignore)
    double = [t.double() if t.is_floating_point() else t for t in saved]
    truth = reference.backward(*(g.double() for g in grads), x.double(), y, v.double(), *double, ignore)
    near = options[0] < 1e-3
    for what, a, b, c in zip(("gradient", "gradient of the modes"), ours, plain, truth, strict=True):
        assert_as_accurate(a, b, c, 1e-4 if near else 4e-6, what)
    valid = (y >= 0) & (y < len(v)) & (y != ignore)
    assert (ours[0].movedim(1, -1)[~valid] == 0).all(), "gradient at an ignored pixel"
    return ours


def threads(x: Tensor, y: Tensor, v: Tensor, run) -> None:
    first = run(x, y, v)
    torch.set_num_threads(2)
    for a, b in zip(first, run(x, y, v), strict=True):
        assert torch.equal(a, b), "other bits with two threads"
    torch.set_num_threads(1)
