"""Small cases for the launchers of the assignment operators; see kernel_cases.py."""

from __future__ import annotations

import functools

import torch
import triton_room
from close import assert_as_accurate
from contract import make

from fastuda.reference import mode_losses as modes_reference
from fastuda.reference.sinkhorn import sinkhorn as sinkhorn_reference

shared = triton_room.load_file(triton_room.HERE / "kernel_cases.py", "triton_room_kernel_cases")
constants = triton_room.load_file(triton_room.HERE / "kernel_cases_full.py", "triton_room_kernel_cases_full").constants
F32, F16, BF16, EPS = shared.F32, shared.F16, shared.BF16, shared.EPS
ROUNDING = 1e-6


def check_sinkhorn(
    rows=300, classes=19, dtype=F32, *, problems=2, iterations=3, current=None, factor=1.0, strided=False, offset=0.0,
    epsilon=0.05, change=None, **sizes,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(0)
    scores = (torch.rand(problems, rows, classes, generator=g) * 2 - 1) * factor
    marginal = (300 ** -torch.linspace(0, 1, classes)).expand(problems, -1) * (1 + torch.rand(problems, 1, generator=g))
    scores = (scores + offset + 0.3 * torch.arange(problems).view(-1, 1, 1)).to(dtype)
    marginal = torch.stack([m[torch.randperm(classes, generator=g)] for m in marginal])
    if change is not None:
        change(scores, marginal)
    current = rows if current is None else current
    truth = sinkhorn_reference(scores.double(), marginal, epsilon, iterations, current)
    if strided:
        scores, marginal = shared.gaps(scores), shared.gaps(marginal)
    module = triton_room.kernel_module("sinkhorn")
    with constants(module, sizes):
        ours = module.sinkhorn(scores, marginal, epsilon, iterations, current)
    assert ours.shape == truth.shape and ours.dtype == F32
    assert torch.equal(ours.isnan(), truth.isnan()), "NaN in other places"
    error = (ours.double() - truth).nan_to_num().abs().max().item()
    assert error <= ROUNDING, f"an error of {error:.1e}"


def _no_share(scores, marginal) -> None:
    marginal[:, 2] = 0


def _no_mass(scores, marginal) -> None:
    scores[:, :, 3] = -float("inf")
    scores[1, 7] = -float("inf")


def _infinite(scores, marginal) -> None:
    scores[1, 5, 1] = float("inf")


def _shunned(scores, marginal) -> None:
    scores[:, :, 4] = -20
    scores[:, 7] = 20
    scores[:, 100:, 5] -= 20


SINKHORN = {
    "plain": {},
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "the last rows": dict(current=70, rows=333, dtype=F16),
    "one round": dict(iterations=1),
    "programs of several tiles": dict(rows=700, MOST_PROGRAMS=3),
    "more programs than are added at once": dict(rows=700, problems=1, TILE=256, ADDED_AT_ONCE=16),
    "a wide spread": dict(factor=20.0, change=_shunned),
    "tiles far apart": dict(rows=400, factor=20.0, change=_shunned, MOST_PROGRAMS=1),
    "a large offset": dict(offset=-3000.0),
    "another epsilon": dict(epsilon=0.07, factor=20.0),
    "150 classes": dict(classes=150, rows=60),
    "no share": dict(change=_no_share),
    "no mass": dict(change=_no_mass),
    "infinity": dict(change=_infinite, rows=40),
    "infinity, one round": dict(change=_infinite, rows=40, iterations=1),
    "one row": dict(rows=1, classes=3),
}


def centres(classes: int, modes: int, channels: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(4)
    return 1.5 * torch.randn(classes, modes, channels, generator=g) + 0.5


def check_modes(
    shape=(2, 21, 5, 9), classes=5, modes=3, dtype=F32, *, sigma2=2.0, margin=1.0, square=False, strided=False,
    ignore_index=255, card=80, offset=0.0, same=False, scale=65536, **sizes,
) -> None:  # fmt: skip
    features, labels = make(shape, classes, dtype)
    size = 2.0 ** -round(float(torch.tensor(2.0 * shape[1] ** 0.5).log2()))
    features, v = (features * size + offset).to(dtype), centres(classes, modes, shape[1]) * size + offset
    if same:
        v = v[:1, :1].expand_as(v).contiguous()
    features, valid = shared.dirty(features, labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0)
    g = torch.Generator().manual_seed(1)
    grads = [(scale * (0.5 + torch.rand(labels.shape, generator=g))).where(valid, float("nan")) for _ in range(2)]
    options = sigma2, margin, square, ignore_index

    def reference(kind):
        e = clean.to(kind) if kind == torch.float64 else clean
        out = modes_reference.forward(e, labels, v.to(kind), *options)
        triplet, _, _, *saved = out
        weights = (grad.to(kind).nan_to_num() for grad in grads)
        return *out, *modes_reference.backward(*weights, e, labels, v.to(kind), triplet, *saved, ignore_index)

    plain, truth = reference(F32), reference(torch.float64)
    given = features, labels, v
    if strided:
        given, grads = [shared.gaps(t) for t in given], [shared.gaps(grads[0]), shared.gaps(grads[1].mT).mT]
    else:
        given = features.contiguous(memory_format=torch.channels_last), labels, v
    module = triton_room.kernel_module("mode_losses")
    with constants(module, sizes):
        triplet, loss, own, *saved = shared.on_card(card, lambda: module.forward(*given, *options))
        slopes = shared.on_card(card, lambda: module.backward(*grads, *given, triplet, *saved, ignore_index))
    assert slopes[0].dtype == features.dtype and slopes[0].shape == features.shape
    names = "triplet", "cross entropy", "own mode", "rival", "weight", "nearest", "gradient", "gradient of modes"
    for name, ours, usual, exact in zip(names, (triplet, loss, own, *saved, *slopes), plain, truth, strict=True):
        if exact.is_floating_point():
            assert_as_accurate(ours, usual, exact, EPS, name)
        else:
            assert ours.dtype == exact.dtype and torch.equal(ours, exact), f"{name} differs"
    outside = ~valid.unsqueeze(1).expand_as(slopes[0])
    assert not loss[~valid].any() and not slopes[0][outside].any(), "an ignored pixel is not zero"


MODES = {
    "channels_last": {},
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "float16, squared": dict(dtype=F16, square=True, sigma2=8.0, scale=512),
    "another ignore_index": dict(ignore_index=1),
    "no tensor cores": dict(card=75, shape=(1, 40, 5, 9)),
    "channels beyond a block": dict(shape=(1, 70, 3, 7), margin=0.2),
    "20 classes of 5 modes": dict(classes=20, modes=5, shape=(1, 19, 5, 15)),
    "one class of one mode": dict(classes=1, modes=1),
    "17 modes": dict(modes=17, classes=3, shape=(1, 9, 6, 21)),
    "60 classes": dict(classes=60, modes=2, shape=(1, 6, 5, 9)),
    "equal modes": dict(same=True, modes=6),
    "far from zero": dict(offset=30.0, shape=(1, 8, 5, 9)),
    "chunks": dict(shape=(1, 5, 9, 31), CHUNK=64),
    "strided": dict(strided=True, square=True, sigma2=8.0),
}

_SINKHORN = {name: functools.partial(check_sinkhorn, **options) for name, options in SINKHORN.items()}
_MODES = {name: functools.partial(check_modes, **options) for name, options in MODES.items()}
CHECKS = dict.fromkeys(("_sweep", "_scale_classes", "_assign"), _SINKHORN) | dict.fromkeys(
    ("_subtract_centre", "_mode_losses", "_feature_slopes", "_sum_modes", "_add_chunks"), _MODES
)
