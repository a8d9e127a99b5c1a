"""Cases for aggregate_patches.cu under the emulation: votes added up by hand in float64; see cases.py."""

from __future__ import annotations

import ctypes

import dense_room
import emulated
import torch
from close import assert_as_accurate
from dense_room import DTYPES, F32, F64, bind
from near_labels import LAYOUTS, ULP, assert_labels, lay_out, logits, upsample
from torch import Tensor

from fastuda.reference.aggregate_patches import aggregate_patches as reference
from fastuda.reference.confidence_histogram import count

FEW = (1, 48 * 1024)  # a card of one multiprocessor
PLACES = {
    "one in the middle": [(7, 11)],
    "one over all": [(-3, -5)],
    "corners": [(-10, -10), (-10, 60), (30, -10), (30, 60)],
    "the same place": [(5, 6)] * 4,
    "holes": [(0, 0), (25, 50)],
    "outside": [(100, 0), (0, 200), (-40, 0), (0, -90), (2**40, 0), (0, -(2**62)), (-(2**62), 2**33), (2**32, 2**32)],
    "just outside": [(-20, 3), (40, 3), (2, -37), (3, 83)],
    "single pixels of each edge": [(-19, 0), (39, 3), (2, -36), (3, 82)],
    "none": [],
}


def run(library, patches, offsets, size, patch, align, probabilities, full, bins, *, card, seed, volume=True):
    images, number, classes = patches.shape[:3]
    dtype = dense_room.compute_dtype(patches)
    shape = (images, classes, *size) if volume else (0,)
    results = (
        dense_room.nonsense((images, *size), torch.uint8), dense_room.nonsense((images, *size), dtype),
        dense_room.nonsense((classes, bins), torch.int64), dense_room.nonsense(shape, dtype),
    )  # fmt: skip
    option = dense_room.options(
        torch.empty(images, classes, 0, dtype=patches.dtype), size, other=full, card=card, seed=seed,
        align_corners=align, probabilities=probabilities, bins=bins, patches=number, patch_height=patch[0],
        patch_width=patch[1],
    )  # fmt: skip
    first = emulated.array(patches[:1, :1].flatten(0, 1) if patches.numel() else patches.flatten(0, 1), True)
    first.bytes = emulated.matrix(patches).bytes
    whole = emulated.array(full, True) if full is not None else emulated.array(None, True)
    strides, facts = (ctypes.c_longlong * 2)(*patches.stride()[:2]), (ctypes.c_int * 3)()
    library.aggregate_patches.restype = ctypes.c_char_p
    arrays = [first, whole, *(emulated.matrix(t) for t in (offsets, *results))]
    emulated._call(library.aggregate_patches, option, *arrays, strides, facts)
    return results, dict(zip(("blocks", "strips", "in_shared"), facts, strict=True))


def by_hand(patches: Tensor, offsets: Tensor, size, patch, align, probabilities, full) -> tuple[Tensor, Tensor]:
    """Votes and their number, pixel ranges cut by hand, everything in float64."""
    images, number, classes = patches.shape[:3]
    votes = torch.zeros(images, classes, *size, dtype=F64)
    counts = torch.zeros(images, 1, *size, dtype=F64)
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


def scattered(images: int, patches: int, size, patch, seed: int = 0) -> Tensor:
    """Offsets anywhere, some of them partly or wholly outside the image."""
    g = torch.Generator().manual_seed(seed)
    room = [torch.randint(-p - 1, s + 2, (images, patches), generator=g) for s, p in zip(size, patch, strict=True)]
    return torch.stack(room, 2)


