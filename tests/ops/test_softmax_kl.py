"""Divergences between softmaxes: the contract on pixels, both gradients, extremes, torch's kl_div."""

import pytest
import torch
from close import assert_as_accurate
from contract import PixelContract, lay_out, make
from torch.nn import functional as F

from fastuda.ops import distillation_kl, symmetric_kl
from fastuda.reference._pixels import usable
from fastuda.reference.softmax_kl import softmax_kl as formula

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
EPS = 16 * torch.finfo(torch.float32).eps


def partner(features: torch.Tensor) -> torch.Tensor:
    """The other logits for some features, in every dtype exact; of another layout for odd numbers of classes."""
    values = (torch.arange(features.numel()) * 7919 % 193 - 96).view(features.shape) / 8
    if features.dim() == 4 and features.shape[1] % 2:
        values = values.contiguous(memory_format=torch.channels_last)
    return values.to(features)


class TestContract(PixelContract):
    """The pixels that count are those with a valid label. settings: symmetric, or the temperature of a teacher."""

    settings = ("symmetric", 1.0, 2.5)
    loss = "loss"
    compiled = ("softmax_kl_forward", "softmax_kl_backward")
    same_bits_for_threads = True

    def operator(self, features, labels, classes, setting, ignore_index=255):
        mask, other = usable(labels, classes, ignore_index)[0], partner(features)
        if setting == "symmetric":
            return {way: symmetric_kl(features, other, mask=mask, reduction=way) for way in ("none", "mean", "sum")} | {
                "loss": symmetric_kl(features, other, mask=mask)
            }
        return {
            "none": distillation_kl(features, other, temperature=setting, mask=mask, reduction="none"),
            "loss": distillation_kl(features, other, temperature=setting, mask=mask),
        }

    def reference(self, features, labels, classes, setting, ignore_index=255):
        mask = usable(labels, classes, ignore_index)[0]
        symmetric = setting == "symmetric"
        losses = formula(features, partner(features), mask, 1.0 if symmetric else setting, symmetric)
        mean = losses.sum() / mask.sum().clamp(min=1)
        return {"none": losses, "loss": mean} | ({"mean": mean, "sum": losses.sum()} if symmetric else {})

    def raw(self, features, labels, classes, setting):
        mask, other = usable(labels, classes, 255)[0], partner(features)
        symmetric = setting == "symmetric"
        options = features, other, mask, 1.0 if symmetric else setting, symmetric
        ops = torch.ops.fastuda
        grad = torch.rand(mask.shape, dtype=torch.float64 if features.dtype == torch.float64 else torch.float32)
        return [(ops.softmax_kl_forward.default, options), (ops.softmax_kl_backward.default, (grad, *options))]

    test_bad_pixels_are_named = None  # labels are not an argument: see below


