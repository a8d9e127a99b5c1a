"""The contrastive bound: against the paper's formula, its own autograd, and the contract of every operator."""

import numpy as np
import pytest
import torch
from close import assert_as_accurate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.reference import contrastive_bound as reference

KINDS = (None, "diag", "full")
LOSS_SCALE = 65536.0


def statistics(classes: int, channels: int, kind: str | None, seed: int = 0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(classes, channels, generator=generator, dtype=torch.float64)
    root = torch.randn(classes, channels, channels, generator=generator, dtype=torch.float64)
    full = root @ root.mT / channels
    covariance = {None: None, "diag": full.diagonal(dim1=1, dim2=2).contiguous(), "full": full}[kind]
    return mean.to(dtype), None if covariance is None else covariance.to(dtype)


def pixels(shape, classes: int, seed: int = 0, dtype=torch.float32, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    """Features of `shape` and uint8 labels with some 255 and, in int64, some out of range on both sides."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    label_shape = (shape[0], *shape[2:])
    labels = torch.randint(0, classes, label_shape, generator=generator)
    kind = torch.rand(label_shape, generator=generator)
    labels[kind < ignored] = 255
    labels[kind < ignored / 2] = classes
    labels[kind < ignored / 4] = -3
    return features, labels


def paper(features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | None, tau: float, normalize: bool):
    """SDCA Eq. 12-14 pixel by pixel in float64 NumPy: loss (P,) and its gradient by q."""
    features, labels, mean = features.double().numpy(), labels.numpy(), mean.double().numpy()
    covariance = np.zeros((*mean.shape, mean.shape[1])) if covariance is None else covariance.double().numpy()
    if covariance.ndim == 2:
        covariance = np.stack([np.diag(row) for row in covariance])
    if normalize:
        mean = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-300)
        covariance = covariance / np.maximum(np.linalg.norm(covariance, axis=(1, 2), keepdims=True), 1e-300)
    losses, slopes = np.zeros(len(features)), np.zeros_like(features)
    for i, (raw, y) in enumerate(zip(features, labels, strict=True)):
        length = np.linalg.norm(raw) if normalize else 1.0
        if not 0 <= y < len(mean):
            continue
        q = raw / length if length else raw
        # E[exp(q.x / tau)] of a Gaussian (Eq. 12) for each class, then -log of the positive's share (Eq. 14).
        expectation = np.exp([q @ m / tau + q @ s @ q / (2 * tau**2) for m, s in zip(mean, covariance, strict=True)])
        losses[i] = -np.log(expectation[y] / expectation.sum()) + q @ covariance[y] @ q / (2 * tau**2)
        slope = -mean[y] / tau
        for e, m, s in zip(expectation, mean, covariance, strict=True):
            slope = slope + e / expectation.sum() * (m / tau + s @ q / tau**2)
        if normalize:
            slope = (np.eye(len(q)) - np.outer(q, q)) @ slope / length if length else 0 * slope
        slopes[i] = slope
    return torch.from_numpy(losses), torch.from_numpy(slopes)


def rows(features: Tensor) -> Tensor:
    return features.movedim(1, -1).reshape(-1, features.shape[1])


def run(features, labels, mean, covariance, weight=None, **options) -> tuple[Tensor, Tensor]:
    features = features.detach().requires_grad_()
    loss = contrastive_bound(features, labels, mean, covariance, **options)
    (slope,) = torch.autograd.grad(loss, features, torch.ones_like(loss) if weight is None else weight)
    return loss.detach(), slope


def relative(actual: Tensor, exact: Tensor) -> float:
    return ((actual.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_definition_and_operator_follow_the_paper(kind, normalize):
    features, labels = pixels((2, 7, 3, 5), 4, dtype=torch.float64)
    mean, covariance = statistics(4, 7, kind, dtype=torch.float64)
    mean[2] = 0
    features[0, :, 1, 1] = 0
    labels[0, 1, 1] = 1
    loss, slope = paper(rows(features), labels.reshape(-1), mean, covariance, 1.7, normalize)
    options = {"temperature": 1.7, "normalize": normalize}
    actual, gradient = run(features, labels, mean, covariance, reduction="none", **options)
    torch.testing.assert_close(actual.reshape(-1), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows(gradient), slope, rtol=1e-12, atol=1e-12)

    q = rows(features).requires_grad_()
    defined = reference.contrastive_bound(q, labels.reshape(-1), mean, covariance, **options)
    torch.testing.assert_close(defined.detach(), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(defined.sum(), q)[0], slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck(kind, normalize):
    features, labels = pixels((2, 3, 2, 3), 4, dtype=torch.float64)
    mean, covariance = statistics(4, 3, kind, dtype=torch.float64)
    options = {"temperature": 0.8, "normalize": normalize}

    def operator(q):
        return contrastive_bound(q, labels, mean, covariance, reduction="none", **options)

    def definition(q):
        return reference.contrastive_bound(q, labels.reshape(-1), mean, covariance, **options)

    assert torch.autograd.gradcheck(operator, features.requires_grad_())
    assert torch.autograd.gradcheck(definition, rows(features).detach().requires_grad_())


@pytest.fixture
def poisoned_memory():
    """New tensors start as NaN, so that anything left unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_accurate(features, labels, mean, covariance, **options) -> None:
    """Loss and gradient of the mean, at a loss scale of 65536, err no more than the definition under autograd does."""
    scale = torch.tensor(LOSS_SCALE)
    loss, slope = run(features, labels, mean, covariance, scale, **options)
    exact, exact_slope = run(features.double(), labels, mean, covariance, scale.double(), **options)
    q = rows(features).requires_grad_()
    defined = reference.contrastive_bound(q, labels.reshape(-1), mean, covariance, **options)
    defined = defined.sum() / ((labels >= 0) & (labels < len(mean))).sum().clamp(min=1)
    (defined_slope,) = torch.autograd.grad(defined, q, scale)
    assert loss.dtype == torch.float32 and slope.dtype == features.dtype
    assert exact_slope.norm() > 0
    assert_as_accurate(loss, defined.detach(), exact, 1e-6, "loss")
    assert_as_accurate(rows(slope), defined_slope, rows(exact_slope), 1e-6, "gradient")
    # Beside the largest error: the whole gradient is off by at most one rounding to its dtype.
    assert relative(slope, exact_slope) <= 2e-6 + 0.5 * torch.finfo(features.dtype).eps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("tau", [100.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_against_float64(kind, normalize, tau, dtype, poisoned_memory):
    features, labels = pixels((2, 64, 9, 11), 19, dtype=dtype)
    mean, covariance = statistics(19, 64, kind)
    assert_accurate(features, labels, mean, covariance, temperature=tau, normalize=normalize)


@pytest.mark.parametrize("classes, channels", [(2, 1), (2, 2048), (13, 256), (16, 64), (19, 19), (150, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_error_against_float64_by_size(classes, channels, dtype, poisoned_memory):
    features, labels = pixels((1, channels, 7, 13), classes, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(classes, channels, generator=generator)
    covariance = torch.rand(classes, channels, generator=generator)
    assert_accurate(features, labels, mean, covariance, temperature=10.0, normalize=channels > 1)


def test_loss_scale_is_applied_before_rounding_to_half():
    """At tau = 100 a mean gradient of unit features is far below fp16's range; scaled it must keep its digits."""
    features, labels = pixels((1, 256, 32, 32), 19, dtype=torch.float16)
    features = 8 * features
    mean, covariance = statistics(19, 256, "diag")
    options = {"temperature": 100.0, "normalize": True}
    _, lost = run(features, labels, mean, covariance, torch.tensor(1.0), **options)
    _, kept = run(features, labels, mean, covariance, torch.tensor(LOSS_SCALE), **options)
    _, exact = run(features.double(), labels, mean, covariance, torch.tensor(LOSS_SCALE).double(), **options)
    assert (lost == 0).all() and exact.abs().max() / LOSS_SCALE < 3e-8
    assert (kept[exact != 0] != 0).float().mean() > 0.99
    assert relative(kept, exact) < 2e-3


@pytest.mark.parametrize("normalize", [False, True])
def test_full_covariance_of_a_diagonal_is_the_diagonal_form(normalize):
    features, labels = pixels((1, 6, 4, 4), 3, dtype=torch.float64)
    mean, diagonal = statistics(3, 6, "diag", dtype=torch.float64)
    form = [diagonal, torch.diag_embed(diagonal)]
    results = [run(features, labels, mean, c, temperature=0.5, normalize=normalize) for c in form]
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_change_the_result(kind, monkeypatch):
    features, labels = pixels((3, 5, 7, 4), 4, dtype=torch.float64)
    mean, covariance = statistics(4, 5, kind, dtype=torch.float64)
    whole = run(features, labels, mean, covariance, normalize=True)
    for elements in (1, 45, 5 * 4 * 7 * 2):
        monkeypatch.setattr(reference, "CHUNK_ELEMENTS", elements)
        parts = run(features, labels, mean, covariance, normalize=True)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)


def layouts(features: Tensor) -> dict[str, Tensor]:
    n, a, h, w = features.shape
    sliced = torch.full((n, a + 1, h + 2, 2 * w), float("nan"), dtype=features.dtype)[:, 1:, 1:-1, ::2]
    return {
        "channels_last": features.contiguous(memory_format=torch.channels_last),
        "sliced": sliced.copy_(features),
        "transposed": features.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": features[:1].expand(n, -1, -1, -1),
    }


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded"])
def test_strides(layout):
    features, labels = pixels((2, 5, 4, 6), 4, dtype=torch.float64)
    mean, covariance = statistics(4, 5, "diag", dtype=torch.float64)
    view = layouts(features)[layout]
    expected = run(view.contiguous(), labels, mean, covariance, normalize=True)
    actual = run(view, labels.transpose(1, 2).contiguous().transpose(1, 2), mean, covariance, normalize=True)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    if layout == "channels_last":
        assert actual[1].is_contiguous(memory_format=torch.channels_last)


def test_pixel_rows_equal_images():
    features, labels = pixels((2, 5, 4, 6), 4)
    mean, covariance = statistics(4, 5, "diag")
    loss, slope = run(features, labels, mean, covariance)
    flat = run(rows(features), labels.reshape(-1), mean, covariance)
    torch.testing.assert_close(flat, (loss, rows(slope)))
    assert flat[1].is_contiguous()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [4, 300])
def test_label_dtypes(dtype, classes):
    features, labels = pixels((2, 5, 4, 6), 4)
    labels = labels.where((labels >= 0) & (labels < 4), 255)
    mean, covariance = statistics(classes, 5, "diag")
    expected = run(features, labels, mean, covariance, reduction="none")
    actual = run(features, labels.to(dtype), mean, covariance, reduction="none")
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert torch.equal(actual[0] == 0, labels == 255)


def test_reductions_and_ignored_pixels():
    features, labels = pixels((2, 5, 4, 6), 4)
    mean, covariance = statistics(4, 5, "full")
    valid = (labels >= 0) & (labels < 4)
    features.movedim(1, -1)[~valid] = float("nan")  # never read into a result
    none, slope = run(features, labels, mean, covariance, reduction="none")
    total = run(features, labels, mean, covariance, reduction="sum")
    average = run(features, labels, mean, covariance)
    assert none.shape == labels.shape and torch.equal(none == 0, ~valid)
    assert (slope.movedim(1, -1)[~valid] == 0).all() and slope.isfinite().all()
    torch.testing.assert_close(total, (none.sum(), slope))
    torch.testing.assert_close(average, (none.sum() / valid.sum(), slope / valid.sum()))
    weight = torch.full(labels.shape, 2.0).where(valid, float("nan"))
    torch.testing.assert_close(run(features, labels, mean, covariance, weight, reduction="none")[1], 2 * slope)


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (0, 5, 3, 3), (2, 5, 0, 3), (7, 5), (0, 5)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_valid_pixel_is_exactly_zero(shape, reduction):
    mean, covariance = statistics(4, 5, "diag")
    labels = torch.full((shape[0], *shape[2:]), 255, dtype=torch.uint8)
    loss, slope = run(torch.randn(shape), labels, mean, covariance, normalize=True, reduction=reduction)
    assert loss.item() == 0 and slope.shape == shape and (slope == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_zero_features_and_empty_classes(dtype):
    """A pixel of length 0 and a class that was never seen (zeros) give no NaN under normalisation."""
    mean, covariance = statistics(4, 5, "diag")
    mean[1], covariance[1] = 0, 0
    features = torch.randn(3, 5).to(dtype)
    features[1] = 0
    labels = torch.tensor([0, 1, 1], dtype=torch.uint8)
    loss, slope = run(features, labels, mean, covariance, normalize=True, reduction="none")
    assert loss.isfinite().all() and slope.isfinite().all()
    torch.testing.assert_close(loss[1], torch.tensor(4.0).log())
    assert (slope[1] == 0).all() and (slope[0] != 0).any() and (slope[2] != 0).any()


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 19, 67]),
    height=st.integers(1, 7),
    width=st.integers(1, 11),
    classes=st.sampled_from([1, 2, 13, 150]),
    kind=st.sampled_from(KINDS),
    normalize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_agrees_with_the_definition(images, channels, height, width, classes, kind, normalize, seed):
    features, labels = pixels((images, channels, height, width), classes, seed, torch.float64)
    mean, covariance = statistics(classes, channels, kind, seed, torch.float64)
    loss, slope = run(features, labels, mean, covariance, normalize=normalize, temperature=2.0, reduction="sum")
    q = rows(features).requires_grad_()
    defined = reference.contrastive_bound(q, labels.flatten(), mean, covariance, 2.0, normalize).sum()
    expected = defined.detach(), torch.autograd.grad(defined, q)[0]
    torch.testing.assert_close((loss, rows(slope)), expected, rtol=1e-9, atol=1e-11)


def test_large_logits_do_not_overflow_and_statistics_get_no_gradient():
    mean, covariance = (s.requires_grad_() for s in statistics(4, 5, "full"))
    q, labels = pixels((20, 5), 4, ignored=0.0)
    q = (100 * q).requires_grad_()
    contrastive_bound(q, labels, mean, covariance, temperature=0.1).backward()
    _, exact = run(q.double(), labels, mean, covariance, temperature=0.1)
    assert relative(q.grad, exact) < 1e-5
    assert mean.grad is None and covariance.grad is None


def test_autocast_changes_nothing():
    features, labels = pixels((2, 32, 4, 6), 4)
    mean, covariance = statistics(4, 32, "full")
    expected = run(features, labels, mean, covariance, temperature=3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, slope = run(features, labels, mean, covariance, temperature=3.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected[0]) and torch.equal(slope, expected[1])


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (24, 5)])
def test_compile_fullgraph(shape):
    features, labels = pixels(shape, 4)
    labels = labels.where(labels >= 0, 255).to(torch.uint8)
    mean, covariance = statistics(4, 5, "diag")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(q):
        return contrastive_bound(q, labels, mean, covariance, normalize=True) * 3

    q = features.clone().requires_grad_()
    step(q).backward()
    _, slope = run(features, labels, mean, covariance, torch.tensor(3.0), normalize=True)
    torch.testing.assert_close(q.grad, slope)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_opcheck(kind, dtype):
    features, labels = pixels((2, 5, 3, 4), 4, dtype=dtype)
    features = features.contiguous(memory_format=torch.channels_last)
    mean, covariance = statistics(4, 5, kind)
    options = (2.0, True, 255)
    torch.library.opcheck(
        torch.ops.fastuda.contrastive_bound_forward.default, (features, labels, mean, covariance, *options)
    )
    loss, posterior = torch.ops.fastuda.contrastive_bound_forward(features, labels, mean, covariance, *options)
    arguments = (torch.ones_like(loss), features, labels, mean, covariance, posterior, *options)
    torch.library.opcheck(torch.ops.fastuda.contrastive_bound_backward.default, arguments)


def test_memory_beyond_the_gradient_is_a_few_chunks():
    """Forward and backward at A = 2048 allocate the gradient and small buffers, whatever the number of pixels."""
    features, labels = pixels((1, 2048, 24, 160), 19)
    mean, covariance = torch.randn(19, 2048), torch.rand(19, 2048)
    largest, known = 0, {features.untyped_storage().data_ptr()}

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if function is torch.ops.aten.empty_like.default:
                    known.add(t.untyped_storage().data_ptr())
                elif t.untyped_storage().data_ptr() not in known:
                    largest = max(largest, t.untyped_storage().nbytes())
            return result

    with Largest():
        _, posterior = reference.forward(features, labels, mean, covariance, 100.0, True, 255)
        grad = torch.ones(labels.shape)
        reference.backward(grad, features, labels, mean, covariance, posterior, 100.0, True, 255)
    chunk = 4 * reference.CHUNK_ELEMENTS
    assert features.nbytes > 3 * chunk  # or the test could not fail
    assert largest <= chunk


BAD = {
    "features must be float32": {"features": torch.zeros(6, 5, dtype=torch.int32)},
    "labels must be uint8": {"labels": torch.zeros(6)},
    "labels must have shape": {"labels": torch.zeros(7, dtype=torch.uint8)},
    r"\(N, A, H, W\) or \(P, A\)": {"features": torch.zeros(6, 5, 1)},
    r"mean must be \(K, 5\)": {"mean": torch.zeros(4, 6)},
    "mean must be float32 or float64": {"mean": torch.zeros(4, 5, dtype=torch.float16)},
    "covariance must be": {"covariance": torch.zeros(4, 5, 6)},
    "covariance must be float32 or float64": {"covariance": torch.zeros(4, 5, dtype=torch.bfloat16)},
    "covariance is on meta": {"covariance": torch.zeros(4, 5, device="meta")},
    "temperature must be positive": {"temperature": 0.0},
    "reduction must be": {"reduction": "average"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    arguments = {"features": torch.zeros(6, 5), "labels": torch.zeros(6, dtype=torch.uint8), "mean": torch.zeros(4, 5)}
    arguments |= {"covariance": torch.zeros(4, 5)} | BAD[message]
    with pytest.raises(ValueError, match=message):
        contrastive_bound(**arguments)
