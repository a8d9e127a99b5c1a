"""Small cases for the launchers of the operators on dense labels; see kernel_cases.py.

Labels must be float64's: no pixel of these seeds lies where float32 may take another.
"""

from __future__ import annotations

import functools

import torch
import triton_room
from close import assert_as_accurate
from near_labels import logits

from fastuda.reference import aggregate_patches as patches_reference
from fastuda.reference import confidence_histogram as histogram_reference
from fastuda.reference import confusion_matrix as confusion_reference
from fastuda.reference import prototype_rectify as rectify_reference
from fastuda.reference import pseudo_labels as labels_reference

shared = triton_room.load_file(triton_room.HERE / "kernel_cases.py", "triton_room_kernel_cases")
samplers = triton_room.load_file(triton_room.HERE / "kernel_cases_samplers.py", "triton_room_kernel_cases_samplers")
F32, F16, BF16, EPS = shared.F32, shared.F16, shared.BF16, shared.EPS
sizes_of, assert_same = samplers.sizes_of, samplers.assert_same
NAN, INF = float("nan"), float("inf")
SIZE = (19, 41)


def lay_out(scores: torch.Tensor, layout: str) -> torch.Tensor:
    """In "gaps" every stride is its own, with NaN between; "last": classes side by side."""
    if layout == "gaps":
        return shared.gaps(scores)
    return scores.movedim(-3, -1).contiguous().movedim(-1, -3) if layout == "last" else scores


