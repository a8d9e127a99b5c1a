"""low_rank: matrices of known rank, torch.linalg.eigh, and what its docstring promises."""

import pytest
import torch

from fastuda.ops.low_rank import low_rank
from fastuda.reference.low_rank import LowRank


def covariances(classes: int, channels: int, decay: float, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Eigenvalues 1, 2^-decay, 3^-decay, ... in random directions, another scale for each class."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(classes, channels, channels, generator=generator, dtype=torch.float64)).Q
    values = torch.arange(1, channels + 1, dtype=torch.float64) ** -decay
    scale = 10.0 ** torch.arange(classes, dtype=torch.float64).view(-1, 1, 1)
    return (scale * (basis * values) @ basis.mT).to(dtype)


def of_rank(rank: int, channels: int = 40, dtype=torch.float64) -> torch.Tensor:
    root = torch.randn(4, channels, rank, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    return (root @ root.mT).to(dtype)


def dense(form: LowRank) -> torch.Tensor:
    return torch.diag_embed(form.diag) + form.factors @ form.factors.mT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("known, rank", [(1, 1), (5, 5), (5, 9), (12, 40), (0, 3)])
def test_a_matrix_of_known_rank_is_exact(known, rank, dtype):
    covariance = of_rank(known, dtype=dtype)
    form = low_rank(covariance, rank)
    tolerance = 64 * torch.finfo(dtype).eps * max(1.0, covariance.abs().max().item())
    torch.testing.assert_close(form.factors @ form.factors.mT, covariance, rtol=0, atol=tolerance)
    assert form.diag.max() <= tolerance
    torch.testing.assert_close(form.retained, torch.ones(4, dtype=dtype))
    lengths = form.factors.norm(dim=1)
    assert (lengths[:, known:] <= tolerance**0.5).all() and (lengths[:, :known] > 0.1).all()


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_converged_factors_are_the_eigenvectors_of_eigh(rank):
    covariance = covariances(3, 32, decay=2.0)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(1)[:, :rank], vectors.flip(2)[:, :, :rank]
    form = low_rank(covariance, rank, iterations=60)
    for k in range(3):
        scale = values[k, 0].item()
        expected = (vectors[k] * values[k]) @ vectors[k].mT
        torch.testing.assert_close(form.factors[k] @ form.factors[k].mT, expected, rtol=0, atol=1e-10 * scale)
        lengths = form.factors[k].square().sum(0)
        torch.testing.assert_close(lengths, values[k], rtol=0, atol=1e-10 * scale)  # and in this order
        torch.testing.assert_close(
            form.factors[k].mT @ form.factors[k], torch.diag(lengths), rtol=0, atol=1e-10 * scale
        )
    best = values.sum(1) / covariance.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(form.retained, best, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("decay, rank", [(0.5, 1), (0.5, 16), (1.0, 16), (0.5, 64)])
def test_four_iterations_come_within_a_percent_of_what_can_be_retained(dtype, decay, rank):
    covariance = covariances(3, 128, decay, dtype=dtype)
    values = torch.linalg.eigvalsh(covariance.double()).flip(1)
    best = values[:, :rank].sum(1) / values.sum(1)
    last = torch.zeros(3, dtype=torch.float64)
    for iterations, missing in ((0, 1.0), (1, 0.1), (4, 0.01), (8, 0.003)):
        form = low_rank(covariance, rank, iterations)
        retained = form.retained.double()
        assert (retained <= best + 1e-6).all() and (retained > last - 1e-6).all()
        assert (best - retained <= missing).all()
        last = retained


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_the_diagonal_is_kept_and_the_rest_stays_below_sigma(iterations, dtype):
    covariance = covariances(3, 48, decay=0.7, dtype=dtype)
    form = low_rank(covariance, 6, iterations)
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    eps = 64 * torch.finfo(dtype).eps * diagonal.amax(1)
    assert (form.diag >= 0).all()
    assert ((dense(form).diagonal(dim1=1, dim2=2) - diagonal).abs().amax(1) <= eps).all()
    residual = (covariance - form.factors @ form.factors.mT).double()
    assert (torch.linalg.eigvalsh(residual)[:, 0] >= -eps).all()
    share = form.factors.square().sum((1, 2)) / diagonal.sum(1)
    torch.testing.assert_close(form.retained, share)


def test_all_directions_are_found_even_where_the_start_could_miss_them():
    """Eigenvectors that are unit vectors, a constant or an alternating sign: none is outside the starting block."""
    n = 24
    signs = torch.ones(n, dtype=torch.float64)
    signs[1::2] = -1
    for vector in (torch.eye(n, dtype=torch.float64)[17], torch.ones(n, dtype=torch.float64), signs):
        covariance = (torch.outer(vector, vector) * 5 + 0.01 * torch.eye(n, dtype=torch.float64))[None]
        form = low_rank(covariance, 1, iterations=4)
        top = torch.linalg.eigvalsh(covariance)[0, -1]
        torch.testing.assert_close(form.factors.square().sum(), top, rtol=1e-9, atol=0)


def test_same_bits_for_each_call_and_for_each_class_alone():
    covariance = covariances(3, 33, decay=0.5, dtype=torch.float32)
    torch.manual_seed(1)
    first = low_rank(covariance, 4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    for a, b in zip(first, low_rank(covariance, 4), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    alone = low_rank(covariance[1:2], 4)
    torch.testing.assert_close(dense(alone)[0], dense(first)[1])


def test_empty_classes_gradient_autocast_and_compile():
    covariance = covariances(3, 12, decay=1.0, dtype=torch.float32)
    covariance[1] = 0
    form = low_rank(covariance, 2)
    assert form.retained[1] == 1 and not form.factors[1].any() and not form.diag[1].any()
    assert all(x.isfinite().all() for x in form)
    assert not any(x.requires_grad for x in low_rank(covariance.clone().requires_grad_(), 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = low_rank(covariance, 2)
    compiled = torch.compile(lambda c: low_rank(c, 2), fullgraph=True, backend="aot_eager")(covariance)
    for a, b, c in zip(form, cast, compiled, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    for dtype in (torch.float32, torch.float64):
        torch.library.opcheck(torch.ops.fastuda.low_rank.default, (covariance.to(dtype), 3, 2))


BAD = {
    r"covariance must be \(K, A, A\)": (torch.zeros(2, 3, 4), 1, 4),
    "K and A at least 1": (torch.zeros(0, 3, 3), 1, 4),
    "covariance must be float32 or float64": (torch.zeros(2, 3, 3, dtype=torch.float16), 1, 4),
    "rank must be between 1 and the 3 channels": (torch.zeros(2, 3, 3), 4, 4),
    "rank must be": (torch.zeros(2, 3, 3), 0, 4),
    "iterations must not be negative": (torch.zeros(2, 3, 3), 1, -1),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        low_rank(*BAD[message])
