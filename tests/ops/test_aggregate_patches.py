"""aggregate_patches: against volumes that are added up in float64, for patches that lie anywhere."""

from __future__ import annotations

from functools import partial

import gpu
import pytest
import torch
from close import assert_as_accurate
from near_labels import (
    DTYPES,
    LAYOUTS,
    ULP,
    assert_labels,
    assert_same_for_threads,
    assert_traces,
    assert_written,
    lay_out,
    logits,
    upsample,
)
from torch import Tensor

from fastuda.ops import aggregate_patches
from fastuda.ops._library import has_kernel
from fastuda.reference.aggregate_patches import aggregate_patches as reference
from fastuda.reference.confidence_histogram import count


def by_hand(patches: Tensor, offsets: Tensor, size, patch, align, probabilities, full) -> tuple[Tensor, Tensor]:
    """Votes and their number, pixel ranges cut by hand, everything in float64."""
    images, number, classes = patches.shape[:3]
    votes = torch.zeros(images, classes, *size, dtype=torch.float64)
    counts = torch.zeros(images, 1, *size, dtype=torch.float64)
    for b in range(images):
        for p in range(number):
            up = upsample(patches[b, p : p + 1], patch, align)[0]
            up = up if probabilities else up.softmax(0)
            y, x = offsets[b, p].tolist()
            top, left = max(0, -y), max(0, -x)
            bottom, right = min(patch[0], size[0] - y), min(patch[1], size[1] - x)
            if top < bottom and left < right:
                votes[b, :, y + top : y + bottom, x + left : x + right] += up[:, top:bottom, left:right]
                counts[b, :, y + top : y + bottom, x + left : x + right] += 1
    if full is not None:
        up = upsample(full, size, align)
        votes += up if probabilities else up.softmax(1)
        counts += 1
    return votes, counts


def check(patches, offsets, size, *, patch, align_corners=True, probabilities=False, full=None, bins=16, backend=None):
    options = {"stride": 1, "patch": patch, "align_corners": align_corners, "probabilities": probabilities}

    def call(x, at, whole, **more):
        return aggregate_patches(x, at, size, full=whole, **options, **more)

    with_all = partial(call, bins=bins, return_volume=True)
    found = gpu.run(backend, with_all, patches, offsets, full)
    votes, number = by_hand(patches, offsets, size, patch, align_corners, probabilities, full)
    truth, covered = votes / number.clamp(min=1), number[:, 0] > 0
    double = patches.dtype == torch.float64
    unit = torch.finfo(torch.float64).eps * 4 if double else ULP
    plain = reference(patches, offsets, full, *size, *patch, probabilities, align_corners, bins, True)
    assert_as_accurate(found.volume, plain[3], truth, 4 * unit, "volume")
    best = truth.amax(1).where(covered, 0.0)
    near = 8 * unit * (1.0 if probabilities or not patches.numel() else max(1.0, patches.abs().max().item()))
    lean = gpu.run(backend, call, patches, offsets, full)
    assert lean.histogram is None and lean.volume is None
    for one in (found, lean):
        assert_as_accurate(one.confidence, plain[1], best, 4 * unit, "confidence")
        assert (one.confidence[~covered] == 0).all() and (one.label[~covered] == 255).all()
        assert_labels(one.label.where(covered, truth.argmax(1).to(torch.uint8)), truth, near)
    # Compilers of GPUs may round the same formula otherwise where less is returned.
    assert backend or (torch.equal(lean.label, found.label) and torch.equal(lean.confidence, found.confidence))
    place = found.label.long().where(covered, 0)
    seen = found.confidence.where(covered, torch.nan)
    assert torch.equal(found.histogram, count(seen, place, truth.shape[1], bins)), "not what is returned is counted"
    return found


def scattered(images: int, patches: int, size, patch, seed: int = 0) -> Tensor:
    """Offsets anywhere, some of them partly or wholly outside the image."""
    g = torch.Generator().manual_seed(seed)
    room = [torch.randint(-p - 1, s + 2, (images, patches), generator=g) for s, p in zip(size, patch, strict=True)]
    return torch.stack(room, 2)


