"""Cases for sinkhorn.cu under the emulation, each against the reference in float64; see cases.py."""

from __future__ import annotations

import ctypes

import emulated
import torch
from torch import Tensor

from fastuda.reference import sinkhorn as reference

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
ROUNDING, ROUNDING_DOUBLE = 1e-6, 1e-13  # absolute, as in tests/ops
PLAN = ("slots", "blocks", "block_rows", "launches")
FEW, SMALL = (4, 48 * 1024), (1, 48 * 1024)  # cards of so few multiprocessors: blocks meet, or rows cannot be kept


class Options(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_longlong)
            for name in (
                "seed", "type", "double_shares", "problems", "rows", "classes", "current", "iterations",
                "multiprocessors", "shared_limit", "together",
            )
        ),
        ("epsilon", ctypes.c_double),
    ]  # fmt: skip


def run(
    library, scores: Tensor, shares: Tensor, epsilon: float, iterations: int, current: int, *, card=FEW,
    together: bool = True, seed: int = 0,
) -> tuple[Tensor, dict[str, int]]:  # fmt: skip
    library.sinkhorn.restype = ctypes.c_char_p
    problems, rows, classes = scores.shape
    dtype = F64 if scores.dtype == F64 else F32
    result = torch.full((problems, current, classes), float("nan"), dtype=dtype)
    options = Options(
        seed, emulated.TYPES[scores.dtype], shares.dtype == F64, problems, rows, classes, current, iterations, *card,
        together, epsilon,
    )  # fmt: skip
    plan = (ctypes.c_int * len(PLAN))()
    arrays = (emulated.matrix(t) for t in (scores, shares, result))
    emulated._call(library.sinkhorn, options, *arrays, plan)
    return result, dict(zip(PLAN, plan, strict=True))


