"""upsample_cross_entropy: against torch's two steps, its own autograd, and the contract of dense labels."""

import instruction_sets
import pytest
import torch
import torch.nn.functional as F
from close import assert_as_accurate
from dense import DenseContract, lay_out, make

from fastuda.ops import upsample_cross_entropy
from fastuda.reference import upsample_cross_entropy as reference
from fastuda.reference._upsample import taps

# Class weights, pixel weights, label smoothing, reduction.
FORMS = {
    "plain": (False, False, 0.0, "mean"),
    "weighted": (True, True, 0.0, "mean"),
    "smooth": (True, False, 0.1, "mean"),
    "map": (False, True, 0.2, "none"),
}


def class_weights(classes: int, device="cpu") -> torch.Tensor:
    return (0.3 + torch.sin(1.0 + torch.arange(classes)).square()).to(device)


def pixel_weights(labels: torch.Tensor) -> torch.Tensor:
    return (torch.arange(labels.numel(), dtype=torch.float64, device=labels.device).view(labels.shape) * 0.618) % 1


class TestContract(DenseContract):
    settings = tuple(FORMS)
    loss = "loss"
    compiled = ("upsample_cross_entropy",)

    @staticmethod
    def options(scores, labels, form):
        weighted, scaled, smoothing, reduction = FORMS[form]
        weight = class_weights(scores.shape[1], scores.device) if weighted else None
        return weight, pixel_weights(labels) if scaled else None, smoothing, reduction

    def operator(self, scores, labels, form, *, align_corners=True, ignore_index=255):
        weight, pixel_weight, smoothing, reduction = self.options(scores, labels, form)
        loss = upsample_cross_entropy(
            scores,
            labels,
            align_corners=align_corners,
            ignore_index=ignore_index,
            weight=weight,
            pixel_weight=pixel_weight,
            label_smoothing=smoothing,
            reduction=reduction,
        )
        if reduction != "none":
            return {"loss": loss}
        return {"map": loss, "loss": (loss * pixel_weights(labels).to(loss.dtype)).sum() / max(1, loss.numel())}

    def reference(self, scores, labels, form, *, align_corners=True, ignore_index=255):
        weight, pixel_weight, smoothing, reduction = self.options(scores, labels, form)
        arguments = weight, pixel_weight, align_corners, ignore_index, smoothing
        loss, share = reference.upsample_cross_entropy(scores, labels, *arguments)
        if reduction == "none":
            return {"map": loss, "loss": (loss * pixel_weights(labels).to(loss.dtype)).sum() / max(1, loss.numel())}
        total = share.sum()
        return {"loss": loss.sum() / total.where(total > 0, 1.0)}

    def raw(self, scores, labels, form):
        weight, pixel_weight, smoothing, reduction = self.options(scores, labels, form)
        arguments = scores, labels, weight, pixel_weight, True, 255, smoothing, reduction == "none", True
        return [(torch.ops.fastuda.upsample_cross_entropy.default, arguments)]


def two_steps(logits, labels, align_corners, reduction="mean", **options):
    """torch's interpolate and cross_entropy; ignored pixels marked for it."""
    valid = (labels >= 0) & (labels < logits.shape[1]) & (labels != 255)
    up = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=align_corners)
    target = labels.long().where(valid, -100)
    return F.cross_entropy(up, target, ignore_index=-100, reduction=reduction, **options)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape, size", [((2, 5, 5, 7), (33, 50)), ((1, 19, 6, 6), (3, 4)), ((2, 4, 9, 8), (9, 8))])
def test_is_torchs_two_steps(shape, size, align_corners):
    logits, labels = make(shape, size, torch.float64)
    logits.requires_grad_()
    weight = class_weights(shape[1]).double()
    for options in ({}, {"weight": weight}, {"weight": weight, "label_smoothing": 0.3}):
        for reduction in ("mean", "sum", "none"):
            ours = upsample_cross_entropy(logits, labels, align_corners=align_corners, reduction=reduction, **options)
            expected = two_steps(logits, labels, align_corners, reduction, **options)
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
            grad = torch.rand_like(ours)
            slopes = (torch.autograd.grad(loss, logits, grad)[0] for loss in (ours, expected))
            torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    logits, labels = make((1, 3, 3, 4), (7, 5), torch.float64)
    for reduction in ("mean", "none"):
        options = {"reduction": reduction, "label_smoothing": 0.1, "pixel_weight": pixel_weights(labels)}
        assert torch.autograd.gradcheck(
            lambda x, options=options: upsample_cross_entropy(x, labels, **options), logits.requires_grad_()
        )


