"""The contrastive bound: against the paper's formula, its own autograd, and the contract of every operator."""

import numpy as np
import pytest
import torch
from close import assert_as_accurate
from contract import LOSS_SCALE, PixelContract, rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.reference import _pixels
from fastuda.reference import contrastive_bound as reference
from fastuda.reference.low_rank import LowRank

KINDS = (None, "diag", "full", "low_rank")


def statistics(classes: int, channels: int, kind: str | None, seed: int = 0, dtype=torch.float32, device="cpu"):
    """Mean and covariance of each class, as scattered as random numbers and yet plain arithmetic, for torch.compile."""

    def numbers(*shape: int) -> Tensor:
        n = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float64)
        return torch.sin(0.7 * n * n + len(shape) + seed).view(shape) * 2**0.5

    mean = numbers(classes, channels).to(device, dtype)
    if kind is None:
        return mean, None
    diag = numbers(1, classes, channels)[0].square().to(device)
    if kind == "diag":
        return mean, diag.to(dtype)
    if kind == "low_rank":
        return mean, LowRank(diag.to(dtype) / 2, (numbers(classes, channels, 3) / 2).to(device, dtype))
    root = numbers(classes, channels, channels)
    return mean, (root @ root.mT / channels).to(device, dtype)


def dense(covariance: Tensor | LowRank | None, like: Tensor) -> Tensor:
    """The (K, A, A) matrices that a covariance stands for, in float64."""
    if covariance is None:
        return torch.zeros(*like.shape, like.shape[1], dtype=torch.float64)
    if isinstance(covariance, LowRank):
        factors = covariance.factors.double()
        return torch.diag_embed(covariance.diag.double()) + factors @ factors.mT
    return (torch.diag_embed(covariance) if covariance.dim() == 2 else covariance).double()


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


def paper(
    features: Tensor, labels: Tensor, mean: Tensor, covariance: Tensor | LowRank | None, tau: float, normalize: bool
):
    """SDCA Eq. 12-14 pixel by pixel in float64 NumPy: loss (P,) and its gradient by q."""
    covariance = dense(covariance, mean).numpy()
    features, labels, mean = features.double().numpy(), labels.numpy(), mean.double().numpy()
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


@pytest.mark.parametrize("normalize", [False, True])
def test_low_rank_is_the_full_form_of_the_matrix_it_stands_for(normalize):
    features, labels = pixels((1, 6, 4, 4), 3, dtype=torch.float64)
    mean, covariance = statistics(3, 6, "low_rank", dtype=torch.float64)
    form = [covariance, dense(covariance, mean)]
    results = [run(features, labels, mean, c, temperature=0.5, normalize=normalize) for c in form]
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)
    no_factors = LowRank(covariance.diag, covariance.factors[:, :, :0])
    form = [no_factors, covariance.diag]
    results = [run(features, labels, mean, c, temperature=0.5, normalize=normalize) for c in form]
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_change_the_result(kind, monkeypatch):
    features, labels = pixels((3, 5, 7, 4), 4, dtype=torch.float64)
    mean, covariance = statistics(4, 5, kind, dtype=torch.float64)
    whole = run(features, labels, mean, covariance, normalize=True)
    for elements in (1, 45, 5 * 4 * 7 * 2):
        monkeypatch.setattr(_pixels, "CHUNK_ELEMENTS", elements)
        parts = run(features, labels, mean, covariance, normalize=True)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)


def test_gradient_has_the_strides_of_the_features():
    features, labels = pixels((2, 5, 4, 6), 4)
    mean, covariance = statistics(4, 5, "diag")
    _, slope = run(features.contiguous(memory_format=torch.channels_last), labels, mean, covariance)
    assert slope.is_contiguous(memory_format=torch.channels_last)
    assert run(features, labels, mean, covariance)[1].is_contiguous()
    assert run(rows(features), labels.reshape(-1), mean, covariance)[1].is_contiguous()


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


def test_large_logits_do_not_overflow_and_statistics_get_no_gradient():
    mean, covariance = (s.requires_grad_() for s in statistics(4, 5, "full"))
    low_rank = LowRank(*(s.requires_grad_() for s in statistics(4, 5, "low_rank")[1][:2]))
    q, labels = pixels((20, 5), 4, ignored=0.0)
    q = (100 * q).requires_grad_()
    contrastive_bound(q, labels, mean, covariance, temperature=0.1).backward()
    _, exact = run(q.double(), labels, mean, covariance, temperature=0.1)
    assert relative(q.grad, exact) < 1e-5
    contrastive_bound(q, labels, mean, low_rank).backward()
    assert all(s.grad is None for s in (mean, covariance, *low_rank[:2]))


