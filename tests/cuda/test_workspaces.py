"""What the CUDA C++ kernels ask for as scratch is no more than the memory forecast says, and not much less."""

from __future__ import annotations

import re

import class_balanced_sample_cases
import emulated
import lovasz_softmax_cases
import pytest
import select_triplets_cases
import torch
import triplet_consistency_cases
import upsample_cross_entropy_cases

from fastuda.ops._dispatch import TABLE
from fastuda.train.memory.workspaces import WORKSPACES, inside

CUDA = emulated.ROOT / "csrc/cuda"
# Result-like names that hold what is dropped at the end of the call.
DROPPED = re.compile(r"Tensor (scratch|partials|spreads|counts) = torch::stable::new_empty")
FORMS = {
    "class_balanced_sample": ("class_balanced_sample", "sample_per_class"),
    "contrastive_bound": ("contrastive_bound_forward", "contrastive_bound_backward"),
    "contrastive_bound_full": ("contrastive_bound_forward", "contrastive_bound_backward"),
    "mode_losses": ("mode_losses_backward",),
    "triplet_consistency_loss": ("triplet_consistency_backward",),
    # Counts are results there.
    "aggregate_patches": (),
    "confidence_histogram": (),
}


def meta(*shape: int, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.fixture(scope="module")
def built(emulated_library):
    return emulated_library


def test_every_kernel_with_scratch_is_in_the_table():
    found = {path.stem for path in CUDA.glob("*.cu") if DROPPED.search(path.read_text())}
    assert {"class_moments", "sinkhorn", "lovasz_softmax"} <= found
    for name in found:
        for form in FORMS.get(name, (name,)):
            assert form in WORKSPACES, f"{name}.cu allocates scratch for {form}, which is not in the table"
    assert set(WORKSPACES) <= set(TABLE)


@pytest.mark.parametrize("channels", [19, 256, 2048])
@pytest.mark.parametrize("pixels", [14_400, 115_200, 2_097_152])
def test_full_moments(built, pixels, channels):
    stated = inside("class_moments_full", (meta(1, channels, 1, pixels), meta(1, 1, pixels), 19, 255))
    for card in (emulated.PASCAL, emulated.HOPPER):
        *_, scratch = emulated.full_moments_plan(built("class_moments_full"), pixels, channels, 19, card=card)
        # Small problems are cut finer on larger cards; Triton's partial sums may be a tenth of the features.
        assert scratch <= stated <= 4 * scratch + (8 << 20) + 4 * pixels * channels // 10


@pytest.mark.parametrize("by_share", [True, False])
def test_draws(built, by_share):
    name = "class_balanced_sample" if by_share else "sample_per_class"
    scratch = class_balanced_sample_cases.scratch(built("class_balanced_sample"), 4, 360 * 640, 19, by_share)
    stated = inside(name, (meta(4, 360, 640, dtype=torch.uint8), None, 19, 512, 255))
    # Triton counts eight times as many digits at once.
    assert scratch <= stated <= scratch + (1 << 20)


def test_sorts(built):
    scratch = select_triplets_cases.scratch(built("select_triplets"), 11_400, 19, 3)
    stated = inside("select_triplets", (meta(11_400), None, None, None, None, 19, 3))
    assert scratch <= stated <= 2 * scratch + 8192
    scratch = triplet_consistency_cases.scratch(built("triplet_consistency_loss"), 1024, 11_400, 256, torch.float32)
    stated = inside("triplet_consistency_backward", (None, meta(1024, 256), meta(11_400, 256)))
    assert scratch <= stated <= 2 * scratch + 8192


@pytest.mark.parametrize("with_slope", [True, False])
@pytest.mark.parametrize(("shape", "size"), [((1, 19, 90, 160), (720, 1280)), ((2, 19, 64, 128), (1024, 2048))])
def test_upsampled_losses(built, shape, size, with_slope):
    logits, target = meta(*shape), meta(shape[0], *size, dtype=torch.uint8)
    scratch = upsample_cross_entropy_cases.scratch(built("upsample_cross_entropy"), shape, size, with_slope=with_slope)
    options = None, None, True, 255, 0.0, False, with_slope
    stated = inside("upsample_cross_entropy", (logits, target, *options))
    assert scratch <= stated <= 2 * scratch + 8192
    scratch = lovasz_softmax_cases.scratch(built("lovasz_softmax"), shape, size, 1024, with_slope=with_slope)
    stated = inside("lovasz_softmax", (logits, target, 1024, False, True, 255, with_slope))
    assert scratch <= stated <= 2 * scratch + 8192
    scratch = lovasz_softmax_cases.scratch(built("lovasz_softmax"), shape, size, 0, with_slope=with_slope)
    stated = inside("lovasz_softmax", (logits, target, 0, False, True, 255, with_slope))
    assert scratch <= stated <= 1.1 * scratch + 8192


def test_what_no_kernel_serves_is_the_reference():
    assert callable(inside("low_rank", ()))
    assert inside("pseudo_labels", ()) == 0
