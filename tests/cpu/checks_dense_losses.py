"""The fast cut of the contract of the losses on dense labels, beside checks.py: their raw operators in float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from close import assert_as_accurate
from dense import lay_out, lay_out_labels, make
from torch import Tensor

from fastuda.reference import lovasz_softmax, upsample_cross_entropy

OPS = torch.ops.fastuda
# Chunks of 32 to 64 rows or parts of a long band, tiles of 16 and 32 columns, more than a vector of nodes or classes.
SHAPES = [
    ((2, 5, 5, 7), (33, 50)), ((1, 19, 7, 23), (7, 23)), ((1, 17, 17, 19), (127, 131)), ((2, 4, 23, 40), (7, 9)),
    ((1, 3, 1, 2), (200, 16)), ((1, 33, 50, 64), (13, 20)), ((1, 18, 40, 90), (65, 90)), ((1, 1, 1, 1), (1, 1)),
]  # fmt: skip
LABELS = (torch.int64, torch.uint8, torch.int32)


def problems() -> Iterator[tuple[str, Tensor, Tensor, bool]]:
    for i, (shape, size) in enumerate(SHAPES):
        for j, layout in enumerate(("nchw", "channels_last", "inside_nan", "transposed")):
            dtype = (torch.float32, torch.bfloat16)[i % 2 if layout == "nchw" else 0]
            scores, labels = make(shape, size, dtype, LABELS[i % 3], seed=i)
            if size[0] > 3:
                labels[:, 2] = 255
            name = f"{shape} to {size}, {layout}, {dtype}"
            yield name, lay_out(scores, layout), lay_out_labels(labels, layout), (i + j) % 2 == 0


def cross_entropy() -> Iterator:
    for name, scores, labels, align in problems():
        for form in ("plain", "weights", "smooth"):
            yield (
                f"{name}, {form}",
                lambda x=scores, y=labels, align=align, form=form: one_cross_entropy(x, y, align, form),
            )
    far = torch.tensor([[1e4, 0.0], [-1e4, 3e4], [0.0, -2e4]]).T.reshape(1, 2, 1, 3)
    yield "a wide spread", lambda: one_cross_entropy(far, torch.tensor([[[1, 0, 1]]]), True, "plain")
    yield "a spread of hundreds", lambda: one_cross_entropy(0.01 * far, torch.tensor([[[1, 0, 1]]]), True, "plain")
    yield "an ignored class", lambda: one_cross_entropy(*make((1, 3, 5, 6), (19, 23)), True, "plain", 1)
    yield "ignored NaN", lambda: ignored(OPS.upsample_cross_entropy, (None, None, True, 255, 0.1, True, True))
    yield "threads", lambda: threads(OPS.upsample_cross_entropy, (None, None, True, 255, 0.0, True, True))


def one_cross_entropy(scores: Tensor, labels: Tensor, align: bool, form: str, ignore: int = 255) -> None:
    g = torch.Generator().manual_seed(3)
    weight = 0.3 + torch.rand(scores.shape[1], generator=g)
    scale = torch.rand(labels.shape, generator=g, dtype=torch.float64).mT.contiguous().mT
    weight, scale = {"plain": (None, None), "weights": (weight, scale), "smooth": (weight.double(), None)}[form]
    options = weight, scale, align, ignore, 0.2 if form == "smooth" else 0.0, True, True
    ours = OPS.upsample_cross_entropy(scores, labels, *options)
    plain = upsample_cross_entropy.forward(scores, labels, *options)
    truth = upsample_cross_entropy.forward(scores.double(), labels, *options)
    for name, mine, other, exact in zip(("total", "map", "gradient"), ours, plain, truth, strict=True):
        if scores.shape[1] > 1:
            assert_as_accurate(mine, other, exact, 2e-6, name)
        assert mine.isfinite().all(), f"{name} is not finite"
    alone = OPS.upsample_cross_entropy(scores, labels, *options[:-2], False, False)
    assert torch.equal(alone[0], ours[0]) and not alone[1].numel() and not alone[2].numel(), "another sum alone"


def lovasz() -> Iterator:
    for name, scores, labels, align in problems():
        for bins in (0, 20):
            for probabilities in (False, True):
                form = f"{bins} bins, probabilities {probabilities}"
                yield (
                    f"{name}, {form}",
                    lambda x=scores, y=labels, a=(bins, probabilities, align): one_lovasz(x, y, *a),
                )
    for classes in (1, 7, 9):
        for bins in (0, 8):
            yield f"ties, {classes} classes, {bins} bins", lambda k=classes, n=bins: ties(k, n)
    yield "an absent class", lambda: ties(9, 0, absent=3)
    yield "an absent class in bins", lambda: ties(9, 8, absent=3)
    for bins in (0, 20):
        yield "no number", lambda n=bins: no_number(n)
        yield "ignored NaN", lambda n=bins: ignored(OPS.lovasz_softmax, (n, False, True, 255, True))
        yield "threads", lambda n=bins: threads(OPS.lovasz_softmax, (n, False, True, 255, True))
    yield "an ignored class", lambda: one_lovasz(*make((1, 3, 5, 6), (19, 23)), 0, False, True, 1)


def one_lovasz(scores: Tensor, labels: Tensor, bins: int, probabilities: bool, align: bool, ignore: int = 255) -> None:
    scores = lay_out(scores.softmax(1), "inside_nan") if probabilities else scores
    options = bins, probabilities, align, ignore, True
    loss, slope = OPS.lovasz_softmax(scores, labels, *options)
    true, exact = lovasz_softmax.forward(scores.double(), labels, *options)
    torch.testing.assert_close(loss.double(), true, rtol=2e-5, atol=1e-6)
    assert slope.isfinite().all(), "the gradient is not finite"
    # Errors that are equal but for their rounding may change places, and so may what they count for.
    far = (slope - exact).abs() > 1e-4 * exact.abs().max()
    assert far.sum() <= 1 + 0.02 * far.numel(), "gradient"
    alone = OPS.lovasz_softmax(scores, labels, *options[:-1], False)
    assert torch.equal(alone[0], loss) and not alone[1].numel(), "another loss alone"


def ties(classes: int, bins: int, absent: int = -1) -> None:
    g = torch.Generator().manual_seed(classes)
    p = torch.randint(0, 9, (2, classes, 40, 53), generator=g).float() / 8
    labels = torch.randint(-1, classes, (2, 40, 53), generator=g)
    labels[labels == absent] = 255
    options = bins, True, True, 255, True
    ours, truth = (call(p, labels, *options) for call in (OPS.lovasz_softmax, lovasz_softmax.forward))
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-6, atol=0)


def no_number(bins: int) -> None:
    scores, labels = make((1, 5, 8, 8))
    labels[0, 2, 3] = 1
    scores[0, 2, 2, 3] = torch.nan
    assert OPS.lovasz_softmax(scores, labels, bins, False, True, 255, True)[0].isnan(), "NaN became a number"


def ignored(op, options: tuple) -> None:
    scores, labels = make((1, 20, 9, 9), (65, 65))
    labels[:, :33, 16:41] = 255
    for value in (torch.nan, torch.inf, -torch.inf):
        dirty = scores.clone()
        dirty[:, :, :4, 3:5] = value
        for a, b in zip(op(scores, labels, *options), op(dirty, labels, *options), strict=True):
            assert torch.equal(a, b), f"an ignored {value} is read"


def threads(op, options: tuple) -> None:
    scores, labels = make((2, 19, 37, 41), (293, 331))
    first = op(scores, labels, *options)
    for n in (2, 3):
        torch.set_num_threads(n)
        for a, b in zip(first, op(scores, labels, *options), strict=True):
            assert torch.equal(a, b), f"other bits with {n} threads"
    torch.set_num_threads(1)