FORMS = {  # covariance, temperature, normalize
    "diag": ("diag", 10.0, True),
    "none": (None, 100.0, False),
    "none, unit": (None, 1.0, True),
    "diag, raw": ("diag", 10.0, False),
    "full": ("full", 3.0, True),
    "full, raw": ("full", 10.0, False),
    "low_rank": ("low_rank", 2.0, True),
    "low_rank, raw": ("low_rank", 10.0, False),
}


class TestContract(PixelContract):
    compiled = ("contrastive_bound_forward", "contrastive_bound_backward")
    settings = tuple(FORMS)
    loss = "loss"

    @staticmethod
    def arguments(features, classes, form, ignore_index):
        kind, temperature, normalize = FORMS[form]
        mean, covariance = statistics(classes, features.shape[1], kind, device=features.device)
        # With one channel a unit feature has no gradient at all, only roundings.
        return mean, covariance, temperature, normalize and features.shape[1] > 1, ignore_index

    def operator(self, features, labels, classes, form, ignore_index=255):
        mean, covariance, *options = self.arguments(features, classes, form, ignore_index)
        options = dict(zip(("temperature", "normalize", "ignore_index"), options, strict=True))
        each = contrastive_bound(features, labels, mean, covariance, reduction="none", **options)
        assert each.shape == labels.shape
        return {"loss": contrastive_bound(features, labels, mean, covariance, **options), "pixels": each.reshape(-1)}

    def reference(self, features, labels, classes, form, ignore_index=255):
        arguments = self.arguments(features, classes, form, ignore_index)
        each = reference.contrastive_bound(rows(features), labels.reshape(-1), *arguments)
        count = reference.usable(labels, classes, ignore_index)[0].sum().clamp(min=1)
        return {"loss": each.sum() / count, "pixels": each}

    def raw(self, features, labels, classes, form):
        mean, covariance, *options = self.arguments(features, classes, form, 255)
        if features.dim() == 2:
            features, labels = features.T[None, :, :, None], labels[None, :, None]
        low_rank = isinstance(covariance, LowRank)
        name = "contrastive_bound_low_rank" if low_rank else "contrastive_bound"
        forward, backward = (getattr(torch.ops.fastuda, f"{name}_{end}").default for end in ("forward", "backward"))
        inputs = (features, labels, mean, *(covariance[:2] if low_rank else (covariance,)))
        loss, posterior = forward(*inputs, *options)
        return [(forward, (*inputs, *options)), (backward, (torch.ones_like(loss), *inputs, posterior, *options))]


@pytest.mark.parametrize("kind", ["diag", "low_rank"])
def test_memory_beyond_the_gradient_is_a_few_chunks(kind):
    """Forward and backward at A = 2048 allocate the gradient and small buffers, whatever the number of pixels."""
    features, labels = pixels((1, 2048, 24, 160), 19)
    mean, covariance = statistics(19, 2048, kind)
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
    chunk = 4 * _pixels.CHUNK_ELEMENTS
    assert features.nbytes > 3 * chunk  # or the test could not fail
    assert largest <= chunk


BAD = {
    "features must have at least one channel": {"features": torch.zeros(6, 0), "mean": torch.zeros(4, 0)},
    r"mean must be \(K, 5\)": {"mean": torch.zeros(4, 6)},
    "mean must be float32 or float64": {"mean": torch.zeros(4, 5, dtype=torch.float16)},
    "covariance must be": {"covariance": torch.zeros(4, 5, 6)},
    "covariance must be float32 or float64": {"covariance": torch.zeros(4, 5, dtype=torch.bfloat16)},
    "covariance is on meta": {"covariance": torch.zeros(4, 5, device="meta")},
    r"covariance.diag must be \(4, 5\)": {"covariance": LowRank(torch.zeros(4, 6), torch.zeros(4, 5, 2))},
    r"covariance.factors must be \(4, 5, r\)": {"covariance": LowRank(torch.zeros(4, 5), torch.zeros(4, 6, 2))},
    "covariance.factors must be float32": {"covariance": LowRank(torch.zeros(4, 5), torch.zeros(4, 5, 2).half())},
    "covariance.diag is on meta": {"covariance": LowRank(torch.zeros(4, 5, device="meta"), torch.zeros(4, 5, 2))},
    "temperature must be positive": {"temperature": 0.0},
    "reduction must be": {"reduction": "average"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    arguments = {"features": torch.zeros(6, 5), "labels": torch.zeros(6, dtype=torch.uint8), "mean": torch.zeros(4, 5)}
    arguments |= {"covariance": torch.zeros(4, 5)} | BAD[message]
    with pytest.raises(ValueError, match=message):
        contrastive_bound(**arguments)
