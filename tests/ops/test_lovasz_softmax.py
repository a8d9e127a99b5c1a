"""lovasz_softmax: against its definition, exact and in bins, its own autograd, and the contract of dense labels."""

import instruction_sets
import pytest
import torch
import torch.nn.functional as F
from dense import DenseContract, lay_out, make

from fastuda.ops import lovasz_softmax
from fastuda.reference import lovasz_softmax as reference

# bins, probabilities
FORMS = {"exact": (0, False), "binned": (50, False), "probabilities": (0, True), "binned probabilities": (7, True)}


def prepared(scores: torch.Tensor, form: str) -> torch.Tensor:
    """Probabilities where the form wants them, of the scores' dtype."""
    return scores.softmax(1) if FORMS[form][1] and scores.is_floating_point() and scores.dim() == 4 else scores


class TestContract(DenseContract):
    settings = tuple(FORMS)
    loss = "loss"
    pure_settings = ("exact", "binned")
    compiled = ("lovasz_softmax",)

    def operator(self, scores, labels, form, *, align_corners=True, ignore_index=255):
        bins, probabilities = FORMS[form]
        options = {"align_corners": align_corners, "ignore_index": ignore_index, "probabilities": probabilities}
        return {"loss": lovasz_softmax(prepared(scores, form), labels, bins=bins, **options)}

    def reference(self, scores, labels, form, *, align_corners=True, ignore_index=255):
        options = *FORMS[form], align_corners, ignore_index
        return {"loss": reference.lovasz_softmax(prepared(scores, form), labels, *options)}

    def raw(self, scores, labels, form):
        arguments = prepared(scores, form).detach(), labels, *FORMS[form], True, 255, True
        return [(torch.ops.fastuda.lovasz_softmax.default, arguments)]

    def compare_output(self, name, ours, plain, exact, scores):
        """Where two errors are equal but for their rounding, either may count as the larger: so for few gradients."""
        if scores.dtype == torch.float64:
            torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)
        elif name == "gradient":
            assert ours.dtype == plain.dtype and torch.equal(ours.isfinite(), exact.isfinite())
            if not exact.numel():
                return
            scale, eps = exact.abs().max().item(), torch.finfo(ours.dtype).eps
            far = (ours.double() - exact).abs() > max(1e-4, 2 * eps) * scale + 1e-3
            assert far.sum() <= 1 + 0.02 * far.numel(), f"{far.sum()} of {far.numel()} gradients differ"
        else:  # 16-bit probabilities are those of rounded softmaxes, another problem than the float64 one
            other = exact.to(plain.dtype) if scores.dtype == torch.float32 else plain
            torch.testing.assert_close(ours, other, rtol=2e-5, atol=1e-6)


def test_is_the_definition_at_full_size():
    logits, labels = make((2, 5, 6, 7), (31, 29), torch.float64)
    up = F.interpolate(logits, size=(31, 29), mode="bilinear", align_corners=True)
    for bins in (0, 20):
        ours = lovasz_softmax(logits, labels, bins=bins)
        torch.testing.assert_close(ours, lovasz_softmax(up, labels, bins=bins), rtol=1e-12, atol=0)
        soft = lovasz_softmax(up.softmax(1), labels, bins=bins, probabilities=True)
        torch.testing.assert_close(ours, soft, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bins", [0, 9])
@pytest.mark.parametrize("align_corners", [True, False])
def test_gradcheck(bins, align_corners):
    logits, labels = make((1, 3, 3, 4), (6, 5), torch.float64)
    options = {"bins": bins, "align_corners": align_corners}
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, labels, **options), logits.requires_grad_())


@pytest.mark.parametrize("bins", [1, 2, 16, 1024, 65536])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_bins_err_by_their_width_at_most(bins, spread):
    logits, labels = make((1, 7, 12, 15), (60, 70))
    exact = lovasz_softmax(spread * logits.double(), labels)
    for dtype in (torch.float32, torch.float64):
        binned = lovasz_softmax(spread * logits.to(dtype), labels, bins=bins)
        assert abs(binned.item() - exact.item()) <= 1 / bins + 1e-5
    assert bins > 1 or binned != exact


def ties(classes=6, size=(40, 53), levels=8, dtype=torch.float32, seed=0):
    """Probabilities that are few numbers, exact in any dtype: nearly every error is that of many other pixels."""
    g = torch.Generator().manual_seed(seed)
    p = torch.randint(0, levels + 1, (2, classes, *size), generator=g).to(dtype) / levels
    labels = torch.randint(-1, classes, (2, *size), generator=g)
    return p, labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("bins", [0, 5, 8])