def check(
    library, shape=(1, 4, 5, 5, 7), size=(40, 83), patch=(20, 37), places=None, *, dtype=F32, layout="nchw",
    align_corners=True, probabilities=False, full_size=None, full_dtype=F32, full_layout="nchw", bins=16,
    card=emulated.PASCAL, schedules=(1,), strided=False, expect=None,
) -> None:  # fmt: skip
    """places: of the patches, else anywhere; strided: offsets have gaps; expect: facts about how the work was cut."""
    offsets = scattered(*shape[:2], size, patch) if places is None else torch.tensor(places).view(1, -1, 2).long()
    shape = (offsets.shape[0], offsets.shape[1], *shape[2:])
    share = (lambda x: x.softmax(1)) if probabilities else (lambda x: x)
    patches = lay_out(share(logits(shape[0] * shape[1], *shape[2:])).to(dtype), layout).unflatten(0, shape[:2])
    full = None
    if full_size is not None:
        full = lay_out(share(logits(shape[0], shape[2], *full_size, seed=9)).to(full_dtype), full_layout)
    given = (
        torch.full((3, *offsets.shape), 7)[1].copy_(offsets).transpose(0, 2).contiguous().transpose(0, 2)
        if strided
        else offsets
    )
    options = patch, align_corners, probabilities, full
    results = [run(library, patches, given, size, *options, bins, card=card, seed=seed) for seed in schedules]
    (label, confidence, counts, volume), plan = results[0]
    for name, value in (expect or {}).items():
        assert value(plan[name]) if callable(value) else plan[name] == value, f"{name} is {plan[name]}"
    votes, number = by_hand(patches, offsets, size, *options)
    truth, covered = votes / number.clamp(min=1), number[:, 0] > 0
    unit = torch.finfo(F64).eps * 4 if dtype == F64 else ULP
    plain = reference(patches, offsets, full, *size, *patch, probabilities, align_corners, bins, True)
    assert_as_accurate(volume, plain[3], truth, 4 * unit, "volume")
    best = truth.amax(1).where(covered, 0.0)
    assert_as_accurate(confidence, plain[1], best, 4 * unit, "confidence")
    assert (confidence[~covered] == 0).all() and (label[~covered] == 255).all(), "pixels without a vote"
    near = 8 * unit * (1.0 if probabilities or not patches.numel() else max(1.0, patches.abs().max().item()))
    assert_labels(label.where(covered, truth.argmax(1).to(torch.uint8)), truth, near)
    place, seen = label.long().where(covered, 0), confidence.where(covered, torch.nan)
    assert torch.equal(counts, count(seen, place, shape[2], bins)), "not what is returned is counted"
    for other, _ in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0][0], strict=True)), "another schedule, other bits"
    lean, _ = run(library, patches, given, size, *options, 0, card=card, seed=3, volume=False)
    assert torch.equal(lean[0], label) and torch.equal(lean[1], confidence), "other labels without the rest"


def check_nan(library, probabilities: bool, where: str) -> None:
    """Next to NaN the confidence is NaN, without label and bin; the patch's other pixels are as without it."""
    patches, full = logits(1, 2, 4, 5, 7), logits(1, 4, 5, 9, seed=2)
    if probabilities:
        patches, full = patches.softmax(2), full.softmax(1)
    offsets, options = torch.tensor([[[-5, 3], [10, 20]]]), (30, 60)
    clean, _ = run(library, patches, offsets, options, (20, 28), True, probabilities, full, 8, card=FEW, seed=1)
    (patches[0, 1] if where == "patch" else full[0])[2, 1, 3] = torch.nan
    found, _ = run(library, patches, offsets, options, (20, 28), True, probabilities, full, 8, card=FEW, seed=1)
    truth = reference(patches, offsets, full, *options, 20, 28, probabilities, True, 8, True)
    bad = truth[1].isnan()
    assert bad.any() and torch.equal(found[1].isnan(), bad), "NaN elsewhere"
    assert (found[0][bad] == 255).all() and torch.equal(found[0][~bad], clean[0][~bad]), "labels"
    assert found[2].sum() == (~bad).sum(), "NaN is counted"


def check_equal_votes(library) -> None:
    patches = torch.zeros(1, 2, 4, 3, 3)
    patches[0, 0, 1], patches[0, 1, 2] = 1, 1
    offsets = torch.zeros(1, 2, 2, dtype=torch.int64)
    for probabilities in (True, False):
        found, _ = run(library, patches, offsets, (24, 24), (24, 24), True, probabilities, None, 4, card=FEW, seed=1)
        assert (found[0] == 1).all(), "not the lowest of equals"
    offsets = torch.tensor([[[0, 0], [100, 0]]])
    found, _ = run(library, patches, offsets, (24, 24), (12, 24), True, True, None, 4, card=FEW, seed=1)
    assert found[2].tolist() == [[0] * 4, [0, 0, 0, 12 * 24], [0] * 4, [0] * 4], "pixels without a vote are counted"


