"""mode_losses: against the paper's formula, its own autograd, and the contract of every operator."""

import math

import instruction_sets
import numpy as np
import pytest
import torch
from close import assert_as_accurate
from contract import LOSS_SCALE, PixelContract, lay_out, make, rows

from fastuda.ops import mode_losses
from fastuda.reference import mode_losses as reference
from fastuda.reference._pixels import usable

# sigma2, margin, square
FORMS = {"plain": (0.5, 1.0, False), "square": (2.0, 0.25, True)}


def centres(classes: int, channels: int, modes: int = 3, device="cpu", dtype=torch.float32) -> torch.Tensor:
    """Modes near the classes of ``contract.make``, scaled so that no posterior is always 0 or 1."""
    n = torch.arange(1, 1 + classes * modes * channels, dtype=torch.float64)
    return (3 * torch.sin(0.7 * n * n)).view(classes, modes, channels).to(device, dtype)


def scale(channels: int) -> float:
    """A power of two: dividing by it rounds nothing."""
    return 2.0 ** -round(math.log2(2 * channels**0.5))


def small(features: torch.Tensor) -> torch.Tensor:
    return features * scale(features.shape[1]) if features.is_floating_point() else features


class TestContract(PixelContract):
    settings = tuple(FORMS)
    loss = "loss"
    features_name = "embeddings"
    compiled = ("mode_losses_forward", "mode_losses_backward")
    same_bits_for_threads = True

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
        triplet, cross_entropy, _, *saved = forward(*inputs, *options, 255)
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


# --- the C++ kernels: what tiles, blocks, panels and threads could get wrong beyond the formula ---

FORWARD, BACKWARD = torch.ops.fastuda.mode_losses_forward, torch.ops.fastuda.mode_losses_backward
OUTPUTS = ("triplet", "cross entropy", "own mode", "rival", "weight", "nearest", "gradient", "gradient of the modes")
# Tile edges: 16 or 32 pixels, 64 of a block, 1024 of a work item; vectors of 16 channels, panels of 8, 4, 2 and 1.
SHAPES = [(1, 2, 1, 1), (1, 17, 1, 31), (2, 33, 3, 16), (1, 16, 1, 1030), (3, 5, 13, 29), (1, 269, 5, 14)]