def slopes(call, *inputs: torch.Tensor, **options) -> tuple[torch.Tensor, ...]:
    """Losses of the pixels and the gradients of a weighted sum of them."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    loss = call(*inputs, **options)
    weight = torch.rand(loss.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return loss.detach(), *torch.autograd.grad((loss * weight.to(loss.dtype)).sum(), inputs)


def ours(first, second, mask=None):
    return symmetric_kl(first, second, mask=mask, reduction="none")


def compare(first, second, mask=None, eps=EPS):
    """A gradient is a probability, right to some last places of 1, times a gap between logits, which may be 20."""
    names = "loss", "first gradient", "second gradient"
    truth = slopes(formula, first.double(), second.double(), mask=mask)
    plain = slopes(formula, first, second, mask=mask)
    for name, a, b, c in zip(names, slopes(ours, first, second, mask=mask), plain, truth, strict=True):
        scale = c.abs().max().clamp(min=1e-30).item() if c.numel() else 1.0
        assert_as_accurate(a, b, c, eps if name == "loss" else eps * max(2.0, 1 / scale), name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows", "inside_nan", "transposed"])
def test_both_gradients(layout, dtype):
    first, labels = lay_out(*make((2, 19, 13, 17), 4, dtype), layout)
    second, _ = lay_out(*make((2, 19, 13, 17), 4, dtype, seed=1), layout)
    compare(first, second, usable(labels, 4, 255)[0])
    compare(first, second)
    for a, b in zip(slopes(ours, first, second)[1:], (first, second), strict=True):
        assert a.dtype == b.dtype and a.stride() == torch.empty_like(b).stride()


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows"])
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 33, 150])
def test_every_number_of_classes_and_pixels(classes, layout):
    for height, width in ((1, 1), (3, 5), (4, 4), (1, 17), (8, 4), (3, 11), (16, 16), (1, 257)):
        first, _ = lay_out(*make((1, classes, height, width), 3), layout)
        second, _ = lay_out(*make((1, classes, height, width), 3, seed=1), layout)
        compare(first, second)


def test_torchs_kl_div():
    first, second = 3 * torch.randn(2, 40, 7, dtype=torch.float64)
    log_p, log_q = first.log_softmax(1), second.log_softmax(1)
    forth = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    back = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(ours(first, second), forth + back)
    torch.testing.assert_close(distillation_kl(first, second, reduction="none"), back)
    warm = F.kl_div((first / 3).log_softmax(1), (second / 3).softmax(1), reduction="batchmean") * 9
    torch.testing.assert_close(distillation_kl(first, second, temperature=3), warm)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_any_size_of_logits(scale, shift):
    first, second = (scale * (shift + make((1, 19, 9, 11), 4, seed=seed)[0]) for seed in (0, 1))
    compare(first, second)
    loss = ours(first, second)
    assert loss.isfinite().all() and (loss >= 0).all()


@pytest.mark.parametrize("apart", [1e-1, 1e-3])
def test_nearly_the_same_logits(apart):
    """The loss is of the square of the distance: the rounding of either softmax must not show."""
    first = make((1, 19, 20, 20), 4)[0]
    second = first + apart * torch.randn(first.shape, generator=torch.Generator().manual_seed(2))
    compare(first, second)


def test_the_same_logits_are_exactly_zero():
    first = make((1, 19, 5, 7), 4)[0]
    for value in slopes(ours, first, first.clone()):
        assert not value.any()
    assert not distillation_kl(first, first.clone(), temperature=4.0, reduction="none").any()


def test_pixels_that_do_not_count_may_be_anything():
    for layout in ("nchw", "channels_last"):
        first, labels = lay_out(*make((2, 19, 9, 8), 4), layout)
        second, _ = lay_out(*make((2, 19, 9, 8), 4, seed=1), layout)
        for mask in (usable(labels, 4, 255)[0], torch.zeros_like(labels, dtype=torch.bool)):
            clean = slopes(ours, first, second, mask=mask)
            for value in (torch.nan, torch.inf):
                dirty = (x.masked_fill(~mask.unsqueeze(1), value) for x in (first, second))
                for a, b in zip(slopes(ours, *dirty, mask=mask), clean, strict=True):
                    assert torch.equal(a, b)
        assert symmetric_kl(first, second, mask=mask).item() == 0
    assert symmetric_kl(first[:0], second[:0]).item() == 0


def test_masks_of_any_strides():
    first, labels = make((3, 5, 9, 8), 4)
    second, mask = partner(first), usable(labels, 4, 255)[0]
    inside = torch.ones(3, 11, 20, dtype=torch.bool)[:, 1:-1, 2:18:2].copy_(mask)
    for view in (mask.mT.contiguous().mT, inside):
        assert torch.equal(symmetric_kl(first, second, mask=view), symmetric_kl(first, second, mask=mask))
    one = mask[:1].expand(3, -1, -1)
    assert torch.equal(ours(first, second, one), ours(first, second, one.contiguous()))


def test_only_the_student_learns():
    student, teacher = (make((1, 5, 4, 3), 3, seed=seed)[0].requires_grad_() for seed in (0, 1))
    distillation_kl(student, teacher, temperature=2.0).backward()
    assert student.grad.any() and teacher.grad is None
    first, second = (x.detach().requires_grad_() for x in (student, teacher))
    symmetric_kl(first, second.detach()).backward()
    assert first.grad.any() and second.grad is None


def test_the_incoming_gradient_comes_before_the_rounding():
    first, second = (make((1, 19, 9, 8), 4, torch.float16, seed=seed)[0].requires_grad_() for seed in (0, 1))
    small = torch.autograd.grad(symmetric_kl(first, second, reduction="sum") * 1e-6, first)[0]
    large = torch.autograd.grad(symmetric_kl(first, second, reduction="sum") * 1e-6 * 2**16, first)[0]
    assert (large.double() / 2**16 - small.double()).abs().max() < 2**-24


@pytest.mark.parametrize(
    "message, change",
    {
        "logits and other must both be float32": {"logits": torch.zeros(2, 3, dtype=torch.int64)},
        "got torch.float32 and torch.float16": {"other": torch.zeros(2, 3, dtype=torch.float16)},
        r"shapes \(2, 3\) and \(2, 4\)": {"other": torch.zeros(2, 4)},
        r"must both be \(N, K, h, w\) or \(P, K\)": {"logits": torch.zeros(2, 3, 1), "other": torch.zeros(2, 3, 1)},
        "with K >= 1": {"logits": torch.zeros(2, 0), "other": torch.zeros(2, 0)},
        "other is on meta but logits is on cpu": {"other": torch.zeros(2, 3, device="meta")},
        r"mask must be bool of shape \(2,\), got torch.uint8": {"mask": torch.zeros(2, dtype=torch.uint8)},
        r"mask must be bool of shape \(2,\)": {"mask": torch.zeros(3, dtype=torch.bool)},
        "mask is on meta": {"mask": torch.zeros(2, dtype=torch.bool, device="meta")},
        "reduction must be": {"reduction": "max"},
    }.items(),
)
def test_bad_input_is_named(message, change):
    arguments = {"logits": torch.zeros(2, 3), "other": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=message):
        symmetric_kl(**(arguments | change))


def test_bad_temperatures_are_named():
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            distillation_kl(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)
    with pytest.raises(ValueError, match="student and teacher must both be"):
        distillation_kl(torch.zeros(2, 3), torch.zeros(2, 4))