def _cases():
    for places in PLACES:
        for align_corners in (True, False):
            for full_size in (None, (5, 9)):
                form = dict(align_corners=align_corners, full_size=full_size)
                form["probabilities"] = align_corners != (full_size is None)
                yield f"{places}, align {align_corners}, full {full_size}", dict(places=PLACES[places]) | form
    for i, dtype in enumerate(DTYPES):
        for j, layout in enumerate(LAYOUTS):
            full = dict(full_size=(5, 8), full_dtype=DTYPES[(i + j) % 4], full_layout=LAYOUTS[(j + 2) % len(LAYOUTS)])
            case = dict(shape=(2, 3, 19, 4, 6), size=(30, 41), patch=(25, 33), dtype=dtype, layout=layout)
            yield (
                f"{str(dtype)[6:]}, {layout}",
                case | full | dict(strided=bool(j % 2), probabilities=bool((i + j) % 2)),
            )
    for source, patch in (((1, 1), (9, 30)), ((8, 20), (8, 20)), ((30, 40), (12, 17)), ((3, 7), (1, 50))):
        for size in ((1, 1), (33, 65), (16, 130)):
            case = dict(shape=(2, 7, 4, *source), size=size, patch=patch, align_corners=size[0] > 16)
            yield f"{source} to {patch} in {size}", case | dict(probabilities=size[0] == 16)
    for classes, strips in (
        (1, 128),
        (2, 128),
        (24, 128),
        (25, 96),
        (33, 64),
        (96, 32),
        (97, 31),
        (150, 20),
        (255, 12),
    ):
        case = dict(shape=(1, 3, classes, 3, 4), size=(14, 30), patch=(12, 20), bins=4)
        yield f"{classes} classes", case | dict(expect={"strips": strips})
    yield "float64, 255 classes", dict(
        shape=(1, 2, 255, 2, 3), size=(9, 13), patch=(8, 9), dtype=F64, bins=2, expect={"strips": 6}
    )  # fmt: skip
    for rows in (3, 4, 5, 8):
        yield f"{rows} rows", dict(size=(rows, 40), patch=(rows + 1, 37))
    yield "many patches", dict(shape=(1, 40, 3, 3, 17), size=(12, 300), patch=(10, 70))
    yield "several rounds", dict(
        shape=(1, 3, 3, 4, 7), size=(80, 90), patch=(60, 70), card=FEW, expect={"blocks": 4}, schedules=(1, 2)
    )  # fmt: skip
    rounds = dict(shape=(1, 1, 1, 2, 2), size=(412, 640), patch=(412, 640), places=[(0, 0)], card=(0, 48 * 1024))
    yield "so many that blocks would overflow", rounds | dict(bins=2, expect={"blocks": 5, "in_shared": 1})
    yield "counts beside the sums", dict(bins=2000, card=emulated.HOPPER, expect={"in_shared": 1})
    yield "counts do not fit", dict(bins=4500, expect={"in_shared": 0})
    yield "images", dict(shape=(5, 2, 3, 4, 5), size=(13, 17), patch=(9, 12), full_size=(3, 3))
    yield "no image", dict(shape=(0, 2, 3, 4, 5), size=(13, 17), patch=(9, 12))
    yield "schedules", dict(shape=(2, 3, 19, 4, 6), size=(20, 41), patch=(15, 33), schedules=(1, 2, 3))


AGGREGATE = {name: bind(check, case) for name, case in _cases()}
AGGREGATE |= {
    f"NaN in the {where}, {p}": bind(check_nan, dict(where=where, probabilities=p))
    for where in ("patch", "full")
    for p in (False, True)
}
AGGREGATE["equal votes"] = check_equal_votes
TABLES = {"aggregate_patches": AGGREGATE}