@pytest.fixture
def poisoned_memory(compiled):
    """Compiled kernels, and NaN in every new tensor, so that anything left unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(shape, classes, per_class=3, dtype=torch.float32, seed=0):
    features, labels = make(shape, classes, dtype, seed=seed)
    labels[:, 0, 0] = 0  # one valid pixel at least
    grads = torch.randn(2, *labels.shape, generator=torch.Generator().manual_seed(seed)).to(small(features).dtype)
    return small(features), labels, scale(shape[1]) * centres(classes, shape[1], per_class), grads


def both_passes(forward, backward, features, labels, modes, grads, options):
    grads = [g.to(torch.float64 if features.dtype == torch.float64 else torch.float32) for g in grads]
    triplet, cross_entropy, own, *saved = forward(features, labels, modes, *options)
    slopes = backward(*grads, features, labels, modes, triplet, *saved, options[-1])
    return triplet, cross_entropy, own, *saved, *slopes


def compare(features, labels, modes, grads, options=(0.5, 1.0, False, 255), eps=2e-6, outputs=OUTPUTS):
    """What both passes return, against float64, where the reference's own error is allowed."""
    ours = both_passes(FORWARD, BACKWARD, features, labels, modes, grads, options)
    plain = both_passes(reference.forward, reference.backward, features, labels, modes, grads, options)
    exact = features.double(), labels, modes.double(), [g.double() for g in grads]
    truth = both_passes(reference.forward, reference.backward, *exact, options)
    for name, mine, other, true in zip(outputs, ours, plain, truth, strict=False):
        if true.is_floating_point():
            assert_as_accurate(mine, other, true, eps, name)
        else:
            assert torch.equal(mine, true), f"{name} differs"
    assert ours[6].dtype == features.dtype and ours[6].stride() == torch.empty_like(features).stride()
    return ours


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows", "sliced", "strided", "expanded", "inside_nan"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tile_edges_in_every_layout(shape, layout, poisoned_memory):
    features, labels, modes, grads = problem(shape, 13)
    view, near = lay_out(features, labels, layout)
    if layout == "rows":
        view, near = view.T[None, :, :, None], near[None, :, None]
    compare(view, near, modes, torch.randn(2, *near.shape, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("per_class", [1, 2, 3, 4, 7, 256])
@pytest.mark.parametrize("classes", [1, 2, 5, 16, 19, 23])
def test_every_block_of_classes_and_modes(classes, per_class, poisoned_memory):
    for form, eps in ((FORMS["plain"], 2e-6), (FORMS["square"], 4e-6)):
        compare(*problem((1, 21, 5, 9), classes, per_class), options=(*form, 255), eps=eps)
        compare(*problem((1, 21, 5, 9), classes, per_class, torch.float64), options=(*form, 0), eps=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_half_precision_in_every_layout(layout, dtype, poisoned_memory):
    features, labels, modes, grads = problem((2, 35, 7, 19), 5, 3, dtype)
    compare(lay_out(features, labels, layout)[0], labels, modes, grads)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("channels", [3, 64, 300])
def test_near_modes_keep_their_digits(channels, layout, compiled):
    """Two classes within 0.01 of the embeddings, a third far away: distances of 1e-4 beside squares of 1e6."""
    g = torch.Generator().manual_seed(0)
    base = 10 + torch.randn(channels, generator=g)
    modes = (base + 0.01 * torch.randn(3, 3, channels, generator=g)).contiguous()
    modes[2] += 1000
    features = (base + 0.01 * torch.randn(50, channels, generator=g)).T[None, :, :, None]
    features = features.contiguous() if layout == "nchw" else features
    labels = torch.randint(0, 2, (1, 50, 1), generator=g)
    grads, options = torch.ones(2, 1, 50, 1), (1e-3, 0.0, False, 255)
    triplet, *_ = compare(features, labels, modes, grads, options, eps=4e-6, outputs=OUTPUTS[:6])
    compare(features, labels, modes, grads, options, eps=1e-4)  # sums of 1e4 that cancel, here as in the reference
    assert 0 < triplet.max() < 1


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_an_embedding_on_two_equal_modes_is_at_distance_zero(layout, compiled):
    modes = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0))
    modes[1] = modes[0]
    modes[2] += 100
    features = modes[0, 1].expand(7, -1).T[None, :, :, None].contiguous()
    labels = torch.tensor([0, 1, 0, 1, 1, 2, 255]).view(1, 7, 1)
    triplet, cross_entropy, own, rival, weight, nearest = FORWARD(
        lay_out(features, labels, layout)[0], labels, modes, 0.5, 0.25, True, 255
    )
    assert triplet.flatten()[:5].tolist() == [0.25] * 5 and rival.flatten().tolist() == [1, 0, 1, 0, 0, 0, -1]
    assert own.flatten().tolist()[:5] == [1] * 5 and own.flatten()[6] == -1
    torch.testing.assert_close(cross_entropy.flatten()[:5], torch.full((5,), math.log(2)))
    assert weight.view(7, 3)[:5].abs().max() < 1e-30 and (nearest.view(7, 3)[:6, :2] == 1).all()


@pytest.mark.parametrize("per_class", [1, 3, 5])
def test_identical_modes_have_identical_distances(per_class, compiled):
    """Whatever block of the product a mode lies in: the lowest index wins, and the hinge is the margin, exactly."""
    g = torch.Generator().manual_seed(0)
    modes = torch.randn(1, 1, 50, generator=g).expand(19, per_class, -1)
    features, labels = torch.randn(1, 50, 9, 9, generator=g), torch.randint(0, 19, (1, 9, 9), generator=g)
    triplet, _, own, rival, weight, nearest = FORWARD(features, labels, modes, 0.5, 0.25, False, 255)
    assert (triplet == 0.25).all() and not nearest.any() and not own.any()
    assert torch.equal(rival, (labels == 0).long())
    expected = torch.nn.functional.one_hot(labels, 19) - 1 / 19
    torch.testing.assert_close(weight, expected)


def test_the_number_of_threads_changes_no_bit(compiled):
    features, labels, modes, grads = problem((2, 40, 61, 67), 7)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(both_passes(FORWARD, BACKWARD, features, labels, modes, grads, (0.5, 1.0, False, 255)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


def test_a_gradient_larger_than_caches_is_that_of_its_parts(compiled):
    """It is written past the caches: 36 MB of rows, of which a tenth is ignored."""
    features, labels, modes, grads = problem((4, 64, 2, 17_600), 3)
    features = features.contiguous(memory_format=torch.channels_last)
    options = (0.5, 1.0, False, 255)
    whole = both_passes(FORWARD, BACKWARD, features, labels, modes, grads, options)
    parts = [
        both_passes(FORWARD, BACKWARD, features[i : i + 1], labels[i : i + 1], modes, grads[:, i : i + 1], options)
        for i in range(4)
    ]
    for i, name in enumerate(OUTPUTS[:-1]):
        assert torch.equal(whole[i], torch.cat([part[i] for part in parts])), name
    torch.testing.assert_close(whole[-1], sum(part[-1] for part in parts), rtol=1e-4, atol=1e-3)


def test_modes_and_gradients_of_any_strides_and_dtype(compiled):
    features, labels, modes, grads = problem((2, 21, 5, 9), 6)
    strided = modes.double().transpose(0, 2).contiguous().transpose(0, 2)
    turned = grads.transpose(1, 3).contiguous().transpose(1, 3)
    options = (0.5, 1.0, False, 255)
    expected = both_passes(FORWARD, BACKWARD, features, labels, modes, grads, options)
    found = both_passes(FORWARD, BACKWARD, features, labels, strided, turned, options)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    one = torch.ones(()).expand(2, *labels.shape)
    for a, b in zip(
        both_passes(FORWARD, BACKWARD, features, labels, modes, one, options),
        both_passes(FORWARD, BACKWARD, features, labels, modes, one.contiguous(), options),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets.ISAS)
def test_each_instruction_set(isa, compiled):
    instruction_sets.assert_passes(isa, "tile_edges or block_of or half or near_modes or identical or on_two", __file__)