PLACES = {
    "one in the middle": [(7, 11)],
    "one over all": [(-3, -5)],
    "corners": [(-10, -10), (-10, 60), (30, -10), (30, 60)],
    "the same place": [(5, 6)] * 4,
    "holes": [(0, 0), (25, 50)],
    "outside": [(100, 0), (0, 200), (-40, 0), (0, -90), (2**40, 0), (0, -(2**62))],
    "single pixels of each edge": [(-19, 0), (39, 3), (2, -36), (3, 82)],
    "none": [],
}


@pytest.mark.parametrize("with_full", [False, True])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("places", PLACES)
def test_wherever_patches_lie(places, align_corners, with_full):
    offsets = torch.tensor(PLACES[places], dtype=torch.int64).view(1, -1, 2)
    full = logits(1, 6, 5, 9, seed=9) if with_full else None
    patches = logits(1, offsets.shape[1], 6, 5, 7)
    found = check(patches, offsets, (40, 83), patch=(20, 37), align_corners=align_corners, full=full)
    if places == "outside" and not with_full:
        assert (found.label == 255).all() and not found.volume.any() and not found.histogram.any()
    if places in ("outside", "none") and with_full:
        assert torch.equal(found.histogram.sum(), torch.tensor(40 * 83))
    share = lambda x: None if x is None else x.softmax(-3)  # noqa: E731
    check(
        share(patches), offsets, (40, 83), patch=(20, 37), align_corners=align_corners, full=share(full),
        probabilities=True,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(dtype, layout):
    patches = lay_out(logits(6, 19, 6, 9, dtype=dtype), layout).unflatten(0, (2, 3))
    full = lay_out(logits(2, 19, 5, 8, dtype=dtype), layout)
    offsets = scattered(2, 3, (50, 70), (40, 60))
    check(patches, offsets, (50, 70), patch=(40, 60), full=full)
    check(patches, offsets.flip(2).flip(2).mT.contiguous().mT, (50, 70), patch=(40, 60))
    other = full.to(torch.float32 if dtype == torch.float16 else torch.float16)
    check(patches, offsets, (50, 70), patch=(40, 60), full=other)


@pytest.mark.gpu
@gpu.each_backend_and_dtype
def test_gpu_dtypes_and_layouts(backend, dtype):
    offsets = scattered(2, 3, (50, 70), (40, 60))
    for layout in LAYOUTS if dtype == torch.float32 else LAYOUTS[:2]:
        patches = lay_out(logits(6, 19, 6, 9, dtype=dtype), layout).unflatten(0, (2, 3))
        full = lay_out(logits(2, 19, 5, 8, dtype=dtype), layout)
        with gpu.noted(layout=layout):
            check(patches, offsets, (50, 70), patch=(40, 60), full=full, backend=backend)
            check(patches, offsets.mT.contiguous().mT, (50, 70), patch=(40, 60), backend=backend)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("with_full", [False, True])
def test_gpu_wherever_patches_lie(backend, with_full):
    full = logits(1, 19, 5, 9, seed=9) if with_full else None
    for number, places in enumerate(PLACES.values()):
        offsets = torch.tensor(places, dtype=torch.int64).view(1, -1, 2)
        patches, align = logits(1, offsets.shape[1], 19, 5, 7), number % 2 == 0
        with gpu.noted(places=places):
            check(patches, offsets, (40, 83), patch=(20, 37), align_corners=align, full=full, backend=backend)


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_sizes_classes_and_probabilities(backend):
    for source, patch in (((1, 1), (9, 30)), ((8, 20), (8, 20)), ((30, 40), (12, 17)), ((3, 7), (1, 50))):
        for size in ((1, 1), (33, 65), (16, 300)):
            offsets = scattered(1, 4, size, patch, seed=3)
            shares = logits(1, 4, 19, *source).softmax(2)
            with gpu.noted(source=source, patch=patch, size=size):
                check(shares, offsets, size, patch=patch, probabilities=True, backend=backend)
    offsets = scattered(1, 4, (20, 40), (16, 24))
    for classes in (1, 2, 150, 255):
        check(logits(1, 4, classes, 4, 6), offsets, (20, 40), patch=(16, 24), backend=backend)
    offsets = scattered(1, 40, (12, 900), (10, 130))
    check(logits(1, 40, 3, 3, 17), offsets, (12, 900), patch=(10, 130), backend=backend)


@pytest.mark.parametrize(
    "source, patch", [((1, 1), (9, 30)), ((8, 20), (8, 20)), ((30, 40), (12, 17)), ((3, 7), (1, 50))]
)
@pytest.mark.parametrize("size", [(1, 1), (33, 65), (16, 300)])
def test_any_size(source, patch, size):
    offsets = scattered(2, 7, size, patch, seed=3)
    for align_corners in (True, False):
        check(logits(2, 7, 4, *source), offsets, size, patch=patch, align_corners=align_corners)
        shares = logits(2, 7, 4, *source).softmax(2)
        check(shares, offsets, size, patch=patch, align_corners=align_corners, probabilities=True)


@pytest.mark.parametrize("classes", [1, 2, 33, 150, 255])
def test_any_number_of_classes(classes):
    offsets = scattered(1, 4, (20, 40), (16, 24))
    check(logits(1, 4, classes, 4, 6), offsets, (20, 40), patch=(16, 24))


def test_many_patches_wide_images():
    """More patches than one list holds at once, over several tiles of columns."""
    offsets = scattered(1, 40, (12, 900), (10, 130))
    check(logits(1, 40, 3, 3, 17), offsets, (12, 900), patch=(10, 130))


def test_the_patch_is_the_scores_times_the_stride():
    patches, offsets = logits(1, 2, 5, 4, 6), torch.tensor([[[0, 0], [10, 20]]])
    ours = aggregate_patches(patches, offsets, (40, 60), stride=8)
    named = aggregate_patches(patches, offsets, (40, 60), stride=3, patch=(32, 48))
    assert torch.equal(ours.label, named.label) and torch.equal(ours.confidence, named.confidence)
    assert (ours.label[0, :32, :48] < 5).all() and (ours.label[0, :10, 48:] == 255).all()


def test_equal_votes_go_to_the_lowest_class():
    patches = torch.zeros(1, 2, 4, 3, 3)
    patches[0, 0, 1], patches[0, 1, 2] = 1, 1
    offsets = torch.zeros(1, 2, 2, dtype=torch.int64)
    for probabilities in (True, False):
        found = aggregate_patches(patches, offsets, (24, 24), stride=8, probabilities=probabilities)
        assert (found.label == 1).all()
    assert (aggregate_patches(patches * 0, offsets, (24, 24), stride=8).label == 0).all()


def test_a_vote_next_to_nan_spoils_its_pixels_only():
    patches = logits(1, 3, 4, 5, 6)
    offsets = torch.tensor([[[0, 0], [9, 13], [30, 3]]])
    clean = aggregate_patches(patches, offsets, (60, 70), stride=8, bins=4)
    patches[0, 1, 2, 2, 0] = torch.nan
    for probabilities in (False, True):
        votes, _ = by_hand(patches, offsets, (60, 70), (40, 48), True, probabilities, None)
        bad = votes.isnan().any(1)
        found = aggregate_patches(patches, offsets, (60, 70), stride=8, bins=4, probabilities=probabilities)
        assert bad.any() and (found.label[bad] == 255).all() and found.confidence[bad].isnan().all()
        assert not found.confidence[~bad].isnan().any()
        assert found.histogram.sum() == int(((found.label != 255) & ~bad).sum())
        if not probabilities:
            assert torch.equal(found.label[~bad], clean.label[~bad])


def test_images_do_not_touch_each_other():
    patches, full = logits(3, 5, 4, 6, 7), logits(3, 4, 3, 3)
    offsets = scattered(3, 5, (37, 50), (30, 40))
    options = {"stride": 1, "patch": (30, 40), "bins": 8, "return_volume": True}
    whole = aggregate_patches(patches, offsets, (37, 50), full=full, **options)
    alone = [
        aggregate_patches(patches[b : b + 1], offsets[b : b + 1], (37, 50), full=full[b : b + 1], **options)
        for b in range(3)
    ]
    for name in ("label", "confidence", "volume"):
        assert torch.equal(torch.cat([getattr(a, name) for a in alone]), getattr(whole, name))
    assert torch.equal(sum(a.histogram for a in alone), whole.histogram)
    assert aggregate_patches(patches[:0], offsets[:0], (37, 50), stride=8).label.shape == (0, 37, 50)


@pytest.mark.parametrize("probabilities", [False, True])
def test_same_bits_for_threads_tracing_and_poisoned_memory(probabilities):
    patches, full = (x.softmax(-3) if probabilities else x for x in (logits(2, 6, 5, 9, 11), logits(2, 5, 6, 7)))
    offsets = scattered(2, 6, (90, 101), (66, 80))

    def call():
        options = {"stride": 1, "patch": (66, 80), "probabilities": probabilities, "bins": 8, "return_volume": True}
        return tuple(aggregate_patches(patches * 1, offsets, (90, 101), full=full, **options))

    assert_same_for_threads(call)
    assert_written(call)
    assert_traces(call)
    patches.requires_grad_()
    assert not call()[1].requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    raw, offsets = torch.ops.fastuda.aggregate_patches.default, scattered(2, 3, (20, 30), (16, 24))
    patches, full = logits(2, 3, 5, 4, 6, dtype=dtype), logits(2, 5, 3, 4, dtype=dtype)
    torch.library.opcheck(raw, (patches, offsets, full, 20, 30, 16, 24, False, True, 8, True))
    torch.library.opcheck(raw, (patches, offsets, None, 20, 30, 16, 24, True, False, 0, False))


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("aggregate_patches", "CPU"), "no compiled kernel, every test would test the reference"


def test_the_raw_operator_refuses_what_it_would_misread(compiled):
    patches, offsets, full = logits(1, 2, 3, 4, 5), torch.zeros(1, 2, 2, dtype=torch.int64), logits(1, 3, 2, 2)
    options = (20, 30, 16, 24, False, True, 8, True)
    for bad in (
        (patches[0], offsets, full, *options),
        (patches.int(), offsets, full, *options),
        (patches, offsets.int(), full, *options),
        (patches, offsets[:, :1], full, *options),
        (patches, offsets[..., :1], full, *options),
        (patches, offsets, full[:, :2], *options),
        (patches, offsets, full[:0], *options),
        (patches, offsets, full, 0, *options[1:]),
        (patches, offsets, full, 20, 30, 0, *options[3:]),
        (patches, offsets, full, *options[:-2], -1, True),
        (logits(1, 2, 256, 1, 1), offsets, None, *options),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.fastuda.aggregate_patches(*bad)


BAD = {
    "patch_scores must be float32": {"patch_scores": torch.zeros(1, 2, 3, 4, 5, dtype=torch.int64)},
    r"patch_scores must be \(B, P, K, h, w\)": {"patch_scores": torch.zeros(2, 3, 4, 5)},
    "patch_scores must have at most 255": {"patch_scores": torch.zeros(1, 2, 256, 1, 1)},
    r"offsets must be int64 of shape \(1, 2, 2\)": {"offsets": torch.zeros(1, 2, 2)},
    "offsets are on meta": {"offsets": torch.zeros(1, 2, 2, dtype=torch.int64, device="meta")},
    r"size must be \(height, width\)": {"size": (0, 5)},
    "stride must be at least 1": {"stride": 0},
    "bins must be at least 0": {"bins": -1},
    r"full must be \(N, K, h, w\)": {"full": torch.zeros(3, 4, 5)},
    r"full must be \(1, 3, h, w\)": {"full": torch.zeros(1, 2, 4, 5)},
    "full is on meta": {"full": torch.zeros(1, 3, 4, 5, device="meta")},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    patches, offsets = torch.zeros(1, 2, 3, 4, 5), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        aggregate_patches(**({"patch_scores": patches, "offsets": offsets, "size": (9, 9), "stride": 8} | change))
