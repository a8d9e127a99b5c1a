"""triplet_consistency_loss: against its definition and autograd."""

import gpu
import pytest
import torch

from fastuda.ops import triplet_consistency_loss
from fastuda.ops._library import has_kernel
from fastuda.ops.select_triplets import Triplets
from fastuda.reference.triplet_consistency_loss import triplet_consistency_loss as definition


def partners() -> Triplets:
    """Of 200 target rows in 500 source rows, some of them drawn several times; every tenth has none."""
    g = torch.Generator().manual_seed(3)
    positive, negative = (torch.randint(0, 100, (200,), generator=g) for _ in range(2))
    valid = torch.arange(200) % 10 > 0
    return Triplets(positive.where(valid, 0), negative.where(valid, 0), valid)


def embeddings(dtype):
    g = torch.Generator().manual_seed(7)
    target, source = (torch.randn(n, 6, generator=g).to(dtype).requires_grad_() for n in (200, 500))
    return target, source


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_loss_and_gradients_are_those_of_the_definition(dtype):
    target, source = embeddings(dtype)
    triplets = partners()
    scale = 2.0**16 if dtype == torch.float16 else 1.0
    loss = triplet_consistency_loss(target, source, *triplets, margin=0.5)
    found = torch.autograd.grad(loss * scale, (target, source))
    exact = [x.detach().double().requires_grad_() for x in (target, source)]
    each = definition(*exact, *triplets, 0.5)
    wanted = torch.autograd.grad(each.sum() / triplets.valid.sum() * scale, exact)
    assert (each > 0).any() and (each[triplets.valid] == 0).any(), "the hinge is never or always open"
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == accumulate
    torch.testing.assert_close(
        loss.double(), each.sum() / triplets.valid.sum(), rtol=4 * torch.finfo(loss.dtype).eps, atol=0
    )
    for ours, true in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - true).abs().max() <= 4 * torch.finfo(dtype).eps * true.abs().max()


def test_gradcheck_reductions_and_nothing_valid():
    target, source = embeddings(torch.float64)
    triplets = partners()
    some = triplets.positive[:9], triplets.negative[:9], triplets.valid[:9]
    small = target[:9].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda t, s: triplet_consistency_loss(t, s, *some), (small, source))
    each = triplet_consistency_loss(target, source, *triplets, reduction="none")
    total = triplet_consistency_loss(target, source, *triplets, reduction="sum")
    assert each.shape == (200,) and not each[~triplets.valid].any()
    torch.testing.assert_close(total, each.sum(), rtol=1e-14, atol=0)  # added in another order
    nothing = triplet_consistency_loss(target, source, *triplets[:2], torch.zeros_like(triplets.valid))
    nothing.backward()
    assert nothing == 0 and not target.grad.any() and not source.grad.any()
    empty = triplet_consistency_loss(target, source[:0], *triplets[:2], torch.zeros_like(triplets.valid))
    assert empty == 0


def test_loss_opcheck_and_bad_input():
    target, source = embeddings(torch.float32)
    triplets = partners()
    inputs = target.detach(), source.detach(), *triplets
    forward, backward = (
        getattr(torch.ops.fastuda, f"triplet_consistency_{d}").default for d in ("forward", "backward")
    )
    loss = forward(*inputs, 1.0)
    torch.library.opcheck(forward, (*inputs, 1.0))
    torch.library.opcheck(backward, (torch.ones_like(loss), *inputs[:4], loss))
    with pytest.raises(ValueError, match="valid must be torch.bool of shape"):
        triplet_consistency_loss(*inputs[:4], triplets.valid.long())
    with pytest.raises(ValueError, match="must share a floating dtype"):
        triplet_consistency_loss(target.half(), *inputs[1:])
    with pytest.raises(ValueError, match=r"target must be \(T, d\) and source \(S, d\)"):
        triplet_consistency_loss(target[:, :3], *inputs[1:])
    with pytest.raises(ValueError, match="reduction must be"):
        triplet_consistency_loss(*inputs, reduction="all")


def test_cpu_kernels_are_compiled(compiled):
    for name in ("triplet_consistency_forward", "triplet_consistency_backward"):
        assert has_kernel(name, "CPU"), f"{name}: no compiled kernel, every test would test the reference"


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.T.contiguous().T


def strided(x: torch.Tensor) -> torch.Tensor:
    between = torch.full_like(x, torch.nan if x.is_floating_point() else -1)
    return torch.stack([x, between], 2).flatten(1)[:, ::2]


