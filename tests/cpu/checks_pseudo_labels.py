"""The fast cut of the tests of pseudo labels from dense scores, beside checks.py: raw operators in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from close import assert_as_accurate
from near_labels import SIZES, ULP, assert_labels, assert_same_for_threads, lay_out, logits, upsample
from torch import Tensor

from fastuda.reference import aggregate_patches as patches_reference
from fastuda.reference import confidence_histogram as histogram_reference
from fastuda.reference import pseudo_labels as labels_reference

OPS = torch.ops.fastuda
# Large upsampling, which vectors of pixels read from few nodes, and some that ends inside a vector; a row of one tile.
LARGE = (((5, 9), (40, 71)), ((6, 20), (17, 160)), ((2, 3), (3, 100)))
Case = tuple[str, Callable[[], None]]


def problems(classes: int = 7) -> Iterator[tuple[str, Tensor, tuple[int, int], bool]]:
    for i, (source, size) in enumerate((*SIZES, *LARGE)):
        for layout in ("nchw", "channels_last", "inside_nan"):
            dtype = (torch.float32, torch.bfloat16)[i % 2 if layout == "nchw" else 0]
            scores = lay_out(logits(2, classes + 12 * (i % 2), *source, seed=i, dtype=dtype), layout)
            yield f"{source} to {size}, {layout}, {dtype}", scores, size, i % 3 != 0


def spread(classes: int) -> Tensor:
    return torch.rand(classes, generator=torch.Generator().manual_seed(classes)) * 0.8 + 0.1


def pseudo_labels() -> Iterator[Case]:
    for name, scores, size, align in problems():
        for probabilities in (False, True):
            for balanced in (False, True):
                form = (scores, size, align, probabilities, balanced)
                yield f"{name}, {probabilities}, {balanced}", lambda form=form: one_labelling(*form)
    for cls in (0, 2, 4):
        for size in ((12, 14), (60, 90)):
            yield f"NaN of class {cls}", lambda cls=cls, size=size: nan_label(cls, size)
    yield "ties", ties
    yield "equal to the threshold", equal_to_the_threshold
    yield "no threshold", no_threshold
    far = logits(2, 5, 30, 40, scale=200.0)
    yield "far logits", lambda: one_labelling(far, (63, 85), True, False, False)
    yield (
        "threads",
        lambda: assert_same_for_threads(lambda: OPS.pseudo_labels(far, spread(5), 150, 200, False, False, True, True)),
    )


def one_labelling(scores: Tensor, size: tuple[int, int], align: bool, probabilities: bool, balanced: bool) -> None:
    scores = scores.float().softmax(1) if probabilities else scores
    k = torch.stack([spread(scores.shape[1]), torch.zeros(scores.shape[1])], 1)[:, 0]  # not adjacent
    k = k.double() if size[0] % 2 else k
    options = *size, probabilities, balanced, align
    label, confidence = OPS.pseudo_labels(scores, k, *options, True)
    alone, empty = OPS.pseudo_labels(scores, k, *options, False)
    assert torch.equal(alone, label) and not empty.numel(), "other labels without the confidence"
    up = upsample(scores, size, align)
    p = up if probabilities else up.softmax(1)
    step = 4 * ULP * up.abs().max().clamp(min=1).item()
    keys = p.log() - k.double().log().view(-1, 1, 1) if balanced else up
    assert_labels(label, keys, 4 * step if balanced else step, p, k, 4 * step)
    truth = labels_reference.pseudo_labels(scores.double(), k, *options, True)[1]
    plain = labels_reference.pseudo_labels(scores, k, *options, True)[1]
    same = label != 255 if balanced else torch.ones_like(label, dtype=torch.bool)
    near = (confidence - truth).abs() < 1e-3
    assert (near | ~same).float().mean() > 0.999, "another probability"
    if not balanced:
        far = up.abs().max() > 50  # then the logits' own last place is what counts
        assert_as_accurate(confidence, plain, truth, step / 4 if far else 4 * ULP, "confidence")
    else:
        assert_as_accurate(confidence[same & near], plain[same & near], truth[same & near], 8 * ULP, "confidence")


def nan_label(cls: int, size: tuple[int, int]) -> None:
    scores = logits(1, 5, 6, 7).softmax(1)
    scores[0, cls, 2, 3] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    touched = upsample(scores, size, True).isnan().any(1)
    for probabilities in (False, True):
        for balanced in (False, True):
            options = torch.full((5,), 0.01), *size, probabilities, balanced, True, True
            label, confidence = OPS.pseudo_labels(scores, *options)
            clean, _ = OPS.pseudo_labels(scores.nan_to_num(0.1), *options)
            assert (label[touched] == 255).all() and torch.equal(label[~touched], clean[~touched]), "NaN labels"
            assert torch.equal(confidence.isnan(), touched), "NaN confidences"


def ties() -> None:
    scores = logits(1, 1, 5, 9).abs().expand(-1, 6, -1, -1).clone()
    scores[:, [0, 3]] *= 0.5
    for size in ((5, 9), (40, 90)):
        for balanced in (False, True):
            for probabilities in (False, True):
                label, _ = OPS.pseudo_labels(
                    scores / 10, torch.full((6,), 1e-3), *size, probabilities, balanced, True, False
                )
                assert (label == 1).all(), "not the lowest class of equals"


def equal_to_the_threshold() -> None:
    scores = logits(2, 5, 20, 33).softmax(1)
    best, place = scores.max(1)
    least = torch.stack([best[place == k].min() for k in range(5)])
    label, _ = OPS.pseudo_labels(scores, least, 20, 33, True, False, True, False)
    assert torch.equal(label.long(), place), "a confidence equal to its threshold is dropped"


def no_threshold() -> None:
    p = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    for k, expected in (([0.5, 0.0, 0.5], 0), ([0.9, 0.0, -1.0], 255), ([0.5, 0.2, 0.5], 1)):
        for scores, form in ((p, True), (p.log(), False)):
            assert OPS.pseudo_labels(scores, torch.tensor(k), 1, 1, form, True, True, False)[0].item() == expected


def confidence_histogram() -> Iterator[Case]:
    for name, scores, size, align in problems():
        for bins in (1, 16, 1000):
            form = (scores, size, align, bins)
            yield f"{name}, {bins} bins", lambda form=form: one_histogram(*form)
    yield "uniform", uniform
    yield "NaN", histogram_nan
    scores = logits(2, 9, 30, 41)
    yield (
        "threads",
        lambda: assert_same_for_threads(lambda: (OPS.confidence_histogram(scores, 120, 163, 64, False, True),)),
    )


def one_histogram(scores: Tensor, size: tuple[int, int], align: bool, bins: int) -> None:
    for probabilities in (False, True):
        scores = scores.float().softmax(1) if probabilities else scores
        counts = OPS.confidence_histogram(scores, *size, bins, probabilities, align)
        truth = histogram_reference.confidence_histogram(scores.double(), *size, bins, probabilities, align)
        assert counts.sum() == truth.sum(), "not every pixel is counted"
        moved = (counts - truth).abs().sum() / 2
        # A bin's edge among neighbours that are linear in between is met by a pixel in thousands.
        assert moved <= 2 + counts.sum() / 500, f"{moved} pixels are in other bins"


def uniform() -> None:
    scores = torch.zeros(1, 3, 4, 5)
    for shift, place in ((40.0, (1, 9)), (0.0, (0, 3))):
        scores[:, 1] = shift
        for size in ((37, 83), (4, 5), (4, 32)):
            counts = OPS.confidence_histogram(scores, *size, 10, False, True)
            assert counts[place] == size[0] * size[1], "a bin of equal pixels"
    odd = torch.tensor([0.2, 1.0, 1.5, 7e37, -0.5]).view(1, 1, 1, 5)
    counts = OPS.confidence_histogram(odd, 1, 5, 10, True, True)
    assert counts[0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 3], "confidences outside 0..1"


def histogram_nan() -> None:
    scores = logits(1, 4, 6, 9)
    scores[0, 2, 3, 4] = torch.nan
    for size in ((24, 36), (48, 90)):
        touched = int(upsample(scores, size, True).isnan().any(1).sum())
        assert OPS.confidence_histogram(scores, *size, 8, False, True).sum() == size[0] * size[1] - touched
    for probabilities in (False, True):  # whole vectors that look alike and count nowhere
        nothing = OPS.confidence_histogram(scores.new_full((1, 4, 6, 64), torch.nan), 6, 64, 8, probabilities, True)
        assert nothing.sum() == 0, "pixels without a confidence"


def prototype_rectify() -> Iterator[Case]:
    for name, scores, size, align in problems():
        for other in ((8, 11), (3, 9), (90, 40)):
            for temperature in (0.2, 1.0):
                form = (scores, other, size, align, temperature)
                yield f"{name}, {other}, {temperature}", lambda form=form: one_rectified(*form)
    yield "without probability", without_probability
    yield "rectified NaN", rectified_nan


def one_rectified(scores: Tensor, other: tuple[int, int], size, align: bool, temperature: float) -> None:
    soft = logits(2, scores.shape[1], *other, seed=1).softmax(1)
    for dtype in (torch.float32, torch.float64, torch.float16):
        shares = soft.to(dtype)
        label = OPS.prototype_rectify(scores, shares, *size, temperature, align)
        up, share = upsample(scores, size, align), upsample(shares, size, align)
        largest = up.abs().max().item() / temperature + share[share > 0].log().abs().max().item()
        assert_labels(label, up / temperature + share.log(), 6 * ULP * max(1.0, largest))


def without_probability() -> None:
    for least in (1e-3, 1e-20, 1e-38, 1e-44):
        for gap in (10.0, 5000.0):
            for size in ((3, 20), (3, 200)):
                scores, soft = torch.zeros(1, 4, 1, 20), torch.zeros(1, 4, 1, 20)
                scores[:, 2] = -gap
                soft[:, 2], soft[:, 0] = least, -0.5
                assert (OPS.prototype_rectify(scores, soft, *size, 1.0, True) == 2).all(), "a class without any wins"
                soft[:, 3] = least
                assert (OPS.prototype_rectify(scores, soft, *size, 1.0, True) == 3).all(), "the better one loses"
                assert (OPS.prototype_rectify(scores, soft * 0, *size, 1.0, True) == 255).all(), "no class has any"
    for exponent in range(-140, 0, 3):
        soft = torch.tensor([0.0, 2.0**exponent, 2.0 ** (exponent + 1)]).view(1, 3, 1, 1)
        for score, label in ((0.0, 2), (0.5, 2), (0.9, 1)):  # ln 2 is 0.69, however small they are
            scores = torch.tensor([0.0, score, 0.0]).view(1, 3, 1, 1)
            assert OPS.prototype_rectify(scores, soft, 1, 1, 1.0, True).item() == label, "small ones"


def rectified_nan() -> None:
    for where in (0, 1):
        for size in ((12, 14), (60, 90)):
            pair = [logits(1, 4, 6, 7), logits(1, 4, 6, 7, seed=1).softmax(1)]
            clean = OPS.prototype_rectify(*pair, *size, 1.0, True)
            pair[where][0, 2, 2, 3] = torch.nan
            found = OPS.prototype_rectify(*pair, *size, 1.0, True)
            touched = upsample(pair[where], size, True).isnan().any(1)
            assert (found[touched] == 255).all() and torch.equal(found[~touched], clean[~touched]), "NaN"


PLACES = (
    [(7, 11), (-10, -10), (-10, 60), (30, -10), (30, 60), (5, 6), (5, 6)],
    [(100, 0), (0, 200), (-40, 0), (0, -90), (2**40, 0), (0, -(2**62))],
    [(-19, 0), (39, 3), (2, -36), (3, 82)],
    [],
)


def aggregate_patches() -> Iterator[Case]:
    for i, places in enumerate(PLACES):
        for source in ((5, 7), (2, 3), (25, 40)):
            for with_full in (False, True):
                offsets = torch.tensor([places, places[::-1]], dtype=torch.int64).view(2, -1, 2)
                offsets = offsets.mT.contiguous().mT if with_full else offsets
                patches = logits(2, len(places), 6, *source, seed=i)
                patches = patches if i % 2 else patches.transpose(2, 4).contiguous().transpose(2, 4)
                full = logits(2, 6, *((5, 9) if source[0] == 5 else (40, 90)), seed=9) if with_full else None
                form = (patches, offsets, full, (40, 83), (20, 37))
                for probabilities in (False, True):
                    name = f"places {i}, {source}, full {with_full}, probabilities {probabilities}"
                    yield name, lambda form=form, p=probabilities: one_aggregate(*form, p)
    g = torch.Generator().manual_seed(0)
    many = torch.stack([torch.randint(-9, 12, (1, 40), generator=g), torch.randint(-130, 900, (1, 40), generator=g)], 2)
    yield (
        "wide",
        lambda: one_aggregate(logits(1, 40, 3, 3, 17).bfloat16(), many, None, (12, 900), (10, 130), True),
    )
    yield "votes NaN", votes_nan
    patches, offsets = logits(1, 5, 4, 9, 11), torch.tensor([[[0, 0], [10, 20], [50, 9], [-9, 40], [33, -5]]])
    call = lambda: OPS.aggregate_patches(patches, offsets, None, 90, 101, 66, 80, False, True, 8, True)  # noqa: E731
    yield "threads", lambda: assert_same_for_threads(call)


def one_aggregate(patches: Tensor, offsets: Tensor, full: Tensor | None, size, patch, probabilities: bool) -> None:
    if probabilities:
        patches, full = patches.softmax(2), None if full is None else full.softmax(1)
    for align in (True, False):
        options = *size, *patch, probabilities, align
        ours = OPS.aggregate_patches(patches, offsets, full, *options, 16, True)
        plain = patches_reference.aggregate_patches(patches, offsets, full, *options, 16, True)
        doubled = patches.double(), offsets, None if full is None else full.double()
        truth = patches_reference.aggregate_patches(*doubled, *options, 16, True)
        assert_as_accurate(ours[3], plain[3], truth[3], 4 * ULP, "volume")
        assert_as_accurate(ours[1], plain[1], truth[1], 4 * ULP, "confidence")
        covered = truth[3].sum(1) > 0
        assert (ours[0][~covered] == 255).all() and (ours[1][~covered] == 0).all(), "pixels without a vote"
        most = 1.0 if probabilities or not patches.numel() else max(1.0, patches.abs().max().item())
        assert_labels(ours[0].where(covered, truth[3].argmax(1).to(torch.uint8)), truth[3], 8 * ULP * most)
        assert ours[2].sum() == covered.sum() and (ours[2] - truth[2]).abs().sum() <= 4 + covered.sum() / 100
        lean = OPS.aggregate_patches(patches, offsets, full, *options, 0, False)
        assert torch.equal(lean[0], ours[0]) and torch.equal(lean[1], ours[1]) and not lean[3].numel()


def votes_nan() -> None:
    offsets = torch.tensor([[[0, 0], [9, 13], [30, 3]]])
    for patch in ((40, 48), (9, 13)):
        patches = logits(1, 3, 4, 5, 6)
        options = None, 60, 70, *patch
        clean = OPS.aggregate_patches(patches, offsets, *options, False, True, 4, False)
        patches[0, 1, 2, 2, 0] = torch.nan
        for probabilities in (False, True):
            truth = patches_reference.aggregate_patches(patches, offsets, *options, probabilities, True, 4, True)
            found = OPS.aggregate_patches(patches, offsets, *options, probabilities, True, 4, False)
            bad = truth[3].isnan().any(1)
            assert (found[0][bad] == 255).all() and torch.equal(found[1].isnan(), bad), "a NaN vote"
            assert probabilities or torch.equal(found[0][~bad], clean[0][~bad]), "pixels beside NaN"
            assert found[2].sum() == int(((found[0] != 255) & ~bad).sum()), "NaN is counted"