def make(problems: int, rows: int, classes: int, dtype=F32, share_dtype=F32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cosines in -1..1 and shares as skewed as 300 to 1, in another order for each problem."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(problems, rows, classes, generator=g) * 2 - 1
    order = torch.stack([torch.randperm(classes, generator=g) for _ in range(problems)])
    shares = 300 ** -torch.linspace(0, 1, classes, dtype=share_dtype)
    return scores.to(dtype), (shares / shares.sum())[order]


def lay_out(scores: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return scores.mT.contiguous().mT
    if layout == "strided":  # every stride is its own, with NaN between
        b, n, k = scores.shape
        return torch.full((b + 1, n + 3, 2 * k + 1), float("nan"), dtype=scores.dtype)[1:, 2:-1, 1::2].copy_(scores)
    assert layout == "rows"
    return scores


def check(
    library, shape=(1, 700, 19), dtype=F32, share_dtype=F32, layout="rows", *, epsilon=0.05, iterations=3,
    current=None, change=None, card=FEW, together=True, seeds=(1,), expect=None, shared_share=False,
) -> None:  # fmt: skip
    """change: edits (scores, shares); expect: facts about the plan; shared_share: one marginal for all problems."""
    scores, shares = make(*shape, dtype, share_dtype)
    if change is not None:
        scores, shares = change(scores, shares)
    if shared_share:
        shares = shares[:1].expand(shape[0], -1)
    current = shape[1] if current is None else current
    truth = reference.sinkhorn(scores.double(), shares, epsilon, iterations, current)
    scores = lay_out(scores, layout)
    limit = ROUNDING_DOUBLE if dtype == F64 else ROUNDING
    first = None
    for seed in seeds:
        found, plan = run(
            library, scores, shares, epsilon, iterations, current, card=card, together=together, seed=seed
        )
        for name, value in (expect or {}).items():
            assert value(plan[name]) if callable(value) else plan[name] == value, f"{name} is {plan[name]}: {plan}"
        error = (found.double() - truth).abs().max().item() if found.numel() else 0.0
        assert error <= limit, f"error {error:.3e}"
        first = found if first is None else first
        assert torch.equal(found, first), "another schedule gave other bits"


def check_steps(library, shape, card=FEW, change=None, **options) -> None:
    """A launch a step gives the bits of one cooperative launch, as many launches as said."""
    scores, shares = make(*shape, options.pop("dtype", F32))
    if change is not None:
        scores, shares = change(scores, shares)
    iterations, launches = options.get("iterations", 3), options.pop("launches")
    truth = reference.sinkhorn(scores.double(), shares, 0.05, iterations, shape[1])
    both = [run(library, scores, shares, 0.05, iterations, shape[1], card=card, together=t) for t in (True, False)]
    assert [plan["launches"] for _, plan in both] == [1, launches] and both[0][1]["blocks"] > 1, both[0][1]
    error = (both[1][0].double() - truth).abs().max().item()
    assert error <= ROUNDING, f"error {error:.3e} in steps"
    assert torch.equal(both[0][0], both[1][0]), "one launch gave other bits than a launch a step"


def check_batch(library, shape, card) -> None:
    """Problems of a batch, one of them of a wide spread, have the bits that they have alone in as many blocks."""
    scores, shares = make(*shape)
    scores[2] *= 50
    both, plan = run(library, scores, shares, 0.05, 3, 9, card=card)
    alone = (card[0] // shape[0], card[1])
    for i in range(shape[0]):
        one, its = run(library, scores[i : i + 1], shares[i : i + 1], 0.05, 3, 9, card=alone)
        assert its["blocks"] == plan["blocks"], f"{its} alone, {plan} together"
        assert torch.equal(one[0], both[i]), f"problem {i} has other bits than alone"


def _zero_share(scores, shares):
    shares[:, 2] = 0
    return scores, shares


def _no_share(scores, shares):
    return scores, shares * 0


def _constant(scores, shares):
    return torch.full_like(scores, 0.3), shares


def _spread(width: float, shunned: bool = False):
    def change(scores, shares):
        scores = scores * (width / 2)
        if shunned:
            scores[:, :, 1] = -width / 2
        scores[:, -1, :] = width / 2
        return scores, shares

    return change


def _far_off(scores, shares):
    """An offset, which the exponent must not see; and a factor of the shares, which counts for nothing."""
    return scores + 37.0, shares * 1e6


def _one_sided(scores, shares):
    """All rows far from all classes but one: exponents near -56, which the shares bring back."""
    scores = (scores + 1) * 0.1
    scores[:, :, 1:] -= 2.6
    return scores, torch.ones_like(shares)


def _wide_at_the_end(scores, shares):
    scores[:, -5:] *= 30
    return scores, shares


def _far_classes(scores, shares):
    """Shunned by all rows, beyond float, and yet they get their shares."""
    scores[:, :, 4:] -= 20
    return scores, shares


def _opposed(scores, shares):
    return torch.tensor([[[0.0, 1e4], [1e4, 0.0], [1e4, -1e4]]]), shares


def _cases():
    layouts = ("rows", "transposed", "strided")
    for i, dtype in enumerate((F32, F16, BF16, F64)):
        for j, share_dtype in enumerate((F32, F64)):
            layout = layouts[(i + j) % 3]
            case = dict(shape=(1, 300, 13), dtype=dtype, share_dtype=share_dtype, layout=layout)
            yield f"{str(dtype)[6:]}, shares {str(share_dtype)[6:]}, {layout}", case
    for rows in (1, 2, 127, 129, 512, 513):
        yield f"{rows} rows", dict(shape=(1, rows, 5), expect={"blocks": 1 + (rows > 512), "slots": 4})
    for classes in (1, 2, 4, 16, 20, 21, 32, 33, 64, 150, 256):
        yield f"{classes} classes", dict(shape=(1, 150, classes), expect={"blocks": 1 if classes <= 20 else 4})
    yield "257 classes", dict(shape=(1, 70, 257))
    yield "600 classes", dict(shape=(1, 20, 600), iterations=2)
    yield "40 classes, transposed", dict(shape=(2, 90, 40), layout="transposed")
    kept = {"slots": 8, "launches": 1}
    yield "8 rows kept", dict(shape=(1, 1000, 19), card=SMALL, expect=kept | {"blocks": 1})
    yield "8 rows kept, blocks meet", dict(shape=(1, 2700, 7), card=(2, 48 * 1024), expect=kept | {"blocks": 2})
    yield "rows not kept", dict(shape=(1, 5300, 6), card=(2, 48 * 1024), expect=kept | {"blocks": 2})
    yield "rows not kept, 33 classes", dict(shape=(1, 300, 33), card=SMALL, expect={"slots": 2, "blocks": 1})
    yield "many rows of one block", dict(shape=(1, 9000, 3), card=SMALL, current=5, expect=kept)
    for iterations in (1, 2, 7):
        yield f"{iterations} rounds", dict(shape=(1, 600, 5), iterations=iterations, expect={"blocks": 2})
    yield "2 rounds, 50 classes", dict(shape=(1, 80, 50), iterations=2, expect={"blocks": 3})
    for current in (0, 1, 100, 599):
        yield f"the last {current} rows", dict(shape=(1, 600, 5), current=current)
    yield "the last 30 rows, not kept", dict(shape=(1, 2600, 5), current=30, card=SMALL)
    yield "the last 30 rows, wide", dict(shape=(1, 600, 5), current=30, change=_spread(40.0))
    yield "the last 30 rows, 21 classes", dict(shape=(2, 200, 21), current=30)
    yield "schedules", dict(shape=(1, 600, 19), seeds=range(2, 6), expect={"blocks": 2})
    yield "schedules, 40 classes", dict(shape=(1, 150, 40), seeds=range(2, 5), expect={"blocks": 4})
    yield "schedules, wide", dict(shape=(1, 600, 3), seeds=range(2, 5), change=_spread(40.0), expect={"blocks": 2})
    yield "problems, a block each", dict(shape=(5, 60, 6), expect={"blocks": 1, "launches": 1})
    yield "problems, one share", dict(shape=(3, 600, 6), shared_share=True, card=(6, 48 * 1024), expect={"blocks": 2})
    yield "a class without a share", dict(shape=(1, 200, 6), change=_zero_share)
    yield "a class without a share, wide", dict(
        shape=(1, 200, 6), change=lambda s, m: _zero_share(*_spread(40.0)(s, m))
    )  # fmt: skip
    yield "no class has a share", dict(shape=(1, 200, 6), change=_no_share)
    yield "no class has a share, wide", dict(shape=(1, 200, 6), change=lambda s, m: _no_share(*_spread(9.0)(s, m)))
    yield "constant scores", dict(shape=(1, 200, 6), change=_constant)
    yield "constant scores, tiny epsilon", dict(shape=(1, 50, 6), change=_constant, epsilon=1e-39)
    yield "a large epsilon", dict(shape=(1, 50, 6), epsilon=1e5)
    yield "far off", dict(shape=(1, 200, 6), change=_far_off)
    for width in (2.9, 3.1, 20.0, 40.0):  # of 0.05: exponents of 58, 62, 400 and 800
        for dtype in (F32, F16, BF16):
            case = dict(shape=(1, 200, 9), dtype=dtype, change=_spread(width, shunned=True))
            yield f"spread {width}, {str(dtype)[6:]}", case
    for classes in (2, 3, 9):
        yield f"one-sided, {classes} classes", dict(shape=(1, 400, classes), change=_one_sided)
    for name, change in (("wide at the end", _wide_at_the_end), ("far classes", _far_classes)):
        yield name, dict(shape=(1, 600, 8), change=change, expect={"blocks": 2})
    yield "tiny shares", dict(shape=(1, 200, 6), share_dtype=F64, change=lambda s, m: (s, m * 1e-60))
    yield "spread 40, 40 classes", dict(shape=(1, 100, 40), change=_spread(40.0, shunned=True))
    yield "spread 40, float64", dict(shape=(1, 100, 9), dtype=F64, change=_spread(40.0, shunned=True))
    yield "wider than float64", dict(shape=(1, 3, 2), change=_opposed)


def _step_cases():
    yield "steps", dict(shape=(1, 700, 19), launches=5)
    yield "steps, 8 rows kept in one launch", dict(shape=(1, 2700, 7), card=(2, 48 * 1024), launches=5)
    yield "steps, 40 classes", dict(shape=(1, 150, 40), iterations=2, launches=4)
    yield "steps, one problem wide", dict(
        shape=(2, 600, 6), card=FEW, launches=5, change=lambda s, m: (s * torch.tensor([1.0, 50.0])[:, None, None], m)
    )  # fmt: skip
    yield "steps, float64", dict(shape=(1, 300, 6), dtype=F64, launches=4)


def _bind(function, options):
    return lambda library: function(library, **options)


SINKHORN = {name: _bind(check, options) for name, options in _cases()}
SINKHORN |= {name: _bind(check_steps, options) for name, options in _step_cases()}
SINKHORN["a batch with a wide problem"] = _bind(check_batch, dict(shape=(4, 600, 6), card=(8, 48 * 1024)))
SINKHORN["a batch of a block each"] = _bind(check_batch, dict(shape=(4, 60, 6), card=(4, 48 * 1024)))
TABLES = {"sinkhorn": SINKHORN}
