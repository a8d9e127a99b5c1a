"""pixel_mean: sums, means and counts of the pixels that count, and how many kernels the losses need around it."""

from __future__ import annotations

import math

import gpu
import pytest
import torch
from contract import LAYOUTS, lay_out
from torch.utils._python_dispatch import TorchDispatchMode

from fastuda import ops
from fastuda.ops import _library
from fastuda.reference import pixel_mean as reference

OP = torch.ops.fastuda.pixel_mean
LABELS = (torch.uint8, torch.int32, torch.int64)


def problem(shape=(3, 41, 53), classes=5, dtype=torch.float32, label_dtype=torch.int64):
    """Two losses, NaN where they do not count, and labels of which a third do not."""
    g = torch.Generator().manual_seed(1)
    losses = torch.randn(2, *shape, generator=g, dtype=torch.float64).exp().to(dtype)
    odd = torch.tensor([255, classes] if label_dtype == torch.uint8 else [255, classes, -1, 2**31 - 1])
    odd = odd[torch.randint(0, len(odd), shape, generator=g)]
    labels = torch.randint(0, classes, shape, generator=g)
    labels = odd.where(torch.rand(shape, generator=g) < 0.3, labels).to(label_dtype)
    valid = (labels.long() >= 0) & (labels.long() < classes)
    return losses.masked_fill(~valid, torch.nan), labels, valid


def check(losses, others, labels, valid, classes=5, mean=True, ignore_index=255, backend=None) -> None:
    """``valid``: of the pixels as ``losses`` and ``others``, which math.fsum adds."""
    call = lambda x, y, z: OP(x, y, z, classes, ignore_index, mean)  # noqa: E731
    *found, divisor = gpu.run(backend, call, losses, others, labels)
    count = int(valid.sum())
    assert divisor.dtype == torch.int64 and divisor.item() == (max(1, count) if mean else count)
    assert found[1].shape == (() if others is not None else (0,))
    for ours, values in zip(found, (losses, others), strict=True):
        if values is None:
            continue
        exact = math.fsum(values[valid].double().tolist()) / (max(1, count) if mean else 1)
        assert ours.dtype == values.dtype and ours.shape == ()
        bound = torch.finfo(values.dtype).eps * (1 if values.dtype == torch.float32 else 8)
        assert abs(ours.item() - exact) <= bound * abs(exact)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("label_dtype", LABELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_exact_sums(dtype, label_dtype, mean, compiled):
    losses, labels, valid = problem(dtype=dtype, label_dtype=label_dtype)
    check(losses[0], losses[1], labels, valid, mean=mean)
    check(losses[0], None, labels, valid, mean=mean)
    one = valid & (labels != 2)
    check(losses[0].masked_fill(~one, torch.inf), losses[1], labels, one, mean=mean, ignore_index=2)


@pytest.mark.parametrize("pixels", [0, 1, 3, 4, 5, 1023, 1024, 1025, (1 << 15) - 1, (1 << 15) + 1, 100_000])
def test_every_length(pixels, compiled):
    losses, labels, valid = problem((pixels,))
    check(losses[0], losses[1], labels, valid)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, compiled):
    """Labels as the contract lays them out beside features; losses transposed, or of stride 0."""
    losses, labels, valid = problem()
    _, near = lay_out(torch.zeros(3, 1, 41, 53), labels, layout)
    if layout == "rows":
        check(losses[0].reshape(-1), losses[1].reshape(-1), near, valid.reshape(-1))
        return
    valid = (near.long() >= 0) & (near.long() < 5)
    losses = losses.nan_to_num(1.0)[:, : len(near), : near.shape[1], : near.shape[2]]
    check(losses[0].mT.contiguous().mT, losses[1][:1, :1].expand(near.shape), near, valid)


@pytest.mark.parametrize("mean", [True, False])
def test_no_pixel_that_counts_is_exactly_zero(mean, compiled):
    losses = torch.full((2, 3, 4), torch.nan)
    value, other, divisor = OP(losses, losses, torch.full((2, 3, 4), 255), 19, 255, mean)
    assert value == 0 and other == 0 and divisor == mean