def channels_and_layouts(channels: int, dtype: torch.dtype, backend: str | None = None) -> None:
    """Rows in another layout give the same bits: losses, and gradients that arrive in the rows' own layout."""
    g = torch.Generator().manual_seed(channels)
    target, source = (torch.randn(n, channels, generator=g).div(channels**0.5).to(dtype) for n in (200, 500))
    triplets, grad = partners(), torch.rand(200, generator=g)
    exact = [x.double().requires_grad_() for x in (target, source)]
    true = definition(*exact, *triplets, 0.5)
    slopes = torch.autograd.grad((true * grad).sum(), exact)
    raw = [getattr(torch.ops.fastuda, f"triplet_consistency_{d}") for d in ("forward", "backward")]
    forward, backward = (lambda *x, op=op: gpu.run(backend, op, *x) for op in raw)
    plain = forward(target, source, *triplets, 0.5)
    eps = torch.finfo(plain.dtype).eps
    assert (true == 0).any() and (plain.double() - true).abs().max() <= 8 * eps * true.max()
    grad = grad.to(plain.dtype)
    first = backward(grad, target, source, *triplets[:2], plain)
    for ours, exact_slope in zip(first, slopes, strict=True):
        assert (ours.double() - exact_slope).abs().max() <= 4 * torch.finfo(dtype).eps * exact_slope.abs().max()
    for lay_out in (transposed, strided):
        inputs = lay_out(target), lay_out(source), *(strided(x[:, None])[:, 0] for x in triplets[:2])
        gpu.same(forward(*inputs, triplets.valid, 0.5), plain, lay_out.__name__)
        gpu.same(backward(grad, *inputs, plain), first, lay_out.__name__)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 7, 8, 15, 16, 17, 64])
def test_channels_and_layouts(channels, dtype):
    channels_and_layouts(channels, dtype)


@pytest.mark.gpu
@gpu.each_backend_and_dtype
@pytest.mark.parametrize("channels", [1, 19, 256])
def test_gpu_channels_and_layouts(backend, dtype, channels):
    channels_and_layouts(channels, dtype, backend)


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_empty_missing_and_wild_rows(backend):
    target, source = (x.detach() for x in embeddings(torch.float32))
    target[20], target[21] = torch.nan, torch.nan  # the first of them has no partners
    call = lambda t, s, *rest: triplet_consistency_loss(t, s, *rest, reduction="none")  # noqa: E731
    each = gpu.run(backend, call, target, source, *partners())
    gpu.same(each.isnan().nonzero().flatten().tolist(), [21], "a row is not a number")
    assert each[20] == 0
    nothing = torch.zeros(200, dtype=torch.bool)
    for t, s, triplets in (
        (target[:0], source, [x[:0] for x in partners()]),
        (target, source, (*partners()[:2], nothing)),
        (target, source[:0], (*partners()[:2], nothing)),
    ):
        assert not gpu.run(backend, call, t, s, *triplets).any()


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("index", [-1, 500, 2**40])
@pytest.mark.skipif(gpu.DEVICE == "cpu", reason="a CPU raises an error instead")
def test_gpu_a_partner_outside_the_source_is_not_a_number(backend, index):
    target, source = (x.detach() for x in embeddings(torch.float32))
    good = partners()
    forward, backward = (getattr(torch.ops.fastuda, f"triplet_consistency_{d}") for d in ("forward", "backward"))
    for which in (0, 1):
        triplets = [x.clone() for x in good]
        triplets[which][7] = index
        with gpu.serving(backend):
            given = [gpu.on_device(x) for x in (target, source, *triplets)]
            loss = forward(*given, 0.5)
            slopes = backward(torch.ones_like(loss), *given[:4], loss)
        if gpu.MODE == "device":
            assert loss.isnan().nonzero().flatten().tolist() == [7] and not slopes[0][7].any()
            assert all(slope.isfinite().all() for slope in slopes)


def test_same_bits_for_any_number_of_threads():
    target, source = embeddings(torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            loss = triplet_consistency_loss(target, source, *partners())
            found.append((loss.detach(), *torch.autograd.grad(loss, (target, source))))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_empty_missing_and_wild_rows():
    target, source = (x.detach() for x in embeddings(torch.float32))
    triplets = partners()
    assert triplet_consistency_loss(target[:0], source, *(x[:0] for x in triplets)) == 0
    target[20], target[21] = torch.nan, torch.nan  # the first of them has no partners
    each = triplet_consistency_loss(target, source, *triplets, reduction="none")
    assert each[20] == 0 and each[21].isnan() and each.isnan().sum() == 1
    slopes = torch.ops.fastuda.triplet_consistency_backward(
        torch.ones(200), target, source, *triplets[:2], each.where(each.isfinite(), torch.nan)
    )
    assert not any(slope.isnan().any() for slope in slopes), "a row whose loss is not positive gives nothing"


@pytest.mark.parametrize("index", [-1, 500, 2**40])
def test_a_partner_outside_the_source_is_an_error(index):
    target, source = (x.detach() for x in embeddings(torch.float32))
    for which in (0, 1):
        triplets = [x.clone() for x in partners()]
        triplets[which][7] = index
        with pytest.raises((RuntimeError, IndexError)):
            assert index != -1 or has_kernel("triplet_consistency_forward", "CPU"), "the reference counts from the end"
            triplet_consistency_loss(target, source, *triplets)
