"""triplet_consistency_loss in Triton: the operator's own tests and the cases of the mutants, run on the launchers."""

from __future__ import annotations

import pytest
import torch
import triton_room

from fastuda.ops import triplet_consistency_loss

ops_tests = triton_room.load_file(
    triton_room.ROOT / "tests/ops/test_triplet_consistency_loss.py", "ops_triplet_consistency_loss"
)
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_samplers.py", "triton_room_kernel_cases_samplers")
FORWARD, BACKWARD = (f"fastuda.kernels.triplet_consistency_loss.{name}" for name in ("forward", "backward"))

test_loss_and_gradients_are_those_of_the_definition = ops_tests.test_loss_and_gradients_are_those_of_the_definition
test_empty_missing_and_wild_rows = ops_tests.test_empty_missing_and_wild_rows


def test_channels_and_layouts():
    ops_tests.test_channels_and_layouts(17, torch.bfloat16)


@pytest.mark.parametrize("options", cases.LOSSES.values(), ids=cases.LOSSES)
def test_as_accurate_as_the_definition(options):
    cases.check_losses(**options)


@pytest.mark.parametrize("index", [-1, 500, 2**40])
def test_a_partner_outside_the_source_is_nan(index):
    target, source = (x.detach().requires_grad_() for x in ops_tests.embeddings(torch.float32))
    triplets = ops_tests.partners()
    triplets.negative[7] = index
    each = triplet_consistency_loss(target, source, *triplets, reduction="none")
    assert each[7].isnan() and each.isnan().sum() == 1
    for slope in torch.autograd.grad(each.nan_to_num().sum(), (target, source)):
        assert slope.isfinite().all() and slope.any()


def test_draws_are_added_in_one_order():
    """The same bits again; and where every sum is a float32, those of the definition."""
    g = torch.Generator().manual_seed(0)
    target, source = (torch.randn(n, 9, generator=g) for n in (120, 4))
    triplets = [torch.randint(0, 4, (120,), generator=g) for _ in range(2)]
    raw = torch.ops.fastuda.triplet_consistency_backward
    grad, loss = torch.rand(120, generator=g), torch.ones(120)
    for ours, again in zip(*(raw(grad, target, source, *triplets, loss) for _ in range(2)), strict=True):
        assert torch.equal(ours, again)
    whole = [x.round() for x in (target, source)]
    exact = raw(grad.double().round(), *(x.double() for x in whole), *triplets, loss.double())
    for ours, true in zip(raw(grad.round(), *whole, *triplets, loss), exact, strict=True):
        assert torch.equal(ours.double(), true)


def test_the_launchers_served(served):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        target, source = ops_tests.embeddings(dtype)
        triplet_consistency_loss(target, source, *ops_tests.partners()).backward()
    assert dict(served) == {FORWARD: 2, BACKWARD: 2, "fastuda.kernels.pixel_mean.pixel_mean": 2}
