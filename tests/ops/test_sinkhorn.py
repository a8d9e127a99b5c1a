"""sinkhorn: against the formula in float64, for every spread, dtype and layout."""

import gpu
import pytest
import torch
from torch import Tensor

from fastuda.ops import sinkhorn
from fastuda.ops._library import has_kernel
from fastuda.reference.sinkhorn import sinkhorn as reference

ROUNDING = 1e-6


def formula(scores: Tensor, marginal: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """CPSL's algorithm as printed, in float64 on Q itself: classes to r, then columns to equal mass."""
    scores = scores.double()
    q = ((scores - scores.max()) / epsilon).exp()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True).clamp(min=1e-300) * marginal.double()
        q = q / q.sum(1, keepdim=True)
    return q


def problem(rows: int, classes: int, seed: int = 0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Cosines in -1..1 and shares of classes as skewed as 300 to 1."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(rows, classes, generator=g) * 2 - 1
    marginal = 300 ** -torch.linspace(0, 1, classes)
    return scores.to(dtype), (marginal / marginal.sum())[torch.randperm(classes, generator=g)]


@pytest.mark.parametrize("rows", [1, 256, 1500, 65_536 + 2_048])
@pytest.mark.parametrize("classes", [2, 16, 19, 150])
def test_three_rounds_are_the_formula(rows, classes):
    scores, marginal = problem(rows, classes)
    ours = sinkhorn(scores, marginal=marginal)
    assert ours.dtype == torch.float32
    assert (ours.double() - formula(scores, marginal)).abs().max() <= ROUNDING


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_exactly_the_stated_rounds(iterations):
    scores, marginal = problem(300, 5)
    ours = sinkhorn(scores, marginal=marginal, iterations=iterations)
    torch.testing.assert_close(ours.double(), formula(scores, marginal, iterations=iterations), rtol=0, atol=ROUNDING)
    other = formula(scores, marginal, iterations=iterations + 1)
    assert (ours.double() - other).abs().max() > 10 * ROUNDING, "one round more would pass as well"


def test_a_class_without_a_share_gets_nothing():
    scores, marginal = problem(200, 6)
    marginal[2] = 0
    ours = sinkhorn(scores, marginal=marginal)
    assert not ours[:, 2].any()
    torch.testing.assert_close(ours.double(), formula(scores, marginal), rtol=0, atol=ROUNDING)


def test_constant_scores_give_the_marginal():
    _, marginal = problem(1, 7)
    ours = sinkhorn(torch.full((50, 7), 0.3), marginal=marginal)
    torch.testing.assert_close(ours, (marginal / marginal.sum()).expand(50, 7), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_any_spread_is_safe(dtype):
    """Scores at +-1/epsilon: exponents of +-400, beyond float32, on Q itself only float64 holds them."""
    g = torch.Generator().manual_seed(3)
    scores = ((torch.rand(400, 9, generator=g) * 2 - 1) * 20).to(dtype)
    scores[:, 4] = -20  # a class that every row shuns
    scores[7] = 20
    marginal = torch.rand(9, generator=g) + 0.1
    ours = sinkhorn(scores, marginal=marginal)
    assert ours.isfinite().all() and ours[:, 4].sum() > 0.1
    assert (ours.double() - formula(scores, marginal)).abs().max() <= ROUNDING


def test_wider_than_float64_holds():
    scores = torch.tensor([[0.0, 1e4], [1e4, 0.0], [1e4, -1e4]])
    ours = sinkhorn(scores, marginal=torch.tensor([0.5, 0.5]))
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.sum(1), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    scores, marginal = problem(500, 19, dtype=dtype)
    ours = sinkhorn(scores, marginal=marginal)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    limit = 1e-13 if dtype == torch.float64 else ROUNDING
    assert (ours.double() - formula(scores, marginal)).abs().max() <= limit


def layouts(scores: Tensor) -> dict[str, Tensor]:
    inside = torch.full((scores.shape[0] + 3, 2 * scores.shape[1] + 1), torch.nan)
    return {
        "transposed": scores.T.contiguous().T,
        "strided": inside[2:-1, 1::2].copy_(scores),
    }


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_layouts(layout):
    scores, marginal = problem(333, 19)
    assert torch.equal(sinkhorn(layouts(scores)[layout], marginal=marginal), sinkhorn(scores, marginal=marginal))


def test_only_the_current_rows_are_returned():
    scores, marginal = problem(700, 19)
    whole = sinkhorn(scores, marginal=marginal)
    for current in (0, 1, 33, 700):
        part = sinkhorn(scores, marginal=marginal, current=current)
        assert part.shape == (current, 19) and torch.equal(part, whole[700 - current :])


def test_problems_of_a_batch_do_not_touch_each_other():
    parts = [problem(257, 13, seed) for seed in range(4)]
    parts[2][0].mul_(50)  # one of a wide spread
    scores, marginal = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
    together = sinkhorn(scores, marginal=marginal, current=100)
    for i, (s, m) in enumerate(parts):
        assert torch.equal(together[i], sinkhorn(s, marginal=m, current=100))
    shared = sinkhorn(scores, marginal=marginal[0])
    assert torch.equal(shared[3], sinkhorn(scores[3], marginal=marginal[0]))
    assert sinkhorn(scores[:, :0], marginal=marginal).shape == (4, 0, 13)
    assert sinkhorn(scores[:0], marginal=marginal[:0]).shape == (0, 257, 13)


def test_the_marginal_counts_by_its_ratios_only():
    scores, marginal = problem(300, 8)
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(
            sinkhorn(scores, marginal=marginal * factor), sinkhorn(scores, marginal=marginal), rtol=0, atol=ROUNDING
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_opcheck(dtype):
    scores, marginal = problem(40, 5, dtype=dtype)
    for s in (scores[None], scores[None, ::2], scores.T.contiguous().T[None]):
        torch.library.opcheck(torch.ops.fastuda.sinkhorn.default, (s, marginal[None], 0.05, 3, 7))


def test_compile_autocast_gradient_and_same_bits():
    scores, marginal = problem(3000, 19)
    plain = sinkhorn(scores, marginal=marginal, current=64)
    step = torch.compile(lambda s, m: sinkhorn(s * 1, marginal=m, current=64), fullgraph=True, backend="aot_eager")
    assert torch.equal(step(scores, marginal), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sinkhorn(scores, marginal=marginal, current=64), plain)
    assert not sinkhorn(scores.requires_grad_(), marginal=marginal).requires_grad
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(sinkhorn(scores, marginal=marginal, current=64), plain), f"other bits with {n} threads"
    finally:
        torch.set_num_threads(threads)


def test_nan_filled_allocations():
    scores, marginal = problem(1111, 19)
    plain = sinkhorn(scores, marginal=marginal)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.equal(sinkhorn(scores, marginal=marginal), plain)
    finally:
        torch.use_deterministic_algorithms(False)


# --- on a GPU ---


def on_gpu(backend: str, scores: Tensor, marginal: Tensor, **options) -> Tensor:
    with gpu.noted(shape=tuple(scores.shape), strides=scores.stride(), **options):
        return gpu.run(backend, lambda s, m: sinkhorn(s, marginal=m, **options), scores, marginal)


@pytest.mark.gpu
@gpu.each_backend_and_dtype
def test_gpu_dtypes_and_classes(backend, dtype):
    for rows, classes in ((517, 19), (3000, 150), (1, 19), (1500, 2), (300, 16)):
        scores, marginal = problem(rows, classes, dtype=dtype)
        ours = on_gpu(backend, scores, marginal)
        assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        limit = 1e-13 if dtype == torch.float64 else ROUNDING
        assert (ours.double() - formula(scores, marginal)).abs().max() <= limit


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_rounds_spreads_and_offsets(backend):
    scores, marginal = problem(517, 19)
    marginal[3] = 0
    for iterations in (1, 2, 7):
        ours = on_gpu(backend, scores, marginal, iterations=iterations)
        assert (ours.double() - formula(scores, marginal, iterations=iterations)).abs().max() <= ROUNDING
    scores[:, 4] = -1  # a class that all rows but one shun
    scores[7] = 1
    for factor, offset in ((20, 0.0), (1.6, 0.0), (1, -3e3), (1, 2.0**15)):
        wide = scores * factor + offset
        ours = on_gpu(backend, wide, marginal)
        assert (ours.double() - formula(wide, marginal)).abs().max() <= ROUNDING


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_batches_layouts_and_current_rows(backend):
    scores, marginal = (torch.stack(tensors) for tensors in zip(*(problem(517, 19, s) for s in range(3)), strict=True))
    whole = on_gpu(backend, scores, marginal)
    for one, s, m in zip(whole, scores, marginal, strict=True):
        assert (one.double() - formula(s, m)).abs().max() <= ROUNDING
    for current in (0, 1, 48):
        gpu.same(on_gpu(backend, scores, marginal, current=current), whole[:, 517 - current :], "other rows")
    for layout in layouts(scores[0]).values():
        gpu.same(on_gpu(backend, layout, marginal[0]), whole[0], "another layout")
    assert on_gpu(backend, scores[:, :0], marginal).shape == (3, 0, 19)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_gpu_what_is_not_finite(backend, value):
    scores, marginal = problem(517, 19)
    for where in ((5, 3), (516, slice(None)), (slice(None), 3)):
        odd = scores.clone()
        odd[where] = value
        true = reference(odd[None], marginal[None], 0.05, 3, 517)[0]
        torch.testing.assert_close(on_gpu(backend, odd, marginal), true, rtol=0, atol=ROUNDING, equal_nan=True)


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("sinkhorn", "CPU"), "no compiled kernel, every test would test the reference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [1, 3, 4, 5, 13, 17, 20, 33])
def test_any_number_of_classes_in_any_layout(classes, dtype):
    """Rows are read four or sixteen classes at a time, the last of them twice; blocks of rows may be incomplete."""
    for rows in (15, 16, 64 + 16 + 7, 512 + 64):
        scores, marginal = problem(rows, classes, dtype=dtype)
        ours = sinkhorn(scores, marginal=marginal)
        assert (ours.double() - formula(scores, marginal)).abs().max() <= ROUNDING
        for layout in layouts(scores).values():
            assert torch.equal(sinkhorn(layout.to(dtype), marginal=marginal, current=9), ours[-9:])


@pytest.mark.parametrize("spread", [50.0, 62.0, 64.5, 70.0, 84.0, 95.0, 300.0])
@pytest.mark.parametrize("ratio", [1.0, 1e4, 1e30])
def test_float32_is_left_where_it_does_not_hold(spread, ratio):
    """Two groups of rows the whole spread apart, and rows with the whole spread inside."""
    g = torch.Generator().manual_seed(5)
    scores = torch.rand(1100, 6, generator=g) * spread * 0.05
    scores[:300] *= 0.01
    scores[600:700] = spread * 0.05 * (1 - 0.01 * torch.rand(100, 6, generator=g))
    scores[-40:, 2] = 0
    marginal = torch.rand(6, generator=g) + 0.1
    marginal[2] /= ratio
    assert (sinkhorn(scores, marginal=marginal).double() - formula(scores, marginal)).abs().max() <= ROUNDING


@pytest.mark.parametrize("offset", [-3e3, 1e3, 2.0**15, -6e4, 1e7])
def test_a_large_offset_costs_no_digits(offset):
    scores, marginal = problem(700, 9)
    scores = scores + offset  # rounded here, not in the operator
    assert (sinkhorn(scores, marginal=marginal).double() - formula(scores, marginal)).abs().max() <= ROUNDING


@pytest.mark.parametrize("at", [0, 5, 699])
def test_what_is_not_finite_is_treated_as_in_the_definition(at):
    scores, marginal = problem(700, 9)
    for value in (torch.nan, torch.inf, -torch.inf):
        for where in ((at, 3), (at, slice(None)), (slice(None), 3)):
            odd = scores.clone()
            odd[where] = value
            true = reference(odd[None], marginal[None], 0.05, 3, 700)[0]
            torch.testing.assert_close(sinkhorn(odd, marginal=marginal), true, rtol=0, atol=ROUNDING, equal_nan=True)


def test_nobody_has_a_share():
    scores, marginal = problem(40, 3)
    assert not sinkhorn(scores, marginal=marginal * 0).any()


@pytest.mark.parametrize("dtype, factor", [(torch.float64, 1), (torch.float32, 50)])
def test_same_bits_for_any_number_of_threads_in_float64(dtype, factor):
    scores, marginal = problem(3000, 19, dtype=dtype)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(sinkhorn(scores * factor, marginal=marginal))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_raw_operator_refuses_what_it_would_misread(compiled):
    raw = torch.ops.fastuda.sinkhorn
    scores, marginal = problem(8, 3)
    for bad in (
        (scores, marginal[None], 0.05, 3, 8),
        (scores[None], marginal[None, :2], 0.05, 3, 8),
        (scores[None].int(), marginal[None], 0.05, 3, 8),
        (scores[None], marginal[None], 0.05, 3, 9),
        (scores[None], marginal[None], 0.05, 0, 8),
    ):
        with pytest.raises(RuntimeError):
            raw(*bad)


BAD = {
    "scores must be float32": {"scores": torch.zeros(4, 3, dtype=torch.int64)},
    r"scores must be \(N, K\) or \(B, N, K\)": {"scores": torch.zeros(4)},
    r"marginal must be \(3,\), got": {"marginal": torch.ones(4)},
    r"marginal must be \(3,\) or \(2, 3\)": {"scores": torch.zeros(2, 4, 3), "marginal": torch.ones(3, 3)},
    "marginal must be float32 or float64": {"marginal": torch.ones(3, dtype=torch.int64)},
    "marginal is on meta": {"marginal": torch.ones(3, device="meta")},
    "epsilon must be positive": {"epsilon": 0.0},
    "iterations must be at least 1": {"iterations": 0},
    "current must be between 0 and the 4 rows": {"current": 5},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    with pytest.raises(ValueError, match=message):
        sinkhorn(**({"scores": torch.zeros(4, 3), "marginal": torch.ones(3)} | change))
