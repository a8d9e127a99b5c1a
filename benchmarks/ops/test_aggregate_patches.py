"""aggregate_patches: 50 overlapping patches of 512x512 on a picture of 1024x2048, to labels and confidences.

pytest benchmarks/ops/test_aggregate_patches.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, label_counts, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import aggregate_patches
from fastuda.reference.aggregate_patches import aggregate_patches as reference

CLASSES, STRIDE = 19, 8


@dataclass(frozen=True)
class Case:
    """grid: windows that overlap by half, as MONAI's sliding-window inference places them, instead of random places."""

    patches: int
    side: int  # of a patch, in scores
    height: int
    width: int
    logits: bool = False
    grid: bool = False

    @property
    def patch(self) -> tuple[int, int]:
        return STRIDE * self.side, STRIDE * self.side


CASES = {
    "smoke": {"5 of 32x32": Case(5, 4, 56, 90), "5 of 32x32 logits": Case(5, 4, 56, 90, True)},
    "quick": {"50 of 512x512": Case(50, 64, 1024, 2048)},
    "full": {
        "50 of 512x512": Case(50, 64, 1024, 2048),
        "50 of 512x512 logits": Case(50, 64, 1024, 2048, True),
        "21 of 512x512, a grid": Case(21, 64, 1024, 2048, grid=True),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the patches, unused labels, and the places of the patches."""
    on = {"generator": generator, "device": generator.device}
    scores = 3 * torch.randn(1, case.patches, CLASSES, case.side, case.side, **on)
    labels = torch.randint(0, CLASSES + 1, (64, 64), **on, dtype=torch.uint8)
    room = case.height - case.patch[0] + 1, case.width - case.patch[1] + 1
    offsets = torch.stack([torch.randint(0, size, (1, case.patches), **on) for size in room], 2)
    if case.grid:
        half = case.patch[0] // 2
        rows, columns = (torch.arange(0, size, half, device=generator.device) for size in room)
        offsets = torch.cartesian_prod(rows, columns).unsqueeze(0)
    return scores if case.logits else scores.softmax(2), labels.where(labels < CLASSES, 255), offsets


def work(case: Case, direction: str) -> Work:
    """Scores are read once; a lerp, an addition and for logits an exponential for each class and pixel of a patch."""
    pixels, image = case.patches * case.patch[0] * case.patch[1], case.height * case.width
    read = 4 * case.patches * case.side * case.side * CLASSES
    return Work(read, 5 * image, CLASSES * ((15 if case.logits else 3) * pixels + 2 * image))


def upsampled(case: Case, scores: Tensor) -> Tensor:
    """(1, K, H, W) of one patch."""
    up = F.interpolate(scores.unsqueeze(0), size=case.patch, mode="bilinear", align_corners=True)
    return up.softmax(1) if case.logits else up


def decided(votes: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    confidence, label = (votes / number.clamp(min=1)).max(1)
    return label.where(number[:, 0] > 0, 255).to(torch.uint8), confidence


def pad_and_add(case: Case) -> Callable:
    """The usual form: each patch is padded to the image's size and added."""

    def usual(scores: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        votes, number = 0, 0
        for patch, (y, x) in zip(scores[0], offsets[0].tolist(), strict=True):
            up = upsampled(case, patch)
            edges = x, case.width - x - case.patch[1], y, case.height - y - case.patch[0]
            votes = votes + F.pad(up, edges)
            number = number + F.pad(torch.ones_like(up[:, :1]), edges)
        return decided(votes, number)

    return usual


def slice_add(case: Case) -> Callable:
    """The same, adding only to the patch's place in the sum."""

    def form(scores: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        votes = scores.new_zeros(1, CLASSES, case.height, case.width)
        number = scores.new_zeros(1, 1, case.height, case.width)
        for patch, (y, x) in zip(scores[0], offsets[0].tolist(), strict=True):
            place = ..., slice(y, y + case.patch[0]), slice(x, x + case.patch[1])
            votes[place] += upsampled(case, patch)
            number[place] += 1
        return decided(votes, number)

    return form


def monai(case: Case) -> Callable | UnavailableError:
    """MONAI's sliding window, with the upsampling of the stored scores in the network's place."""
    if not case.grid:
        return UnavailableError("its windows lie on a grid")
    try:
        from monai.inferers import SlidingWindowInferer
    except ImportError:
        return UnavailableError("MONAI is not installed")

    def run(scores: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        patches = iter(scores[0])
        inferer = SlidingWindowInferer(roi_size=case.patch, sw_batch_size=1, overlap=0.5, mode="constant")
        image = scores.new_zeros(1, 1, case.height, case.width)
        votes = inferer(image, lambda window: upsampled(case, next(patches)))
        return decided(votes, votes.new_ones(1, 1, 1, 1))

    return run


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    return results(slice_add(case)(inputs[0].double(), *inputs[1:])), None


def results(output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    label, confidence = output
    return label_counts(label), confidence


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    size, options = (case.height, case.width), {"stride": STRIDE, "probabilities": not case.logits}

    def operator(scores: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(aggregate_patches(scores, offsets, size, **options)[:2])

    def definition(scores: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        return reference(scores, offsets, None, *size, *case.patch, not case.logits, True, 0, False)[:2]

    found = ours("aggregate_patches", operator, device_type)
    found |= {"reference": definition, "usual": pad_and_add(case), "slice_add": slice_add(case)}
    return found | {"monai": monai(case)}


OPERATOR = Operator(
    name="aggregate_patches",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    results=results,
    names=("cpu", "cuda", "triton", "reference", "usual", "slice_add", "monai"),
    tolerance=5e-3,  # a pixel of a small picture
)


def test_aggregate_patches(measure):
    measure(OPERATOR)
