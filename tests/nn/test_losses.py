"""Segmentation losses against loops written from the papers, and their edges."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastuda.nn import cross_entropy, lovasz_softmax, resize_labels, symmetric_cross_entropy


def sample(n, classes, height, width, seed=0, dtype=torch.float32, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (n, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits.to(dtype), labels.to(torch.uint8)


def grads(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def lovasz_loop(probability, labels, classes):
    """Berman et al. 2018, Alg. 1, class by class and pixel by pixel, on lists."""
    pixels = [(i, y) for i, y in enumerate(labels.reshape(-1).tolist()) if 0 <= y < classes]
    probability = probability.movedim(1, -1).reshape(-1, classes)
    total, present = probability.new_zeros(()), 0
    for c in range(classes):
        foreground = sum(y == c for _, y in pixels)
        if not foreground:
            continue
        present += 1
        errors = [(1 - probability[i, c] if y == c else probability[i, c], y == c) for i, y in pixels]
        errors.sort(key=lambda pair: -pair[0].item())
        intersection, union, last = foreground, foreground, 0.0
        for error, own in errors:
            intersection, union = (intersection - 1, union) if own else (intersection, union + 1)
            jaccard = 1 - intersection / union
            total = total + error * (jaccard - last)
            last = jaccard
    return total / max(present, 1)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    classes=st.sampled_from([1, 2, 5, 19]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_lovasz_is_the_papers_loop(shape, classes, ignored, seed):
    n, height, width = shape
    logits, labels = sample(n, classes, height, width, seed, torch.float64, ignored)
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected, actual = lovasz_loop(a.softmax(1), labels, classes), lovasz_softmax(b, labels)
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
    if expected.requires_grad:
        torch.testing.assert_close(grads(actual, b)[0], grads(expected, a)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lovasz_precision_and_probabilities(dtype):
    logits, labels = sample(2, 11, 40, 50, dtype=dtype)
    exact = lovasz_softmax(logits.double(), labels)
    loss = lovasz_softmax(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(lovasz_softmax(logits.double().softmax(1), labels, probabilities=True), exact)


def test_lovasz_is_zero_for_a_perfect_prediction_and_one_for_the_worst():
    labels = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    perfect = F.one_hot(labels.long().clamp(max=1), 2).permute(0, 3, 1, 2).float()
    assert lovasz_softmax(perfect, labels, probabilities=True) == 0
    assert lovasz_softmax(1 - perfect, labels, probabilities=True) == 1


def test_lovasz_gradcheck():
    logits, labels = sample(1, 3, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, labels), logits.requires_grad_())


@pytest.mark.parametrize("loss", [cross_entropy, lovasz_softmax])
def test_ignored_batch_is_exactly_zero(loss):
    for shape in ((2, 4, 3, 3), (0, 4, 3, 3)):
        logits = torch.randn(shape, requires_grad=True)
        labels = torch.full((shape[0], 6, 5), 255, dtype=torch.uint8)
        value = loss(logits, labels)
        value.backward()
        assert value.item() == 0 and value.dtype == torch.float32
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, lovasz_softmax])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_out_of_range_are_ignored(loss, dtype):
    logits, labels = sample(2, 4, 5, 6)
    wrong = labels.to(dtype)
    wrong[labels == 255] = 200 if dtype == torch.uint8 else -7
    torch.testing.assert_close(loss(logits, wrong), loss(logits, labels), rtol=0, atol=0)


def test_cross_entropy_upsamples_in_float32():
    logits, _ = sample(2, 5, 4, 3, dtype=torch.float16)
    _, labels = sample(2, 5, 11, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(logits, labels)
    full = F.interpolate(logits.double(), size=(11, 9), mode="bilinear", align_corners=True)
    valid = labels != 255
    log = full.log_softmax(1).movedim(1, -1)[valid]
    expected = -log.gather(1, labels[valid].long()[:, None]).mean()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_cross_entropy_at_another_size():
    logits, labels = sample(1, 3, 8, 8, dtype=torch.float64)
    full = F.interpolate(logits, size=(4, 5), mode="bilinear", align_corners=True)
    expected = cross_entropy(full, resize_labels(labels, (4, 5)))
    torch.testing.assert_close(cross_entropy(logits, labels, size=(4, 5)), expected, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels, size=(4, 5)), logits.requires_grad_())


def test_resize_labels():
    labels = torch.arange(6 * 8, dtype=torch.uint8).view(1, 6, 8)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        small = resize_labels(labels.to(dtype), (3, 4))
        assert small.dtype == dtype
        assert torch.equal(small, labels.to(dtype)[:, ::2, ::2])
    for size in ((1, 1), (5, 7), (12, 20), (6, 8)):
        expected = F.interpolate(labels[None].float(), size=size, mode="nearest")[0]
        assert torch.equal(resize_labels(labels, size), expected.to(torch.uint8))


def test_compile_fullgraph():
    logits, labels = sample(1, 4, 5, 6)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def losses(x):
        return cross_entropy(x, labels, (9, 9)) + lovasz_softmax(x, labels)

    torch.testing.assert_close(losses(logits), cross_entropy(logits, labels, (9, 9)) + lovasz_softmax(logits, labels))


def test_bad_input_is_named():
    logits, labels = sample(1, 4, 5, 6)
    for loss in (cross_entropy, lovasz_softmax):
        with pytest.raises(ValueError, match="labels"):
            loss(logits, labels[0])
        with pytest.raises(ValueError, match="labels"):
            loss(logits, labels.repeat(2, 1, 1))
    with pytest.raises(ValueError, match="probabilities must have the labels' size"):
        lovasz_softmax(logits, labels[:, :3], probabilities=True)
    with pytest.raises(ValueError, match="labels must be"):
        resize_labels(labels[0], (2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_symmetric_cross_entropy_in_low_precision_and_without_a_pixel(dtype):
    logits, labels = sample(2, 5, 4, 6, dtype=dtype)
    own, exact = logits.requires_grad_(), logits.detach().double().requires_grad_()
    loss, expected = (symmetric_cross_entropy(x, labels) for x in (own, exact))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (slope,), (right,) = grads(1024 * loss, own), grads(1024 * expected, exact)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope.double(), right, rtol=2 * torch.finfo(dtype).eps + 1e-4, atol=1e-3)
    none = symmetric_cross_entropy(own, torch.full_like(labels, 255))
    assert none.item() == 0 and grads(none, own)[0].abs().max() == 0
    with pytest.raises(ValueError, match="labels"):
        symmetric_cross_entropy(logits, labels[0])


def test_symmetric_cross_entropy_of_a_hopeless_pixel_is_bounded_in_its_reverse():
    logits = torch.tensor([[[[80.0]], [[-80.0]]]], dtype=torch.float64, requires_grad=True)
    wrong = torch.ones(1, 1, 1, dtype=torch.uint8)
    assert symmetric_cross_entropy(logits, wrong, forward=0.0).item() == pytest.approx(9.210340371976182)
    assert symmetric_cross_entropy(logits, wrong, reverse=0.0).item() == pytest.approx(16.0)
    assert grads(symmetric_cross_entropy(logits, wrong, forward=0.0), logits)[0].abs().max() < 1e-60