def test_taps_are_exact_where_float32_is_not():
    """Output position 2k lies on source position k at 2 s - 1 positions; torch's float32 scale misses some of them."""
    for source in (3, 90, 160, 181):
        lower, _, weight = taps(2 * source - 1, source, True, torch.device("cpu"))
        assert not weight[::2].any() and torch.equal(lower[::2], torch.arange(source))
    logits = torch.randn(1, 2, 4, 181, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 4, 361, dtype=torch.uint8)
    losses = upsample_cross_entropy(logits, labels, reduction="none")
    expected = -logits.double().log_softmax(1)[:, 0].float()
    torch.testing.assert_close(losses[:, :, ::2], expected, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("unit", [1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_spread_of_logits_is_safe(dtype, unit):
    """A sum of exponentials that under- or overflows without the largest logit taken out, by a little and by far."""
    logits = unit * torch.tensor([[100.0, 0.0], [-100.0, 300.0], [0.0, -200.0]], dtype=dtype).T.reshape(1, 2, 1, 3)
    labels = torch.tensor([[[1, 0, 1]]])
    ours = upsample_cross_entropy(logits.requires_grad_(), labels, reduction="none")
    torch.testing.assert_close(ours, unit * torch.tensor([[[100.0, 400.0, 200.0]]], dtype=dtype), rtol=2e-7, atol=0)
    (slope,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(slope[0, :, 0], torch.tensor([[1.0, -1, 1], [-1, 1, -1]], dtype=dtype))


def test_the_mean_is_over_the_labels_that_count():
    logits, labels = make((2, 4, 5, 6), (15, 16))
    valid = (labels >= 0) & (labels < 4)
    each = upsample_cross_entropy(logits, labels, reduction="none")
    assert not each[~valid].any() and (each[valid] > 0).all()
    torch.testing.assert_close(upsample_cross_entropy(logits, labels), each[valid].mean())
    total = upsample_cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(total, each.sum())
    weight = torch.tensor([0.0, 0.0, 0.0, 2.0])
    only = upsample_cross_entropy(logits, labels, weight=weight)
    torch.testing.assert_close(only, each[labels == 3].mean())
    none = upsample_cross_entropy(logits, labels.clamp(0, 2), weight=weight)
    assert none == 0, "labels of no weight: the divisor is 0"


def test_at_another_size():
    logits, labels = make((1, 3, 8, 8), (20, 30))
    small = F.interpolate(labels[None].double(), size=(10, 15), mode="nearest")[0].long()
    expected = upsample_cross_entropy(logits, small)
    assert torch.equal(upsample_cross_entropy(logits, labels, size=(10, 15)), expected)


def test_half_precision_is_upsampled_in_float32():
    logits, labels = make((1, 6, 5, 5), (40, 40), torch.float16)
    exact = upsample_cross_entropy(logits.double(), labels)
    ours = upsample_cross_entropy(logits, labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)


BAD = {
    r"target must be \(1, H, W\)": {"target": torch.zeros(2, 5, 5, dtype=torch.uint8)},
    "size must be": {"size": (0, 4)},
    r"weight must be float32 or float64 of shape \(4,\)": {"weight": torch.ones(3)},
    r"pixel_weight must be float32 or float64 of shape \(1, 5, 5\)": {"pixel_weight": torch.ones(1, 5, 6)},
    "pixel_weight is on meta": {"pixel_weight": torch.ones(1, 5, 5, device="meta")},
    "weight must be float32 or float64 of": {"weight": torch.ones(4, dtype=torch.float16)},
    "label_smoothing must be between": {"label_smoothing": 1.5},
    "reduction must be": {"reduction": "average"},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    arguments = {"logits": torch.zeros(1, 4, 3, 3), "target": torch.zeros(1, 5, 5, dtype=torch.uint8)} | change
    with pytest.raises(ValueError, match=message):
        upsample_cross_entropy(**arguments)


# --- the C++ kernel: what bands, chunks, tiles and vectors could get wrong beyond the formula ---

FORWARD = torch.ops.fastuda.upsample_cross_entropy


@pytest.fixture
def poisoned_memory(compiled):
    """Compiled kernels, and NaN in every new tensor, so that anything left unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def compare(logits, labels, align_corners=True, form="weighted", eps=2e-6):
    weight, scale, smoothing, _ = TestContract.options(logits, labels, form)
    options = weight, scale, align_corners, 255, smoothing, True, True
    ours, plain = (call(logits, labels, *options) for call in (FORWARD, reference.forward))
    truth = reference.forward(logits.double(), labels, *options)
    for name, mine, other, exact in zip(("total", "map", "gradient"), ours, plain, truth, strict=True):
        assert_as_accurate(mine, other, exact, eps, name)


# Chunks of 32 to 64 rows, or parts of one long band; tiles of 16 and 32 columns; more than 16 nodes below a vector.
EDGES = [
    ((1, 3, 2, 3), (31, 15)), ((1, 17, 1, 2), (200, 16)), ((2, 16, 3, 33), (64, 33)), ((1, 5, 40, 17), (65, 31)),
    ((1, 2, 70, 18), (140, 47)), ((1, 19, 4, 5), (257, 65)), ((1, 33, 50, 64), (13, 20)), ((1, 18, 18, 120), (19, 17)),
]  # fmt: skip


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape, size", EDGES)
def test_edges_of_bands_chunks_and_tiles(shape, size, align_corners, poisoned_memory):
    for dtype, layout in ((torch.float32, "nchw"), (torch.bfloat16, "channels_last"), (torch.float16, "transposed")):
        logits, labels = make(shape, size, dtype)
        for form in ("plain", "weighted", "map"):
            compare(lay_out(logits, layout), labels, align_corners, form)
    compare(*make(shape, size, torch.float64), align_corners, "map", eps=1e-13)


def test_weights_of_any_strides_and_dtype(compiled):
    logits, labels = make((2, 7, 5, 6), (33, 35))
    weight, scale = class_weights(7), pixel_weights(labels).float()
    expected = FORWARD(logits, labels, weight, scale, True, 255, 0.1, True, True)
    strided = torch.stack([weight.double()] * 2, 1)[:, 0], scale.mT.contiguous().mT.double()
    for a, b in zip(FORWARD(logits, labels, *strided, True, 255, 0.1, True, True), expected, strict=True):
        assert torch.equal(a, b)
    even = torch.full((), 0.5).expand(labels.shape)
    for a, b in zip(
        FORWARD(logits, labels, None, even, True, 255, 0.0, True, True),
        FORWARD(logits, labels, None, even.contiguous(), True, 255, 0.0, True, True),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets.ISAS)
def test_each_instruction_set(isa, compiled):
    instruction_sets.assert_passes(isa, "edges or spread or strides or ignored_scores", __file__)
