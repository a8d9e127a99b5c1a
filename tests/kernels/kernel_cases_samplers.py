"""Small cases for the launchers of the samplers and of the triplet loss; see kernel_cases.py.

What is drawn must be what the definition draws, bit for bit.
"""

from __future__ import annotations

import contextlib
import functools

import torch
import triton_room
from close import assert_as_accurate

from fastuda.reference import class_balanced_sample as samplers
from fastuda.reference import triplet_consistency_loss as losses
from fastuda.reference._random import random_bits
from fastuda.reference.select_triplets import select_triplets as partners

shared = triton_room.load_file(triton_room.HERE / "kernel_cases.py", "triton_room_kernel_cases")
full = triton_room.load_file(triton_room.HERE / "kernel_cases_full.py", "triton_room_kernel_cases_full")
F32, F16, BF16, EPS = shared.F32, shared.F16, shared.BF16, shared.EPS
SEED = (2**32 - 5, 2**31 + 77)


@contextlib.contextmanager
def sizes_of(module, sizes: dict):
    """The module with other sizes of its parts, and memory that no kernel wrote is NaN or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with full.constants(module, sizes):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def assert_same(ours: torch.Tensor, truth: torch.Tensor, name: str) -> None:
    assert ours.dtype == truth.dtype and ours.shape == truth.shape, f"{name}: {ours.dtype} of {tuple(ours.shape)}"
    assert torch.equal(ours, truth), f"{name}: {int((ours != truth).sum())} of {ours.numel()} differ"


def check_partners(
    source=200, target=150, classes=5, modes=3, *, seed=SEED, strided=False, change=None, **sizes
) -> None:
    g = torch.Generator().manual_seed(classes)
    limits = (source, classes), (source, modes), (target, classes), (target, modes)
    given = [torch.randint(0, limit, (count,), generator=g) for count, limit in limits]
    for values, (count, limit) in zip(given, limits, strict=True):
        for wild in (-1, limit, 255, 2**32, -(2**40)):
            values[torch.rand(count, generator=g) < 0.02] = wild
    if change is not None:
        change(*given)
    seed = torch.tensor(seed)
    truth = partners(*given, seed, classes, modes)
    if strided:
        given = [torch.stack([t, *[t + 1] * i], 1)[:, 0] for i, t in enumerate(given, 1)]  # each its own stride
        seed = shared.gaps(seed)
    module = triton_room.kernel_module("select_triplets")
    with sizes_of(module, sizes):
        ours = module.select_triplets(*given, seed, classes, modes)
    for mine, true, name in zip(ours, truth, ("positive", "negative", "valid"), strict=True):
        assert_same(mine, true, name)


def _one_class(source_class, *_) -> None:
    source_class[:] = 2


def _rare(source_class, source_mode, *_) -> None:
    source_class[source_class == 1] = 0
    source_mode[(source_class == 3) & (source_mode == 1)] = 0


PARTNERS = {
    "plain": {},
    "strided": dict(strided=True),
    "chunks": dict(source=700, SHORTEST_CHUNK=128),
    "most chunks": dict(source=700, SHORTEST_CHUNK=128, MOST_CHUNKS=2, seed=(0, 0)),
    "76 buckets": dict(classes=19, modes=4, target=300),
    "one mode": dict(modes=1, seed=(1, 0)),
    "no rows": dict(source=0),
    "no targets": dict(target=0),
    "one class": dict(change=_one_class),
    "missing buckets": dict(change=_rare, seed=(0, 1)),
}


def check_losses(
    rows=40, sources=30, channels=21, dtype=F32, *, margin=0.5, strided=False, expanded=False, outside=(), drawn=None,
    wild=None, **sizes,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(3)
    target, source = (
        ((torch.randn(n, channels, generator=g) + 1) / (2 * max(1, channels)) ** 0.5).to(dtype) for n in (rows, sources)
    )
    positive, negative = (torch.randint(0, max(1, drawn or sources), (rows,), generator=g) for _ in range(2))
    valid = torch.rand(rows, generator=g) < 0.8
    known = valid.clone()
    if sources:  # rows that take no part are NaN
        reached = torch.zeros(sources, dtype=torch.bool)
        reached[torch.cat([positive[valid], negative[valid]])] = True
        source[~reached], target[~valid] = torch.nan, torch.nan
    if wild is not None:
        wild(target, source, positive, negative, valid)
    clean = positive.clone(), negative.clone()
    for i, value in enumerate(outside):
        at = valid.nonzero().flatten()[2 + i]
        (positive, negative)[i % 2][at], known[at] = value, False
    grad = (torch.rand(1, generator=g).expand(rows) if expanded else torch.rand(rows, generator=g)) * 256

    def reference(kind):
        t, s = target.to(kind), source.to(kind)
        return losses.forward(t, s, *clean, known, margin)

    plain, truth = reference(dtype), reference(torch.float64)
    module = triton_room.kernel_module("triplet_consistency_loss")
    given = target, source, positive, negative
    if strided:
        given, grad = (shared.gaps(target.T.contiguous()).T, *(shared.gaps(t) for t in given[1:])), shared.gaps(grad)
    with sizes_of(module, sizes):
        loss = module.forward(*given, shared.gaps(valid) if strided else valid, margin)
        odd = valid & ~known
        saved = loss.masked_fill(odd, 1.0) if len(outside) else loss  # such rows give nothing in any case
        slopes = module.backward(grad, *given, shared.gaps(saved) if strided else saved)
    assert loss[odd].isnan().all(), "a partner outside the source has a loss"
    assert_as_accurate(loss[~odd], plain[~odd], truth[~odd], EPS, "loss")
    assert not loss[~valid].any(), "a row without partners has a loss"
    active = loss.nan_to_num(0.0)
    pulls = losses.backward(grad, target, source, *clean, active)
    exact = losses.backward(grad.double(), target.double(), source.double(), *clean, active.double())
    for name, mine, usual, true in zip(("target", "source"), slopes, pulls, exact, strict=True):
        assert_as_accurate(mine, usual, true, EPS, f"gradient of {name}")
        dead = ~(true != 0).any(1)
        assert not mine[dead].any(), f"a row of {name} that takes no part has a slope"
    assert slopes[0].stride() == torch.empty_like(given[0]).stride() and slopes[1].is_contiguous()


def _infinite(target, source, positive, negative, valid) -> None:
    valid[:4] = True
    target[0, 1], target[1, 0] = torch.inf, torch.nan
    positive[2], negative[3] = 7, 7
    source[7] = 0.25
    source[7, 2] = torch.inf
    positive[4:], negative[4:] = positive[4:] % 7, negative[4:] % 7


LOSSES = {
    "plain": {},
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "float16": dict(dtype=F16, margin=1.0, channels=16),
    "strided": dict(strided=True, rows=21),
    "blocks of channels": dict(channels=70, rows=19, MOST_CHANNELS={"forward": 32, "backward": 16}),
    "one gradient": dict(expanded=True, channels=1),
    "long lists": dict(sources=2, rows=150),
    "lists of 16": dict(rows=32, drawn=1, sources=5, DRAWS=4),
    "a row alone": dict(rows=1, sources=1),
    "more source rows": dict(rows=9, sources=90),
    "closed": dict(margin=-5.0),
    "no source": dict(sources=0),
    "no target": dict(rows=0),
    "no channels": dict(channels=0),
    "outside": dict(outside=(-1, 30, 2**40, -(2**40), 30, -3)),
    "infinity": dict(wild=_infinite),
}


def check_samples(
    images=2, pixels=600, classes=5, wanted=60, dtype=torch.int64, *, seed=SEED, ignore_index=255, strided=False,
    change=None, **sizes,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(pixels)
    share = 0.4 ** torch.arange(classes)
    labels = torch.multinomial(share, max(1, images * pixels), replacement=True, generator=g)
    labels = labels[: images * pixels].view(images, pixels)
    wild = [255, classes] if dtype == torch.uint8 else [255, classes, -1, -(2**31)]
    for value in wild + ([2**32, -(2**40)] if dtype == torch.int64 else []):
        labels[torch.rand(labels.shape, generator=g) < 0.03] = value
    if change is not None:
        labels = change(labels)
    labels, seed = labels.to(dtype), torch.tensor(seed)
    given = (labels if not strided else shared.gaps(labels.T.contiguous()).T), seed, classes, wanted, ignore_index
    module = triton_room.kernel_module("class_balanced_sample")
    with sizes_of(module, sizes):
        for name in ("class_balanced_sample", "sample_per_class"):
            truth = getattr(samplers, name)(labels, seed, classes, wanted, ignore_index)
            assert_same(getattr(module, name)(*given), truth, name)


def check_split(shift: int, seed=None, both=False, images=2, pixels=600, classes=1) -> None:
    """The last pixel that is drawn of an image agrees with the next one of its class in all bits from ``shift`` on.

    In all of their 31 bits two pixels agree once in about 20,000 seeds: there ``seed`` is given.
    both: the next one is drawn as well.
    """
    number = torch.arange(images * pixels)
    label = number * 7 % 11 % classes
    for k in range(2000):
        chosen = torch.tensor(seed or (k, 3 * k + 1))
        bits = random_bits(chosen, 0, number) >> 1
        order = (label * images + number // pixels << 32 | bits).argsort()
        alike, apart = (((bits >> s)[order[1:]] == (bits >> s)[order[:-1]]) for s in (shift, max(shift - 10, 0)))
        alike &= (label[order[1:]] == label[order[:-1]]) & (number[order[1:]] // pixels == number[order[:-1]] // pixels)
        found = (alike & ~apart if shift else alike).nonzero().flatten()
        if len(found):
            break
    at = order[found[-1]]
    same = (label == label[at]) & (number // pixels == number[at] // pixels)
    wanted = int((same & (bits < bits[at])).sum()) + 1 + both
    y = label.view(images, pixels)
    module = triton_room.kernel_module("class_balanced_sample")
    for name in ("sample_per_class", "class_balanced_sample")[: 1 if classes > 1 else 2]:
        given = y, chosen, classes, wanted, 255
        assert_same(getattr(module, name)(*given), getattr(samplers, name)(*given), name)


# Which of two pixels of 600 has the smaller number of 32 bits, the other 31 of which they share.
EARLIER_FIRST, LATER_FIRST = (906503324, 102788), (808709755, 17773)
LATER_FIRST_IN_THE_SECOND_IMAGE = (4138198726, 169610)


def _equal_shares(labels: torch.Tensor) -> torch.Tensor:
    return torch.arange(labels.numel()).view(labels.shape) % 7


def _few(labels: torch.Tensor) -> torch.Tensor:
    labels[-1], labels[-1, 2:9] = 255, 1
    return labels


SAMPLES = {
    "plain": {},
    "blocks": dict(BLOCK=128, images=3),
    "lists of one block at once": dict(BLOCK=64, LISTED=8, pixels=500, classes=7),
    "strided int32": dict(dtype=torch.int32, strided=True, images=3, pixels=97, wanted=20),
    "uint8": dict(dtype=torch.uint8, seed=(0, 0)),
    "another ignore_index": dict(ignore_index=1, BLOCK=256),
    "the first class is ignored": dict(ignore_index=0, seed=(5, 2**32 - 1)),
    "only the top-up": dict(change=_equal_shares, classes=7, wanted=6, BLOCK=64, pixels=140),
    "fewer pixels than wanted": dict(change=_few, wanted=100),
    "one class": dict(classes=1, wanted=333),
    "one of each": dict(wanted=1, classes=3),
    "nothing wanted": dict(wanted=0, pixels=50, seed=(5, 0), change=lambda y: y % 5),  # the bits of pixel 5 are 0
    "no valid pixel": dict(change=lambda y: y * 0 + 255, pixels=50),
    "no pixels": dict(pixels=0),
    "no images": dict(images=0),
    "one pixel": dict(images=1, pixels=1, classes=2, wanted=2),
    "more than there are": dict(pixels=90, wanted=1100, images=1),
    "many classes": dict(classes=40, wanted=300, pixels=400, images=1, LISTED=64, BLOCK=256),
}
SPLITS = {
    "the first digit is shared": functools.partial(check_split, 20),
    "the second digit is shared": functools.partial(check_split, 10, images=3),
    "digits are shared in a class": functools.partial(check_split, 10, classes=3, images=3),
    "the earlier of two alike": functools.partial(check_split, 0, EARLIER_FIRST, images=1),
    "the later of two alike": functools.partial(check_split, 0, LATER_FIRST, images=1),
    "the later of two alike in the second image": functools.partial(check_split, 0, LATER_FIRST_IN_THE_SECOND_IMAGE),
    "both of two alike": functools.partial(check_split, 0, LATER_FIRST, True, images=1),
}

_PARTNERS = {f"partners, {name}": functools.partial(check_partners, **options) for name, options in PARTNERS.items()}
_LOSSES = {name: functools.partial(check_losses, **options) for name, options in LOSSES.items()}
_SAMPLES = {name: functools.partial(check_samples, **options) for name, options in SAMPLES.items()} | SPLITS
CHECKS = (
    {name: full.CHECKS[name] | _PARTNERS for name in ("_sort_pixels", "_scan_counts")}
    | {"_draw_partners": _PARTNERS}
    | dict.fromkeys(("_triplet_losses", "_pull_targets", "_add_draws"), _LOSSES)
    | dict.fromkeys(("_count_digits", "_choose_digit", "_count_chosen", "_scan_chosen", "_place_chosen"), _SAMPLES)
)
