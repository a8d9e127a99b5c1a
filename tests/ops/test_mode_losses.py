"""mode_losses: against the paper's formula, its own autograd, and the contract of every operator."""

import math

import numpy as np
import pytest
import torch
from contract import LOSS_SCALE, PixelContract, make, rows

from fastuda.ops import mode_losses
from fastuda.reference import mode_losses as reference
from fastuda.reference._pixels import usable

# sigma2, margin, square
FORMS = {"plain": (0.5, 1.0, False), "square": (2.0, 0.25, True)}


def centres(classes: int, channels: int, modes: int = 3, device="cpu", dtype=torch.float32) -> torch.Tensor:
    """Modes near the classes of ``contract.make``, scaled so that no posterior is always 0 or 1."""
    n = torch.arange(1, 1 + classes * modes * channels, dtype=torch.float64, device=device)
    return (3 * torch.sin(0.7 * n * n)).view(classes, modes, channels).to(dtype)


def scale(channels: int) -> float:
    """A power of two: dividing by it rounds nothing."""
    return 2.0 ** -round(math.log2(2 * channels**0.5))


def small(features: torch.Tensor) -> torch.Tensor:
    return features * scale(features.shape[1]) if features.is_floating_point() else features


class TestContract(PixelContract):
    settings = tuple(FORMS)
    loss = "loss"
    features_name = "embeddings"

    @staticmethod
    def arguments(features, classes, form):
        modes = scale(features.shape[1]) * centres(classes, features.shape[1], device=features.device)
        return modes, *FORMS[form]

    def operator(self, features, labels, classes, form, ignore_index=255):
        modes, sigma2, margin, square = self.arguments(features, classes, form)
        options = {"sigma2": sigma2, "margin": margin, "square": square, "ignore_index": ignore_index}
        each = mode_losses(small(features), labels, modes, reduction="none", **options)
        assert each.triplet.shape == each.own_mode.shape == labels.shape
        mean = mode_losses(small(features), labels, modes, **options)
        out = {"loss": mean.triplet + mean.cross_entropy}
        return out | {name: value.reshape(-1) for name, value in each._asdict().items()}

    def reference(self, features, labels, classes, form, ignore_index=255):
        arguments = self.arguments(features, classes, form)
        each = reference.mode_losses(rows(small(features)), labels.reshape(-1), *arguments, ignore_index)
        count = usable(labels, classes, ignore_index)[0].sum().clamp(min=1)
        out = {"loss": (each[0].sum() + each[1].sum()) / count}
        return out | dict(zip(("triplet", "cross_entropy", "own_mode", "rival_class"), each, strict=True))

    def raw(self, features, labels, classes, form):
        modes, *options = self.arguments(features, classes, form)
        if features.dim() == 2:
            features, labels = features.T[None, :, :, None], labels[None, :, None]
        forward, backward = (
            getattr(torch.ops.fastuda, f"mode_losses_{end}").default for end in ("forward", "backward")
        )
        inputs = small(features), labels, modes
        triplet, cross_entropy, *saved = forward(*inputs, *options, 255)
        grads = torch.ones_like(triplet), torch.ones_like(cross_entropy)
        return [(forward, (*inputs, *options, 255)), (backward, (*grads, *inputs, triplet, *saved, 255))]

    def test_no_valid_pixel_is_zero_and_a_class_may_be_missing(self):
        features, labels = make((1, 8, 5, 6), 3)
        for setting in self.settings:
            out = self.check(features, torch.full_like(labels, 255), 3, setting)
            assert not any(out[name].any() for name in ("loss", "triplet", "cross_entropy", "gradient"))
            assert (out["own_mode"] == -1).all() and (out["rival_class"] == -1).all()
            self.check(features, torch.where(labels == 1, 2, labels), 3, setting)


