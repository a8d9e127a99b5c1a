"""Cases for pseudo_labels.cu under the emulation: labels and confidences against float64; see cases.py."""

from __future__ import annotations

import dense_room
import torch
from close import assert_as_accurate
from dense_room import DTYPES, F32, F64, bind
from near_labels import LAYOUTS, SIZES, ULP, assert_labels, lay_out, logits, upsample
from torch import Tensor

from fastuda.reference.pseudo_labels import pseudo_labels as reference

DOUBLE_ULP = torch.finfo(F64).eps * 4


def run(
    library, scores: Tensor, threshold: Tensor, size, probabilities: bool, balanced: bool, align_corners: bool,
    with_confidence: bool = True, seed: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (scores.shape[0], *size)
    label = dense_room.nonsense(shape, torch.uint8)
    confidence = dense_room.nonsense(shape if with_confidence else (0,), dense_room.compute_dtype(scores))
    option = dense_room.options(
        scores, size, seed=seed, align_corners=align_corners, probabilities=probabilities, balanced=balanced,
        double_threshold=threshold.dtype == F64,
    )  # fmt: skip
    dense_room.call(library, "pseudo_labels", option, (scores,), (threshold, label, confidence))
    return label, confidence


def spread(classes: int, dtype=F32) -> Tensor:
    """Thresholds that keep some pixels of each class and drop others."""
    return (torch.rand(classes, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1).to(dtype)


def check(
    library, shape=(2, 7, 9, 13), size=(37, 50), dtype=F32, layout="nchw", *, probabilities=False, balanced=False,
    align_corners=True, threshold_dtype=F32, low=1.0, scale=3.0, schedules=(1,), strided=False,
) -> None:  # fmt: skip
    """low: a factor of the thresholds; strided: they have gaps that hold NaN."""
    scores = logits(*shape, scale=scale)
    scores = lay_out((scores.softmax(1) if probabilities else scores).to(dtype), layout)
    threshold = spread(shape[1], threshold_dtype) * low
    given = torch.full((2 * shape[1],), torch.nan, dtype=threshold_dtype)[1::2].copy_(threshold)
    rule = probabilities, balanced, align_corners
    results = [run(library, scores, given if strided else threshold, size, *rule, seed=s) for s in schedules]
    label, confidence = results[0]
    up = upsample(scores, size, align_corners)
    p = up if probabilities else up.softmax(1)
    unit = DOUBLE_ULP if dtype == F64 else ULP
    steps = 4 * unit * (up.abs().max().clamp(min=1).item() if up.numel() else 1)
    keys = p.log() - threshold.double().log().view(-1, 1, 1) if balanced else up
    band = 4 * steps if not probabilities else steps
    assert_labels(label, keys, 4 * steps if balanced else steps, p, threshold, band)
    if balanced:  # of two near quotients, either's probability
        own = p.gather(1, label.long().clamp(max=shape[1] - 1).unsqueeze(1)).squeeze(1)
        error = (confidence.double() - own).abs().where(label != 255, 0)
        assert not error.numel() or error.max() <= band, f"confidence: error {error.max():.2e}"
        best = p.gather(1, keys.argmax(1, keepdim=True)).squeeze(1)
        far = (confidence.double() - best).abs() > band
        assert far.sum() <= 2 + far.numel() / 1000, "confidence of dropped pixels"
    else:
        plain = reference(scores, threshold, *size, *rule, True)[1]
        # Far apart, logits are rounded by more than their exponentials.
        assert_as_accurate(confidence, plain, p.amax(1), max(4 * unit, steps / 64), "confidence")
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True)), "another schedule, other bits"
    alone = run(library, scores, threshold, size, *rule, with_confidence=False)[0]
    assert torch.equal(alone, label), "other labels without the confidence"


def check_odd(library, value: float, probabilities: bool, balanced: bool, cls: int) -> None:
    """Values that are not finite, alone and beside each other: no number and no label where the definition says so."""
    scores = logits(1, 5, 6, 7)
    scores = scores.softmax(1) if probabilities else scores
    scores[0, cls, 2, 3] = scores[0, 3, 4, 5] = scores[0, cls, 4, 5] = value
    scores[0, :, 5, 0] = value
    threshold = torch.full((5,), 0.25)
    for size in ((24, 28), (6, 7), (21, 40)):
        for align_corners in (True, False):
            options = probabilities, balanced, align_corners
            label, confidence = run(library, scores, threshold, size, *options)
            truth, certain = reference(scores, threshold, *size, *options, True)
            assert torch.equal(confidence.isnan(), certain.isnan()), f"NaN elsewhere, {size}"
            assert (label[confidence.isnan()] == 255).all(), "NaN is a label"
            close = confidence.isclose(certain, rtol=1e-5, atol=1e-6, equal_nan=True)
            assert close.all() and (label != truth).sum() <= 2, f"{(label != truth).sum()} labels differ, {size}"


def check_ties(library, probabilities: bool, balanced: bool) -> None:
    scores = logits(1, 1, 5, 9).abs().expand(-1, 6, -1, -1).clone()
    scores[:, [0, 3]] -= 1 if not probabilities else 0.5 * scores[:, [0, 3]]
    scores = scores / 10 if probabilities else scores
    for size in ((5, 9), (33, 70)):
        label, _ = run(library, scores, torch.full((6,), 1e-3), size, probabilities, balanced, True)
        assert (label == 1).all(), "not the lowest of equals"