def test_ties_go_by_the_order_of_the_pixels(bins, classes, dtype):
    """The gradient of each pixel is what it counts for, so a sort that is not stable shows."""
    p, labels = ties(classes, dtype=dtype)
    ours, slope = torch.ops.fastuda.lovasz_softmax(p, labels, bins, True, True, 255, True)
    loss, expected = reference.forward(p, labels, bins, True, True, 255, True)
    eps = 4 * torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours, loss, rtol=max(eps, 1e-12), atol=0)
    torch.testing.assert_close(slope, expected, rtol=eps, atol=0)
    assert not bins or slope.unique().numel() < 4 * classes * bins


def test_a_class_that_does_not_occur_counts_nothing():
    logits, labels = make((1, 12, 9, 9), (33, 34))
    labels[(labels == 3) | (labels == 9)] = 255
    for bins in (0, 30):
        x = logits.clone().requires_grad_()
        loss = lovasz_softmax(x.softmax(1), labels, bins=bins, probabilities=True)
        (slope,) = torch.autograd.grad(loss, x)
        p = logits.softmax(1).requires_grad_()
        (direct,) = torch.autograd.grad(lovasz_softmax(p, labels, bins=bins, probabilities=True), p)
        assert not direct[:, [3, 9]].any() and direct[:, [0, 11]].any() and slope[:, 3].any()


@pytest.mark.parametrize("bins", [0, 30])
def test_no_number_in_no_number_out(bins):
    logits, labels = make((1, 5, 8, 8), (8, 8))
    labels[0, 2, 3] = 1
    logits[0, 2, 2, 3] = torch.nan
    assert lovasz_softmax(logits, labels, bins=bins).isnan()


def test_perfect_and_worst():
    labels = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    perfect = F.one_hot(labels.long().clamp(max=1), 2).permute(0, 3, 1, 2).float()
    for bins in (0, 1000):
        assert lovasz_softmax(perfect, labels, probabilities=True, bins=bins) == 0
        assert lovasz_softmax(1 - perfect, labels, probabilities=True, bins=bins) == 1


@pytest.mark.parametrize("elements", [1, 300, 10**6])
def test_groups_of_classes_agree(elements):
    """The batched sort of a GPU and the class-wise sort of a CPU give the same weights."""
    logits, labels = make((1, 5, 9, 10))
    valid = (labels.reshape(-1) >= 0) & (labels.reshape(-1) < 5)
    foreground = labels.reshape(-1) == torch.arange(5).view(-1, 1)
    error = (logits.softmax(1).transpose(0, 1).flatten(1) - foreground.float()).abs()
    expected = torch.cat([reference._group(error[k : k + 1], foreground[k : k + 1], valid) for k in range(5)])
    step = max(1, elements // error.shape[1])
    groups = [slice(k, k + step) for k in range(0, 5, step)]
    assert torch.equal(torch.cat([reference._group(error[g], foreground[g], valid) for g in groups]), expected)
    assert torch.equal(reference.lovasz_weights(error, foreground, valid)[0], expected)


BAD = {
    r"target must be \(1, H, W\)": {"target": torch.zeros(2, 5, 5, dtype=torch.uint8)},
    "size must be": {"size": (4, 0)},
    "bins must be between 0": {"bins": -1},
    "bins must be between": {"bins": 65537},
}


@pytest.mark.parametrize("message, change", BAD.items())
def test_bad_input_is_named(message, change):
    arguments = {"logits": torch.zeros(1, 4, 3, 3), "target": torch.zeros(1, 5, 5, dtype=torch.uint8)} | change
    with pytest.raises(ValueError, match=message):
        lovasz_softmax(**arguments)


# --- the C++ kernel: what groups, chunks, tiles and digits could get wrong beyond the formula ---

# Chunks of 32 to 64 rows, tiles of 16 and 32 columns, groups of 8 classes.
EDGES = [((1, 3, 2, 3), (65, 15)), ((2, 17, 1, 2), (130, 33)), ((1, 16, 50, 33), (13, 20)), ((1, 25, 9, 9), (40, 31))]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape, size", EDGES)
@pytest.mark.parametrize("bins", [0, 40])
def test_edges_of_groups_chunks_and_tiles(bins, shape, size, align_corners, compiled):
    logits, labels = make(shape, size, torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)  # NaN in every new tensor
    try:
        for layout in ("nchw", "channels_last", "transposed", "inside_nan"):
            for probabilities in (False, True):
                x = logits.softmax(1) if probabilities else logits
                options = bins, probabilities, align_corners, 255, True
                ours = torch.ops.fastuda.lovasz_softmax(lay_out(x, layout), labels, *options)
                for mine, true in zip(ours, reference.forward(x, labels, *options), strict=True):
                    torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-13)
    finally:
        torch.use_deterministic_algorithms(False)


def test_half_precision_is_upsampled_in_float32():
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = make((1, 6, 9, 9), (40, 40), dtype)
        for bins in (0, 100):
            ours, exact = (lovasz_softmax(x, labels, bins=bins) for x in (logits, logits.double()))
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets.ISAS)
def test_each_instruction_set(isa, compiled):
    instruction_sets.assert_passes(isa, "edges or ties or by_their_width or ignored_scores", __file__)