def thresholds(classes: int) -> torch.Tensor:
    """Some that keep some pixels of each class and drop others."""
    return torch.rand(classes, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1


def scores_of(shape, dtype, probabilities: bool, change, seed: int = 0) -> torch.Tensor:
    scores = logits(*shape, seed=seed)
    scores = (scores.softmax(-3) if probabilities else scores).to(dtype)
    if change is not None:
        change(scores)
    return scores


def check_labels(
    shape=(2, 5, 4, 6), size=SIZE, *, dtype=F32, probabilities=False, balanced=False, align=True, layout="",
    change=None, least=None, with_confidence=True, **sizes,
) -> None:  # fmt: skip
    scores = scores_of(shape, dtype, probabilities, change)
    threshold = thresholds(shape[1]) if least is None else torch.tensor(least)
    options = *size, probabilities, balanced, align
    truth, exact = labels_reference.pseudo_labels(scores.double(), threshold.double(), *options, True)
    plain = labels_reference.pseudo_labels(scores, threshold, *options, True)[1]
    if layout == "gaps":
        threshold = shared.gaps(threshold.double())
    module = triton_room.kernel_module("pseudo_labels")
    with sizes_of(module, sizes):
        label, confidence = module.pseudo_labels(lay_out(scores, layout), threshold, *options, with_confidence)
    assert_same(label, truth, "label")
    if with_confidence:
        assert_as_accurate(confidence, plain, exact, EPS, "confidence")
    else:
        assert confidence.shape == (0,)


def _one_nan(scores) -> None:
    scores[0, 1, 2, 3] = NAN
    scores[1, 4, 0, 0] = NAN


def _infinite(scores) -> None:
    scores[0, 0:2, 1, 2] = -INF
    scores[0, 2, 3, 1] = INF
    scores[1, :, 2, 4] = -INF


def _ties(scores) -> None:
    scores[:, 3] = scores[:, 1]
    scores[:, 0] = scores[:, 1] - scores[:, 1].abs()


def _far(scores) -> None:
    scores *= 60


LABELS = {
    "logits": {},
    "probabilities": dict(probabilities=True),
    "balanced logits": dict(balanced=True, align=False),
    "balanced probabilities": dict(balanced=True, probabilities=True, layout="last"),
    "bfloat16, gaps": dict(dtype=BF16, layout="gaps", align=False, with_confidence=False),
    "float16, classes last": dict(dtype=F16, layout="last", size=(40, 9)),
    "smaller": dict(shape=(1, 3, 19, 37), size=(5, 11)),
    "smaller, not aligned": dict(shape=(1, 3, 19, 37), size=(5, 11), align=False),
    "the same": dict(shape=(2, 4, 5, 33), size=(5, 33), align=False, layout="gaps"),
    "one row": dict(shape=(2, 3, 1, 7), size=(37, 20)),
    "one row, not aligned": dict(shape=(1, 3, 1, 7), size=(37, 20), align=False),
    "one column": dict(shape=(1, 3, 7, 1), size=(20, 3)),
    "one pixel": dict(shape=(1, 3, 3, 4), size=(1, 1)),
    "parts of a cell": dict(shape=(1, 3, 2, 3), size=(75, 5), MOST_ROWS=2, MOST_PARTS=3),
    "blocks of columns": dict(shape=(1, 3, 3, 5), size=(9, 77), COLUMNS=32),
    "NaN": dict(change=_one_nan),
    "NaN of probabilities": dict(change=_one_nan, probabilities=True),
    "infinities": dict(change=_infinite),
    "infinities, balanced": dict(change=_infinite, balanced=True, align=False),
    "ties": dict(change=_ties, least=[0.0] * 5),
    "ties of probabilities": dict(change=_ties, probabilities=True, least=[0.0] * 5),
    "far apart": dict(change=_far, least=[0.9] * 5),
    "no threshold of a class": dict(balanced=True, least=[0.3, 0.0, NAN, -1.0, 0.4]),
    "no threshold, probabilities": dict(balanced=True, probabilities=True, least=[0.3, 1e-31, 0.2, NAN, 0.4]),
    "one class, at its threshold": dict(shape=(1, 1, 3, 4), size=(9, 9), least=[1.0]),
    "255 classes": dict(shape=(1, 255, 1, 4), size=(2, 9), least=[0.01] * 255),
    "150 classes, balanced": dict(shape=(1, 150, 1, 4), size=(2, 9), least=[0.01] * 150, balanced=True),
}


def check_histogram(
    shape=(2, 5, 4, 6), size=SIZE, *, bins=16, dtype=F32, probabilities=False, align=True, layout="", change=None,
    **sizes,
) -> None:  # fmt: skip
    scores = scores_of(shape, dtype, probabilities, change)
    options = *size, bins, probabilities, align
    truth = histogram_reference.confidence_histogram(scores.double(), *options)
    module, cells = (triton_room.kernel_module(name) for name in ("confidence_histogram", "pseudo_labels"))
    with sizes_of(cells, sizes):
        ours = module.confidence_histogram(lay_out(scores, layout), *options)
    assert_same(ours, truth, "counts")


def _sure(scores) -> None:
    scores[:, 1, :, :4] += 60


def _odd(scores) -> None:
    scores[0, 0, 0] = torch.tensor([0.2, 1.0, 1.5, 7e37, -0.5, -INF])


HISTOGRAMS = {
    "logits": {},
    "probabilities": dict(probabilities=True, align=False, layout="gaps"),
    "classes last": dict(layout="last", dtype=BF16, shape=(2, 19, 3, 5)),
    "sure of it": dict(change=_sure, bins=1000),
    "one bin": dict(bins=1, size=(9, 33)),
    "NaN": dict(change=_one_nan),
    "NaN of probabilities": dict(change=_one_nan, probabilities=True),
    "parts of a cell": dict(shape=(1, 3, 2, 3), size=(75, 5), MOST_ROWS=2, MOST_PARTS=3),
    "blocks of columns": dict(shape=(1, 3, 3, 5), size=(9, 77), COLUMNS=32, align=False),
    "the same": dict(shape=(2, 4, 5, 33), size=(5, 33), align=False),
    "smaller": dict(shape=(1, 3, 19, 37), size=(5, 11)),
    "odd probabilities": dict(shape=(1, 1, 1, 6), size=(1, 6), change=_odd, probabilities=True, bins=10),
    "one row": dict(shape=(2, 3, 1, 7), size=(37, 20)),
    "40 classes": dict(shape=(1, 40, 2, 3), size=(5, 9), change=_sure),
    "255 classes": dict(shape=(1, 255, 1, 3), size=(2, 9)),
}


def check_confusion(
    shape=(2, 21, 40), classes=5, first=torch.int64, second=torch.int64, *, strided=False, wild=True, **sizes
) -> None:
    g = torch.Generator().manual_seed(classes)
    pair = torch.randint(0, classes, (2, *shape), generator=g)
    pair[1] = pair[0].where(torch.rand(shape, generator=g) < 0.5, pair[1])
    if wild:
        odd = torch.tensor([255, classes, -1, 2**31 - 1, 2**32, -(2**40)])
        pair = pair.where(torch.rand(pair.shape, generator=g) > 0.2, odd[torch.randint(0, 6, pair.shape, generator=g)])
    prediction, truth = pair[0].to(first), pair[1].to(second)
    exact = confusion_reference.confusion_matrix(prediction, truth, classes)
    if strided:
        prediction, truth = shared.gaps(prediction), shared.gaps(truth.mT).mT
    module = triton_room.kernel_module("confusion_matrix")
    with sizes_of(module, sizes):
        ours = module.confusion_matrix(prediction, truth, classes)
    assert_same(ours, exact, "counts")


CONFUSIONS = {
    "plain": {},
    "uint8": dict(first=torch.uint8, second=torch.uint8),
    "int32 and uint8": dict(first=torch.int32, second=torch.uint8, classes=19),
    "strided": dict(strided=True, second=torch.int32),
    "rows": dict(shape=(3000,)),
    "several blocks": dict(shape=(2500,), BLOCK=256, MOST_PROGRAMS=3),
    "several blocks, many classes": dict(shape=(2500,), BLOCK=256, MOST_PROGRAMS=3, classes=40),
    "31 classes": dict(classes=31),
    "32 classes": dict(classes=32, wild=False),
    "150 classes": dict(classes=150, strided=True),
    "300 classes": dict(classes=300, shape=(1500,)),
    "one class": dict(classes=1),
    "one pixel": dict(shape=(1,), wild=False),
    "none": dict(shape=(0,)),
}


def check_rectify(
    shape=(2, 5, 4, 6), other=(3, 8), size=SIZE, *, dtype=F32, soft_dtype=F32, temperature=1.0, align=True, layout="",
    soft_layout="", change=None, **sizes,
) -> None:  # fmt: skip
    scores, soft = scores_of(shape, dtype, False, None), scores_of((*shape[:2], *other), soft_dtype, True, None, 1)
    if change is not None:
        change(scores, soft)
    options = *size, temperature, align
    truth = rectify_reference.prototype_rectify(scores.double(), soft.double(), *options)
    module, cells = (triton_room.kernel_module(name) for name in ("prototype_rectify", "pseudo_labels"))
    with sizes_of(cells, sizes):
        ours = module.prototype_rectify(lay_out(scores, layout), lay_out(soft, soft_layout), *options)
    assert_same(ours, truth, "label")


def _spoiled(scores, soft) -> None:
    scores[0, 1, 2, 3] = NAN
    soft[1, 4, 0, 0] = NAN


def _unlikely(scores, soft) -> None:
    """In the first image of one class only, however unlikely; in the second of none on the left."""
    scores[0, 2] = -300
    soft[0] = 0
    soft[0, 2] = 1e-38
    soft[0, 1] = -0.5
    soft[1, :, :, :3] = 0


def _small(scores, soft) -> None:
    scores[0] *= 0.01
    soft[0] *= 1e-41
    soft[1] *= 2.0**-99


def _alike(scores, soft) -> None:
    scores[:], soft[:] = scores[:, :1].clone(), soft[:, :1].clone()
    scores[:, 0] -= 1
    soft[:, 1] *= 0.5


def _endless(scores, soft) -> None:
    scores[0, 2, 3, 1] = INF
    scores[1, 1, 1, 2] = -INF
    soft[0, 1, 2, 2] = INF


RECTIFIED = {
    "another size": {},
    "the same size": dict(other=(4, 6), temperature=0.3, align=False),
    "the same size, other layouts": dict(other=(4, 6), layout="last", soft_layout="gaps"),
    "gaps": dict(layout="gaps", soft_layout="last", dtype=F16, align=False),
    "bfloat16 and float64": dict(dtype=BF16, soft_dtype=torch.float64, temperature=3.0),
    "one soft score": dict(other=(1, 1), size=(9, 35)),
    "one score": dict(shape=(1, 4, 1, 1), other=(5, 7), size=(9, 35), align=False),
    "smaller": dict(shape=(1, 3, 19, 37), other=(30, 20), size=(5, 11)),
    "NaN": dict(change=_spoiled),
    "NaN at the same size": dict(change=_spoiled, other=(4, 6)),
    "unlikely": dict(change=_unlikely),
    "unlikely at the same size": dict(change=_unlikely, other=(4, 6)),
    "small": dict(change=_small),
    "ties": dict(change=_alike),
    "infinities": dict(change=_endless, align=False),
    "parts of a cell": dict(shape=(1, 3, 2, 3), size=(75, 5), MOST_ROWS=2, MOST_PARTS=3),
    "blocks of columns": dict(shape=(1, 3, 3, 5), size=(9, 77), COLUMNS=32),
    "200 classes": dict(shape=(1, 200, 1, 4), other=(1, 3), size=(2, 9)),
}


def check_patches(
    shape=(2, 3, 5, 4, 6), size=(12, 23), patch=(8, 13), *, places=None, dtype=F32, probabilities=False, align=True,
    layout="", full=None, full_dtype=F32, bins=8, with_volume=True, change=None, **sizes,
) -> None:  # fmt: skip
    scores = scores_of(shape, dtype, probabilities, None)
    whole = None if full is None else scores_of((shape[0], shape[2], *full), full_dtype, probabilities, None, 3)
    if places is None:
        g = torch.Generator().manual_seed(4)
        rooms = (torch.randint(-p, s, shape[:2], generator=g) for p, s in zip(patch, size, strict=True))
        offsets = torch.stack(list(rooms), 2)
    else:
        offsets = torch.tensor(places, dtype=torch.int64).view(1, -1, 2).repeat(shape[0], 1, 1)
    if change is not None:
        change(scores, offsets, whole)
    options = *size, *patch, probabilities, align, bins, True
    truth = patches_reference.aggregate_patches(
        scores.double(), offsets, None if whole is None else whole.double(), *options
    )
    plain = patches_reference.aggregate_patches(scores, offsets, whole, *options)
    given = lay_out(scores, layout), offsets, None if whole is None else lay_out(whole, layout)
    if layout == "gaps":
        given = given[0], shared.gaps(offsets), given[2]
    module = triton_room.kernel_module("aggregate_patches")
    with sizes_of(module, sizes):
        label, confidence, counts, volume = module.aggregate_patches(*given, *options[:-1], with_volume)
    assert_same(label, truth[0], "label")
    assert_as_accurate(confidence, plain[1], truth[1], EPS, "confidence")
    assert_same(counts, truth[2], "counts")
    if with_volume:
        assert_as_accurate(volume, plain[3], truth[3], EPS, "volume")
    else:
        assert volume.shape == (0,)


def _spoiled_votes(scores, offsets, whole) -> None:
    scores[0, 1, 2, 2, 0] = NAN
    scores[1, 0, 4, 3, 5] = NAN


def _certain(scores, offsets, whole) -> None:
    scores[:, :, 1, :, :3] += 60


def _equal_votes(scores, offsets, whole) -> None:
    scores.zero_()
    scores[:, 0, 1], scores[:, 1, 2] = 1, 1


def _endless_votes(scores, offsets, whole) -> None:
    scores[0, 1, 2, 2, 3] = INF
    scores[1, 0, 1, 1, 2] = -INF


MIDDLE, AROUND = [(3, 5)], [(-4, -7), (-4, 17), (8, -7), (8, 17)]
OUTSIDE = [(100, 0), (0, 200), (-8, 0), (0, -13), (2**40, 0), (0, -(2**62)), (12, 3), (3, 23)]
EDGES = [(-7, 0), (11, 3), (2, -12), (3, 22)]
PATCHES = {
    "anywhere": {},
    "probabilities, gaps": dict(probabilities=True, layout="gaps", align=False, full=(3, 5)),
    "classes last, whole image": dict(layout="last", full=(5, 4), dtype=BF16, full_dtype=F16, with_volume=False),
    "whole image in float64": dict(full=(12, 23), full_dtype=torch.float64, dtype=F16, bins=0, align=False),
    "in the middle": dict(shape=(1, 1, 5, 4, 6), places=MIDDLE),
    "around": dict(shape=(1, 4, 5, 4, 6), places=AROUND),
    "outside": dict(shape=(1, 8, 3, 4, 6), places=OUTSIDE, bins=2),
    "outside, whole image": dict(shape=(1, 8, 3, 4, 6), places=OUTSIDE, full=(2, 2)),
    "single pixels of each edge": dict(shape=(1, 4, 3, 4, 6), places=EDGES),
    "none": dict(shape=(2, 0, 3, 4, 6), full=(3, 3)),
    "the same place": dict(shape=(1, 4, 5, 4, 6), places=MIDDLE * 4, change=_equal_votes),
    "many": dict(shape=(1, 40, 3, 3, 5), size=(9, 70), patch=(8, 20), LISTED=16),
    "blocks of columns": dict(shape=(1, 3, 3, 3, 5), size=(7, 77), patch=(6, 40), COLUMNS=(16, 32)),
    "100 classes": dict(shape=(1, 2, 100, 2, 3), size=(5, 60), patch=(5, 40)),
    "255 classes": dict(shape=(1, 2, 255, 2, 3), size=(3, 40), patch=(3, 30)),
    "one class": dict(shape=(1, 2, 1, 2, 3), size=(5, 9), patch=(5, 7)),
    "certain": dict(change=_certain, full=(2, 3)),
    "NaN": dict(change=_spoiled_votes),
    "NaN of probabilities": dict(change=_spoiled_votes, probabilities=True),
    "infinities": dict(change=_endless_votes),
    "one score": dict(shape=(1, 2, 3, 1, 1), patch=(9, 30)),
}

_LABELS, _HISTOGRAMS, _CONFUSIONS, _RECTIFIED, _PATCHES = (
    {name: functools.partial(check, **options) for name, options in table.items()}
    for check, table in (
        (check_labels, LABELS), (check_histogram, HISTOGRAMS), (check_confusion, CONFUSIONS),
        (check_rectify, RECTIFIED), (check_patches, PATCHES),
    )
)  # fmt: skip
CHECKS = {
    "_label_cells": _LABELS,
    "_count_cells": _HISTOGRAMS,
    "_count_pairs": _CONFUSIONS,
    "_rectify_cells": _RECTIFIED,
    "_aggregate_rows": _PATCHES,
}