def check_thresholds(library) -> None:
    """A confidence equal to the threshold is kept; a small threshold wins; none above 1e-30 gives no label."""
    scores = logits(2, 5, 20, 33).softmax(1)
    best, place = scores.max(1)
    least = torch.stack([best[place == k].min() for k in range(5)])
    label, _ = run(library, scores, least, (20, 33), True, False, True)
    assert torch.equal(label.long(), place), "a confidence equal to the threshold is dropped"
    above = torch.nextafter(least, torch.tensor(2.0))
    dropped, _ = run(library, scores, above, (20, 33), True, False, True)
    assert (dropped == 255).sum() == sum(int((best == least[k]).logical_and(place == k).sum()) for k in range(5))
    p = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    for k, expected in (
        ([0.5, 0.2, 0.5], 1), ([0.5, 0.28, 0.5], 0), ([0.7, 0.4, 0.3], 255), ([0.7, 0.31, 0.09], 2),
        ([0.5, 0.0, 0.5], 0), ([0.9, 0.0, -1.0], 255), ([0.5, 1e-31, 0.5], 0), ([0.5, 1e-29, 0.5], 1),
        ([torch.nan, torch.inf, 1e-31], 255),
    ):  # fmt: skip
        for scores, form in ((p, True), (p.log(), False)):
            label, confidence = run(library, scores, torch.tensor(k), (1, 1), form, True, True)
            assert label.item() == expected, f"{label.item()} instead of {expected} for {k}"
            if expected != 255:
                torch.testing.assert_close(confidence.item(), p.flatten()[expected].item())


def check_far(library) -> None:
    """Logits so far apart that exponentials vanish, and so large that they would overflow."""
    for offset in (0.0, 500.0, -3000.0):
        scores = torch.zeros(1, 4, 3, 5) + offset
        scores[:, 2] += 200
        label, confidence = run(library, scores, torch.full((4,), 0.5), (9, 17), False, False, True)
        assert (label == 2).all() and (confidence == 1).all()
    label, confidence = run(library, torch.zeros(3, 2, 1, 1), torch.zeros(2), (17, 16), False, False, True)
    assert not label.any() and (confidence == 0.5).all()


def _cases():
    forms = [dict(probabilities=p, balanced=b) for p in (False, True) for b in (False, True)]
    for i, dtype in enumerate(DTYPES):
        for j, layout in enumerate(LAYOUTS):
            form = forms[(i + j) % 4] | {"align_corners": bool(j % 2)}
            yield (
                f"{str(dtype)[6:]}, {layout}",
                dict(shape=(2, 19, 5, 8), size=(37, 45), dtype=dtype, layout=layout) | form,
            )
    for source, size in SIZES:
        for align_corners in (True, False):
            for form in forms[:: 3 if align_corners else 1]:
                rule = "balanced" if form["balanced"] else "plain"
                kind = "probabilities" if form["probabilities"] else "logits"
                case = dict(shape=(2, 5, *source), size=size, align_corners=align_corners)
                yield f"{source} to {size}, {kind}, {rule}, align {align_corners}", case | form
    for classes in (1, 2, 150, 255):
        for form in forms:
            name = f"{classes} classes, {form['probabilities']}, {form['balanced']}"
            yield name, dict(shape=(1, classes, 3, 9), size=(11, 23), low=1 / classes) | form
    for rows in (3, 4, 5, 8, 9):
        yield f"{rows} rows", dict(shape=(2, 3, 4, 3), size=(rows, 5))
    yield "a block and a thread", dict(shape=(1, 3, 2, 30), size=(4, 129))
    yield "a large upsampling", dict(shape=(1, 3, 3, 4), size=(120, 97))
    yield "images", dict(shape=(9, 3, 4, 5), size=(13, 17))
    yield "no image", dict(shape=(0, 3, 4, 5), size=(13, 17))
    for dtype in (F32, F64):
        for form in forms[:2]:
            yield f"thresholds {str(dtype)[6:]}, {form['balanced']}", dict(threshold_dtype=dtype, strided=True) | form
    for scale in (1e-3, 30.0, 400.0):
        for form in forms[:2]:
            yield f"scale {scale}, {form['balanced']}", dict(scale=scale) | form
    yield "schedules", dict(schedules=(1, 2, 3), balanced=True)


PSEUDO_LABELS = {name: bind(check, case) for name, case in _cases()}
PSEUDO_LABELS |= {
    f"{value} of class {cls}, {probabilities}, {balanced}": bind(
        check_odd, dict(value=value, probabilities=probabilities, balanced=balanced, cls=cls)
    )
    for value in (torch.nan, torch.inf, -torch.inf)
    for probabilities in (False, True)
    for balanced in (False, True)
    for cls in (0, 4)
}
PSEUDO_LABELS |= {
    f"ties, {p}, {b}": bind(check_ties, dict(probabilities=p, balanced=b)) for p in (False, True) for b in (False, True)
}
PSEUDO_LABELS |= {"thresholds": check_thresholds, "far apart": check_far}
TABLES = {"pseudo_labels": PSEUDO_LABELS}
