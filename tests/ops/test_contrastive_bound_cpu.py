"""The contrastive bound's C++ kernels: what their tiles, vectors and threads could get wrong beyond the formula."""

from pathlib import Path

import instruction_sets
import pytest
import torch
from close import assert_as_accurate

from fastuda.ops._library import has_kernel
from fastuda.reference import contrastive_bound as reference

FORWARD, BACKWARD = torch.ops.fastuda.contrastive_bound_forward, torch.ops.fastuda.contrastive_bound_backward
KINDS = (None, "diag", "full")
# Tile edges: 16, 24 or 32 pixels, 512 of a work item; 256 channels in a run of sums, blocks of 6 and 12, vectors of 16.
SHAPES = [(1, 2, 1, 1), (1, 17, 1, 31), (2, 33, 3, 16), (1, 16, 1, 515), (3, 5, 13, 29), (1, 269, 5, 7)]
OPTIONS = (1.7, True, 255)


@pytest.fixture(autouse=True)
def poisoned_memory(compiled):
    """Compiled kernels, and NaN in every new tensor, so that anything left unwritten is seen."""
    assert has_kernel("contrastive_bound_forward", "CPU") and has_kernel("contrastive_bound_backward", "CPU")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make(shape, classes, kind, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    n, channels, h, w = shape
    features = torch.randn(shape, generator=g).to(dtype)
    labels = torch.randint(-1, classes + 2, (n, h, w), generator=g)
    labels[:, 0, 0] = 0  # one valid pixel at least
    mean = torch.randn(classes, channels, generator=g)
    root = torch.randn(classes, channels, channels, generator=g)
    full = root @ root.mT / channels
    full = (full + full.mT) / 2  # a product need not be symmetric to the last bit
    covariance = {None: None, "diag": full.diagonal(dim1=1, dim2=2).contiguous(), "full": full}[kind]
    return features, labels, mean, covariance, torch.randn(n, h, w, generator=g)


def lay_out(features, layout):
    n, a, h, w = features.shape
    if layout == "channels_last":
        return features.contiguous(memory_format=torch.channels_last)
    if layout == "pixels":  # as the public function passes (P, A)
        return features.permute(0, 2, 3, 1).reshape(-1, a).T[None, :, :, None]
    if layout == "sliced":
        return torch.full((n, a + 1, h + 2, 2 * w), float("nan")).to(features)[:, 1:, 1:-1, ::2].copy_(features)
    if layout == "channel_slice":
        wide = features.new_full((n, a + 3, h, w + 1), float("nan")).contiguous(memory_format=torch.channels_last)
        return wide[:, 2:-1, :, 1:].copy_(features)
    if layout == "expanded":
        return features[:1].expand(n, -1, -1, -1)
    return features


def check(features, labels, mean, covariance, grad, options=OPTIONS, eps=2e-6):
    """Loss, softmax and gradient against float64, where the reference's own error is allowed."""
    results, grad = [], grad.to(reference.compute_dtype(features))
    for forward, backward, wide in (
        (FORWARD, BACKWARD, False),
        (reference.forward, reference.backward, False),
        (reference.forward, reference.backward, True),
    ):
        x, g = (features.double(), grad.double()) if wide else (features, grad)
        loss, posterior = forward(x, labels, mean, covariance, *options)
        results.append((loss, posterior, backward(g, x, labels, mean, covariance, posterior, *options)))
    valid = (labels >= 0) & (labels < len(mean)) & (labels != options[2])
    for i, what in enumerate(("loss", "softmax", "gradient")):
        ours, plain, truth = (r[i].movedim(1, -1)[valid] if i == 2 else r[i][valid] for r in results)
        assert_as_accurate(ours, plain, truth, eps, what)
    ours = results[0]
    assert (ours[0][~valid] == 0).all() and (ours[2].movedim(1, -1)[~valid] == 0).all()
    assert ours[2].dtype == features.dtype and ours[2].stride() == torch.empty_like(features).stride()
    return ours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "pixels", "sliced", "channel_slice", "expanded"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tile_edges_in_every_layout(shape, layout, kind):
    features, labels, mean, covariance, grad = make(shape, 13, kind)
    view = lay_out(features, layout)
    if layout == "pixels":
        labels, grad = labels.reshape(1, -1, 1), grad.reshape(1, -1, 1)
    check(view, labels, mean, covariance, grad)


@pytest.mark.parametrize("kind", [None, "diag"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("classes", [1, 2, 3, 6, 7, 12, 13, 16, 19, 25, 32, 33, 64, 65, 150])
def test_every_block_of_classes(classes, layout, kind):
    for dtype, options, eps in ((torch.float32, OPTIONS, 2e-6), (torch.float64, (0.9, False, 0), 1e-12)):
        features, *others = make((1, 21, 5, 9), classes, kind, dtype)
        check(lay_out(features, layout), *others, options, eps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_every_block_of_channels(layout, kind):
    """Vectors of 16 (8 in float64) in blocks of up to 2; the triangle in blocks of 12, 6, 4, 3 and 2 channels."""
    for channels in (*range(2, 27), 31, 32, 48, 80, 256, 259):
        features, *others = make((1, channels, 2, 13), 3, kind)
        check(lay_out(features, layout), *others)
        check(lay_out(features.double(), layout), *others, OPTIONS, 1e-12)


@pytest.mark.parametrize("kind", [None, "diag"])
def test_a_gradient_that_is_streamed_past_the_caches(kind):
    """Beyond 8 MiB: the same bits as in parts that are not."""
    features, labels, mean, covariance, grad = make((1, 64, 130, 257), 5, kind)
    features = lay_out(features, "channels_last")
    assert features.nbytes > 2**23
    slopes = []
    for parts in (1, 13):
        pieces = [x.chunk(parts, dim) for x, dim in ((grad, 1), (features, 2), (labels, 1))]
        slopes.append(torch.cat([gradient(g, x, y, mean, covariance) for g, x, y in zip(*pieces, strict=True)], 2))
    assert torch.equal(*slopes)


def gradient(grad, features, labels, mean, covariance):
    _, posterior = FORWARD(features, labels, mean, covariance, *OPTIONS)
    return BACKWARD(grad, features, labels, mean, covariance, posterior, *OPTIONS)


def test_only_the_lower_triangle_of_a_full_covariance_is_read():
    features, labels, mean, covariance, grad = make((1, 29, 5, 9), 4, "full")
    expected = check(features, labels, mean, covariance, grad, (1.7, False, 255))
    upper = torch.full_like(covariance, float("nan")).triu(1)
    loss, posterior = FORWARD(features, labels, mean, covariance + upper, 1.7, False, 255)
    slope = BACKWARD(grad, features, labels, mean, covariance + upper, posterior, 1.7, False, 255)
    assert torch.equal(loss, expected[0]) and torch.equal(slope, expected[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_in_every_layout(kind, layout, dtype):
    features, *others = make((2, 35, 7, 19), 5, kind, dtype)
    check(lay_out(features, layout), *others)


@pytest.mark.parametrize("channels", [1, 3, 16, 19])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gradient_is_rounded_as_torch_rounds(dtype, channels):
    """One class with q = 1, mu = 0, Sigma = 1, tau = 1: the gradient is the incoming one, of any bits, rounded."""
    g = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (40_000,), generator=g).to(torch.int32)
    halfway = torch.arange(2**16, dtype=torch.int32) << 16 | 0x8000  # between two values of bfloat16
    exact = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16).float().view(torch.int32)
    grad = torch.cat([bits, halfway, exact, exact + 0x1000, exact + 0x0FFF, exact + 0x1001]).view(torch.float32)
    q = torch.ones(len(grad), channels, dtype=dtype).T[None, :, :, None]
    labels = torch.zeros(1, len(grad), 1, dtype=torch.uint8)
    mean, covariance = torch.zeros(1, channels), torch.ones(1, channels)
    for features in (q, q.contiguous()):
        slope = BACKWARD(
            grad[None, :, None], features, labels, mean, covariance, torch.ones(1, len(grad), 1, 1), 1.0, False, 255
        )
        expected = grad.to(dtype)[None, None, :, None].expand_as(slope)
        torch.testing.assert_close(slope, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_for_every_number_of_threads(kind, dtype):
    features, labels, mean, covariance, grad = make((2, 40, 41, 31), 7, kind, dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            loss, posterior = FORWARD(features, labels, mean, covariance, *OPTIONS)
            results.append((loss, BACKWARD(grad, features, labels, mean, covariance, posterior, *OPTIONS)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


def test_far_logits_neither_overflow_nor_vanish():
    features, labels, mean, covariance, grad = make((1, 8, 6, 7), 9, "diag")
    loss, posterior, _ = check(30 * features, labels, mean, covariance, grad, (0.05, False, 255))
    assert loss.max() > 1e4 and posterior.isfinite().all()


def test_what_an_ignored_pixel_holds_reaches_no_result():
    for layout in ("nchw", "channels_last"):
        features, labels, mean, covariance, grad = make((2, 19, 9, 11), 4, "full")
        ignored = (labels < 0) | (labels >= 4)
        clean = lay_out(features, layout)
        dirty = clean.masked_fill(ignored.unsqueeze(1), float("nan"))
        expected = check(clean, labels, mean, covariance, grad)
        loss, posterior = FORWARD(dirty, labels, mean, covariance, *OPTIONS)
        slope = BACKWARD(grad.masked_fill(ignored, float("inf")), dirty, labels, mean, covariance, posterior, *OPTIONS)
        assert torch.equal(loss, expected[0]) and torch.equal(slope, expected[2])


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_statistics_and_softmax_of_any_strides_and_dtype(kind):
    features, labels, mean, covariance, grad = make((1, 21, 5, 9), 6, kind)
    mean, covariance = mean.T.contiguous().T, covariance.double().transpose(0, 1).contiguous().transpose(0, 1)
    options = (1.7, False, 255)
    _, posterior, slope = check(features, labels, mean, covariance, grad, options)
    posterior = posterior.transpose(1, 2).contiguous().transpose(1, 2)
    weight = grad[:, :1].expand_as(grad)
    again = BACKWARD(weight, features, labels, mean, covariance, posterior, *options)
    factor = (weight / grad).where((labels >= 0) & (labels < 6), 0.0).unsqueeze(1)
    torch.testing.assert_close(again, slope * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets.ISAS)
def test_each_instruction_set(isa):
    chosen = "tile_edges or block_of or triangle or rounded or half or float64"
    instruction_sets.assert_passes(isa, chosen, __file__, str(Path(__file__).with_name("test_contrastive_bound.py")))