def test_against_numpy():
    """DRSL Eq. 4-5, one pixel, class and mode at a time."""
    g = np.random.default_rng(0)
    e, v, y = g.normal(size=(30, 5)), g.normal(size=(4, 3, 5)), g.integers(0, 4, 30)
    ours = mode_losses(torch.tensor(e), torch.tensor(y), torch.tensor(v), sigma2=0.7, margin=0.3, reduction="none")
    for i in range(30):
        d = np.array([[((e[i] - v[c, m]) ** 2).sum() for m in range(3)] for c in range(4)])
        posterior = np.exp(-d / (2 * 0.7))
        best = posterior.max(1) / posterior.sum()
        others = [c for c in range(4) if c != y[i]]
        rival = min(others, key=lambda c: d[c].min())
        assert ours.cross_entropy[i].item() == pytest.approx(-np.log(best[y[i]] / best.sum()), rel=1e-12)
        assert ours.triplet[i].item() == pytest.approx(max(0, d[y[i]].min() - d[rival].min() + 0.3), rel=1e-12)
        assert ours.own_mode[i] == d[y[i]].argmin() and ours.rival_class[i] == rival


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_definition(dtype, square):
    features, labels = make((2, 7, 6, 5), 4, dtype)
    features = small(features).requires_grad_()
    modes = (centres(4, 7) / 6).to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    ours = mode_losses(features, labels, modes, square=square, reduction="sum")
    total = LOSS_SCALE * (2 * ours.triplet + ours.cross_entropy)
    found = torch.autograd.grad(total, (features, modes))
    exact = features.detach().double().requires_grad_(), modes.detach().double().requires_grad_()
    triplet, cross_entropy, *_ = reference.mode_losses(rows(exact[0]), labels.reshape(-1), exact[1], square=square)
    wanted = torch.autograd.grad(LOSS_SCALE * (2 * triplet + cross_entropy).sum(), exact)
    assert found[0].dtype == dtype and found[1].dtype == modes.dtype
    for ours, true in zip(found, wanted, strict=True):
        error = (ours.double() - true).abs().max() / true.abs().max()
        assert error < 8 * torch.finfo(ours.dtype).eps


def test_gradcheck():
    labels = torch.tensor([0, 1, 2, 255, 1, 7, 0])
    e = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    modes = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda e, v: mode_losses(e, labels, v)[:2], (e, modes))
    assert torch.autograd.gradcheck(lambda e, v: reference.mode_losses(e, labels, v)[:2], (e, modes))


def test_ties_go_to_the_lowest_index_and_one_class_has_no_rival():
    modes = torch.zeros(3, 2, 4)
    e, labels = torch.ones(5, 4), torch.tensor([0, 1, 2, 2, 255])
    ours = mode_losses(e, labels, modes, reduction="none")
    assert ours.own_mode.tolist() == [0, 0, 0, 0, -1] and ours.rival_class.tolist() == [1, 0, 0, 0, -1]
    assert ours.triplet.tolist() == [1, 1, 1, 1, 0]
    alone = mode_losses(e.requires_grad_(), torch.zeros(5, dtype=torch.long), modes[:1])
    assert alone.triplet == 0 and alone.cross_entropy == 0 and (alone.rival_class == -1).all()
    (slope,) = torch.autograd.grad(alone.triplet + alone.cross_entropy, e)
    assert not slope.any()


def test_an_embedding_on_its_mode():
    modes = torch.eye(3).view(3, 1, 3)
    e = torch.eye(3).requires_grad_()
    ours = mode_losses(e, torch.arange(3), modes, margin=3.0, reduction="none")
    torch.testing.assert_close(ours.triplet, torch.full((3,), 1.0))
    torch.autograd.backward(ours.triplet.sum())
    assert e.grad.isfinite().all() and e.grad.any()


BAD = {
    r"modes must be \(K, M, 5\)": {"modes": torch.zeros(4, 3, 6)},
    "modes must be float32 or float64": {"modes": torch.zeros(4, 3, 5, dtype=torch.float16)},
    "modes are on meta": {"modes": torch.zeros(4, 3, 5, device="meta")},
    r"1 <= M <= 256": {"modes": torch.zeros(4, 257, 5)},
    "sigma2 must be positive": {"sigma2": 0.0},
    "reduction must be": {"reduction": "average"},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    arguments = {"embeddings": torch.zeros(2, 5), "labels": torch.zeros(2, dtype=torch.int64)}
    arguments |= {"modes": torch.zeros(4, 3, 5)} | change
    with pytest.raises(ValueError, match=message):
        mode_losses(**arguments)