def test_the_number_of_threads_changes_no_bit(compiled):
    losses, labels, _ = problem((2, 300, 700))
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(OP(losses[0], losses[1], labels, 5, 255, True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_opcheck_and_its_kernel(compiled):
    losses, labels, _ = problem()
    assert _library.has_kernel("pixel_mean", "CPU")
    for others in (None, losses[1]):
        for mean in (True, False):
            torch.library.opcheck(OP.default, (losses[0], others, labels, 5, 255, mean))


def test_the_definition():
    losses, labels, valid = problem()
    value, other, divisor = reference.pixel_mean(losses[0], losses[1], labels, 5, 255, True)
    assert divisor == valid.sum()
    torch.testing.assert_close(value, losses[0][valid].mean())
    torch.testing.assert_close(other, losses[1][valid].mean())


class Kernels(TorchDispatchMode):
    """Names of PyTorch's own operators that start a kernel on a GPU: neither views nor allocations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        view = any(r.alias_info is not None for r in func._schema.returns)
        name = func._schema.name
        if not view and not name.startswith("fastuda::") and "empty" not in name and name != "aten::detach":
            self.names.append(name)
        return func(*args, **kwargs or {})


FEATURES, OTHER, ROWS, MODES = *torch.randn(2, 2, 8, 5, 6), torch.randn(5, 8), torch.randn(4, 3, 8)
TARGET, ORDER = torch.randint(0, 4, (2, 5, 6)), torch.arange(5)
MASK, CHOSEN = TARGET > 1, ORDER > 1
# Name: learned inputs, a call of them with options, and the most kernels of PyTorch around ours, forward and backward.
CALLS = {
    "contrastive_bound": ((FEATURES,), lambda x, **o: ops.contrastive_bound(x, TARGET, MODES[:, 0], **o), 1),
    "mode_losses": ((FEATURES, MODES), lambda x, m, **o: ops.mode_losses(x, TARGET, m, **o)[:2], 2),
    "mode_losses, triplet alone": ((FEATURES, MODES), lambda x, m, **o: ops.mode_losses(x, TARGET, m, **o)[0], 2),
    "symmetric_kl": ((FEATURES, OTHER), lambda x, y, **o: ops.symmetric_kl(x, y, **o), 2),
    "symmetric_kl of a mask": ((FEATURES, OTHER), lambda x, y, **o: ops.symmetric_kl(x, y, mask=MASK, **o), 1),
    "distillation_kl": ((FEATURES,), lambda x, **o: ops.distillation_kl(x, OTHER, mask=MASK, **o), 1),
    "triplet_consistency_loss": (
        (ROWS, ROWS + 1), lambda x, y, **o: ops.triplet_consistency_loss(x, y, ORDER, ORDER, CHOSEN, **o), 1
    ),
    "upsample_cross_entropy": ((FEATURES,), lambda x, **o: ops.upsample_cross_entropy(x, TARGET, **o), 6),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", CALLS)
def test_few_kernels_around_ours(name, reduction, compiled):
    """Means, counts and masks come from our kernels; what is left divides the incoming gradient."""
    inputs, call, most = CALLS[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    with Kernels() as forward:
        losses = call(*inputs, reduction=reduction)
    losses = losses if isinstance(losses, tuple) else (losses,)
    incoming = [torch.ones_like(loss) for loss in losses]
    with Kernels() as backward:
        torch.autograd.grad(losses, inputs, incoming)
    assert len(forward.names) + len(backward.names) <= most, f"{forward.names} and {backward.names}"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "backend, dtype", [("cuda", torch.float32), ("cuda", torch.float64), ("triton", torch.float32)]
)
def test_gpu(backend, dtype):
    for shape in ((3, 41, 53), (0, 4, 5), (1, 1, 1), (1, 700, 900)):
        for label_dtype in LABELS:
            losses, labels, valid = problem(shape, dtype=dtype, label_dtype=label_dtype)
            for mean in (True, False):
                with gpu.noted(shape=shape, labels=label_dtype, mean=mean):
                    check(losses[0], losses[1].mT.contiguous().mT, labels, valid, mean=mean, backend=backend)
                    check(losses[0], None, labels, valid, mean=mean, backend=backend)
