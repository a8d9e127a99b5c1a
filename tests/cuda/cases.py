"""Cases for the CUDA C++ kernels under the emulation, each against the reference in float64; for tests and mutants.

A case is a name and a function of the library that raises AssertionError (``emulated.Fault`` is one) on an error.
"""

from __future__ import annotations

import emulated
import torch
from close import assert_as_accurate
from torch import Tensor

from fastuda.reference import contrastive_bound as bound_reference
from fastuda.reference.class_moments import class_moments as moments_reference

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
MOMENTS_EPS = 16 * torch.finfo(F32).eps  # as in tests/ops
BOUND_EPS = 1e-6
SMALL = (40, 6200)  # a card with so little shared memory that many blocks, and tables in global memory, are needed


def make(shape, classes: int, dtype=F32, label_dtype=torch.int64, seed: int = 0, offset: float = 0.0):
    """Features with their own mean in each class; labels in runs of a few pixels, some ignored or out of range."""
    g = torch.Generator().manual_seed(seed)
    n, channels, height, width = shape
    labels = torch.randint(0, classes, (n, height, (width + 3) // 4), generator=g).repeat_interleave(4, 2)[:, :, :width]
    kind = torch.rand(labels.shape, generator=g)
    labels = labels.clone()
    labels[kind < 0.3] = torch.randint(0, classes, labels.shape, generator=g)[kind < 0.3]
    labels[kind < 0.15] = 255
    if label_dtype != torch.uint8:
        labels[kind < 0.1] = classes
        labels[kind < 0.05] = -3
        labels[kind < 0.02] = 2**31 - 1 if label_dtype == torch.int32 else 2**32
    if label_dtype == torch.int64:
        labels[kind < 0.01] = -(2**32)  # 0, were it cut to 32 bits
    centres = 3 * torch.randn(classes, channels, generator=g)
    features = torch.randn(n, height, width, channels, generator=g) + centres[labels.clamp(0, classes - 1)] + offset
    return features.permute(0, 3, 1, 2).contiguous().to(dtype), labels.to(label_dtype)


def lay_out(features: Tensor, labels: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The same pixels, or some of them, in another layout; gaps between them hold NaN or wrong labels."""
    if layout == "channels_last":
        return features.contiguous(memory_format=torch.channels_last), labels
    if layout == "rows":
        return features.permute(0, 2, 3, 1).contiguous().flatten(0, 2), labels.reshape(-1)
    if layout == "sliced":  # every stride is its own
        n, a, h, w = features.shape
        wide = torch.full((n, a + 1, h + 2, 2 * w), float("nan"), dtype=features.dtype)[:, 1:, 1:-1, ::2]
        y = torch.zeros((n, h + 1, 3 * w), dtype=labels.dtype)[:, 1:, ::3]
        return wide.copy_(features), y.copy_(labels)
    if layout == "wide_rows":  # channels side by side, pixels farther apart, still aligned
        n, a, h, w = features.shape
        wide = torch.full((n, h, w, a + 4), float("nan"), dtype=features.dtype)[..., :a]
        return wide.copy_(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), labels
    if layout in ("odd_rows", "odd_start"):  # channels side by side, an image row or the first element not aligned
        n, a, h, w = features.shape
        pitch, start = (w * a + 1, 0) if layout == "odd_rows" else (w * a, 1)
        store = torch.full((n * h * pitch + start,), float("nan"), dtype=features.dtype)
        return store.as_strided((n, a, h, w), (h * pitch, 1, pitch, a), start).copy_(features), labels
    assert layout == "nchw"
    return features, labels


def valid_of(labels: Tensor, classes: int, ignore_index: int) -> Tensor:
    y = labels.long()
    return (y >= 0) & (y < classes) & (y != ignore_index)


def check_moments(
    library, shape=(2, 37, 9, 13), classes=13, dtype=F32, label_dtype=torch.int64, layout="nchw", *, offset=0.0,
    ignore_index=255, change=None, card=emulated.PASCAL, seeds=(1,), expect=None, full=False,
    budget=0,
) -> None:  # fmt: skip
    """full: M2 of all pairs of channels; change: edits the labels; budget: bytes of scratch, see entry.h.

    expect: facts about how the work must have been cut, or the case tests nothing.
    """
    features, labels = make(shape, classes, dtype, label_dtype, offset=offset)
    if change is not None:
        labels = change(labels)
    valid = valid_of(labels, classes, ignore_index)
    features = features.masked_fill(~valid.unsqueeze(1), float("nan"))  # ignored pixels reach no result
    clean = features.masked_fill(~valid.unsqueeze(1), 0.0)
    kind = "full" if full else "diag"
    truth = moments_reference(clean.double(), labels, classes, kind, ignore_index)
    plain = moments_reference(clean, labels, classes, kind, ignore_index)
    features, labels = lay_out(features, labels, layout)
    first = None
    for seed in seeds:
        count, mean, m2, plan = emulated.class_moments(
            library, features, labels, classes, ignore_index, full=full, card=card, seed=seed, budget=budget
        )
        for name, value in (expect or {}).items():
            assert value(plan[name]) if callable(value) else plan[name] == value, f"{name} is {plan[name]}: {plan}"
        assert torch.equal(count, truth.count), f"count {count.tolist()} instead of {truth.count.tolist()}"
        eps = MOMENTS_EPS if dtype != F64 else 1e-14
        assert_as_accurate(mean, plain.mean, truth.mean, eps, "mean")
        assert_as_accurate(m2, plain.m2, truth.m2, eps, "m2")
        assert not m2[truth.count == 1].any(), "one pixel has no spread"
        assert not full or torch.equal(m2, m2.mT), "not symmetric"
        first = first or (mean, m2)
        assert torch.equal(mean, first[0]) and torch.equal(m2, first[1]), "another schedule gave other bits"


def _first_class_only(labels: Tensor) -> Tensor:
    return torch.full_like(labels, 255).index_fill_(2, torch.tensor(0), 1)


def _few_pixels(labels: Tensor) -> Tensor:
    keep = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) < 0.01
    return labels.where(keep, 255)


def _moments_cases():
    # 16-bit labels do not exist, fp64 has one form: every pair of dtypes once, layouts in turn.
    layouts = ("nchw", "rows", "channels_last", "sliced", "wide_rows")
    kinds = [(f, y) for f in (F32, F16, BF16, F64) for y in (torch.uint8, torch.int32, torch.int64)]
    for i, (dtype, label_dtype) in enumerate(kinds):
        name = f"{str(dtype)[6:]}, {str(label_dtype)[6:]}, {layouts[i % 5]}"
        yield name, dict(dtype=dtype, label_dtype=label_dtype, layout=layouts[i % 5])
    for dtype in (F32, F16, BF16):
        case = dict(shape=(1, 132, 9, 11), dtype=dtype, layout="wide_rows", expect={"width": 4, "slices": 2})
        yield f"four channels a lane, {str(dtype)[6:]}", case
    for layout in ("odd_rows", "odd_start"):
        yield layout, dict(shape=(2, 8, 4, 7), classes=3, layout=layout, expect={"width": 1, "staged": 0})
    big = {"width": 4, "in_shared": 1, "slices": 2}
    yield "256 channels of 19 classes", dict(shape=(1, 256, 12, 16), classes=19, layout="rows", expect=big)
    yield (
        "256 channels on a Hopper",
        dict(shape=(1, 256, 12, 16), classes=2, layout="rows", card=emulated.HOPPER, expect={"warps": 16}),
    )
    yield "schedules", dict(shape=(1, 37, 9, 30), classes=2, layout="rows", seeds=range(1, 6), expect={"warps": 16})
    yield "schedules, staged", dict(shape=(1, 37, 9, 30), classes=2, seeds=range(1, 6), expect={"staged": 1})
    many, many_pixels = {"chunks": lambda n: n > 9, "in_shared": 1}, (3, 5, 37, 41)
    yield "many blocks", dict(shape=many_pixels, classes=6, layout="rows", card=SMALL, seeds=(1, 2, 3), expect=many)
    outside = {"in_shared": 0, "chunks": lambda n: n > 2}
    yield "tables outside", dict(shape=many_pixels, classes=21, layout="rows", card=SMALL, seeds=(1, 2), expect=outside)
    yield "tables outside, staged", dict(shape=many_pixels, classes=21, card=SMALL, expect=outside | {"staged": 1})
    wide = outside | {"width": 4, "slices": 2}
    yield (
        "tables outside, wide",
        dict(shape=(3, 136, 37, 41), classes=21, dtype=F16, layout="rows", card=SMALL, expect=wide),
    )
    shape = (1, 64, 17, 29)
    yield "150 classes", dict(shape=shape, classes=150, layout="rows", card=emulated.HOPPER, expect={"in_shared": 1})
    yield "150 classes on a Pascal", dict(shape=shape, classes=150, layout="rows", expect={"in_shared": 0})
    yield "300 classes", dict(shape=(1, 64, 9, 29), classes=300, layout="rows", expect={"in_shared": 0})
    for layout in ("nchw", "rows"):
        yield f"a large offset, {layout}", dict(shape=(1, 5, 40, 50), classes=3, layout=layout, offset=1000.0)
        yield f"one class, {layout}", dict(shape=(1, 5, 20, 50), classes=1, layout=layout, change=lambda y: y * 0)
        yield f"a class is missing, {layout}", dict(layout=layout, change=lambda y: y.where(y != 1, 2))
        yield f"all ignored, {layout}", dict(layout=layout, change=lambda y: y * 0 + 255)
        yield f"a class of few pixels, {layout}", dict(layout=layout, classes=3, change=_first_class_only)
    yield "another ignore_index", dict(classes=4, ignore_index=2)
    yield "ignore_index beyond the classes", dict(classes=4, ignore_index=-100)
    for shape in ((1, 1, 1, 1), (1, 7, 1, 1), (1, 3, 1, 257), (3, 5, 127, 1), (0, 4, 3, 3), (2, 4, 0, 3)):
        yield f"shape {shape}", dict(shape=shape, classes=3)
        yield f"shape {shape}, rows", dict(shape=shape, classes=3, layout="rows")


def _full_moments_cases():
    layouts = ("nchw", "rows", "channels_last", "sliced", "wide_rows")
    kinds = [(f, y) for f in (F32, F16, BF16, F64) for y in (torch.uint8, torch.int64)]
    for i, (dtype, label_dtype) in enumerate(kinds):
        name = f"{str(dtype)[6:]}, {str(label_dtype)[6:]}, {layouts[i % 5]}"
        yield name, dict(dtype=dtype, label_dtype=label_dtype, layout=layouts[i % 5])
    narrow, wide = {"edge": 4, "squares": 2}, {"edge": 8, "squares": 2, "tiles": 3}
    for layout in ("nchw", "rows"):
        yield f"70 channels, {layout}", dict(shape=(1, 70, 9, 13), classes=3, layout=layout, expect=narrow)
        for dtype in (F32, BF16):
            case = dict(shape=(1, 196, 8, 9), classes=3, dtype=dtype, layout=layout, expect=wide)
            yield f"196 channels, {layout}, {str(dtype)[6:]}", case
    for layout in ("odd_rows", "odd_start"):
        yield layout, dict(shape=(2, 8, 4, 7), classes=3, layout=layout)
    yield "float64, 70 channels", dict(shape=(1, 70, 5, 9), classes=2, dtype=F64, layout="rows", expect=narrow)
    yield "many panels", dict(shape=(1, 5, 37, 41), classes=2, layout="rows", expect={"panels": 8, "chunks": 6})
    for budget, group in ((1, 1), (4 * 5 * 64 * 64 * 4, 4)):
        case = dict(shape=(1, 135, 9, 11), classes=4, layout="rows", budget=budget)
        yield f"groups of {group}", case | {"expect": {"tiles": 6, "group": group, "panels": 5}}
    case = dict(shape=(1, 1, 129, 513), classes=2, layout="rows", change=_few_pixels, expect={"chunks": 259})
    yield "many chunks", case
    yield "schedules", dict(shape=(1, 37, 9, 30), classes=2, seeds=range(1, 5))
    yield "schedules, wide", dict(shape=(1, 193, 5, 9), classes=2, layout="rows", seeds=range(1, 4))
    yield "300 classes", dict(shape=(1, 9, 17, 29), classes=300, layout="rows", expect={"panels": 302})
    for layout in ("nchw", "rows"):
        yield f"a large offset, {layout}", dict(shape=(1, 5, 40, 50), classes=3, layout=layout, offset=1000.0)
    yield "one class", dict(shape=(1, 5, 20, 50), classes=1, change=lambda y: y * 0)
    yield "a class is missing", dict(change=lambda y: y.where(y != 1, 2))
    yield "the last class is missing", dict(change=lambda y: y.where(y != 12, 2))
    yield "all ignored", dict(change=lambda y: y * 0 + 255)
    yield "a class of few pixels", dict(classes=3, change=_first_class_only)
    yield "another ignore_index", dict(classes=4, ignore_index=2)
    for shape in ((1, 1, 1, 1), (1, 3, 1, 257), (3, 5, 127, 1), (0, 4, 3, 3), (2, 4, 0, 3)):
        yield f"shape {shape}", dict(shape=shape, classes=3)


def _rows(t: Tensor) -> Tensor:
    return t.permute(0, 2, 3, 1).flatten(0, 2)


def check_bound(
    library, shape=(2, 37, 5, 13), classes=19, dtype=F32, label_dtype=torch.int64, layout="channels_last", *,
    covariance=True, normalize=True, temperature=3.0, ignore_index=255, wide=False, change=None, zero=False, seed=1,
    strided=False, eps=BOUND_EPS, budget=0,
) -> None:  # fmt: skip
    """covariance: True is (K, A), "full" is (K, A, A), with ``budget`` bytes of scratch for a group of pixels.

    zero: a pixel and a class of length 0; strided: statistics and incoming gradient with gaps; wide: in float64.

    eps: above 1e-6 where logits of hundreds have lost as much in float32.
    """
    features, labels = make(shape, classes, dtype, label_dtype)
    features = (features / 3).to(dtype)
    g = torch.Generator().manual_seed(1)
    kind = F64 if wide else F32
    mean = torch.randn(classes, shape[1], generator=g, dtype=F64).to(kind)
    sigma = torch.rand(classes, shape[1], generator=g, dtype=F64) if covariance else None
    if covariance == "full":
        mix = torch.randn(classes, shape[1], shape[1], generator=g, dtype=F64)
        sigma = sigma.diag_embed() + mix @ mix.mT / shape[1]
    sigma = None if sigma is None else sigma.to(kind)
    if change is not None:
        labels = change(labels)
    if zero:
        features[0, :, 0, 0], labels[0, 0, 0], mean[1] = 0, 0, 0
        if covariance:
            sigma[1] = 0
    valid = valid_of(labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0.0)
    dirty = features.masked_fill(~valid.unsqueeze(1), float("nan"))
    out = F64 if dtype == F64 else F32
    grad = (1000 * torch.rand(labels.shape, generator=g, dtype=F64)).to(out).where(valid, float("nan"))
    given, given_grad = [mean, sigma], grad
    if strided:
        given = [None if s is None else torch.cat([s, s], -1)[..., ::2].copy_(s) for s in given]
        given_grad = torch.stack([grad, grad * 0], -1)[..., 0]
    image, y = lay_out(dirty, labels, layout)
    if image.dim() == 2:  # as the public function passes rows
        image, y, given_grad = image.T[None, :, :, None], y[None, :, None], grad.reshape(1, -1, 1)
    options = temperature, normalize, ignore_index
    cut = dict(seed=seed, budget=budget)
    loss, posterior = emulated.bound_forward(library, image, y, *given, *options, **cut)
    slope = emulated.bound_backward(library, given_grad, image, y, *given, posterior, *options, **cut)
    assert slope.stride() == torch.empty_like(image).stride()

    def reference(kind, x):
        stats = mean.to(kind), None if sigma is None else sigma.to(kind)
        loss, p = bound_reference.forward(x, labels, *stats, *options)
        weight = grad.to(kind).nan_to_num()
        return loss, p, bound_reference.backward(weight, x, labels, *stats, p, *options)

    truth, plain = reference(F64, clean.double()), reference(out, clean)
    eps = eps if dtype != F64 else 1e-14
    assert_as_accurate(loss.flatten(), plain[0].flatten(), truth[0].flatten(), eps, "loss")
    keep = valid.flatten()
    pairs = [t.reshape(-1, classes)[keep] for t in (posterior, plain[1], truth[1])]
    assert_as_accurate(*pairs, eps, "posterior")
    assert_as_accurate(_rows(slope), _rows(plain[2]), _rows(truth[2]), eps, "gradient")
    assert not loss.flatten()[~keep].any(), "the loss of an ignored pixel is 0"
    assert not _rows(slope)[~keep].any(), "the gradient of an ignored pixel is 0"


def _bound_cases():
    layouts = ("channels_last", "nchw", "rows", "sliced", "wide_rows")
    kinds = [(f, c, n) for f in (F32, F16, BF16, F64) for c in (True, False) for n in (True, False)]
    labels = (torch.int64, torch.uint8, torch.int32)
    for i, (dtype, covariance, normalize) in enumerate(kinds):
        layout = layouts[i % 5]
        name = f"{str(dtype)[6:]}, {layout}" + ", covariance" * covariance + ", normalised" * normalize
        yield (
            name,
            dict(dtype=dtype, covariance=covariance, normalize=normalize, layout=layout, label_dtype=labels[i % 3]),
        )
    for classes in (1, 2, 20, 21, 32, 33, 50):
        yield f"{classes} classes", dict(shape=(1, 33, 9, 15), classes=classes, normalize=classes % 2 == 0)
    yield "50 classes, 70 channels", dict(shape=(1, 70, 5, 9), classes=50)
    for layout in ("odd_rows", "odd_start"):
        yield layout, dict(shape=(2, 8, 4, 7), classes=3, layout=layout)
    for channels in (1, 4, 31, 32, 64, 65, 132):
        yield f"{channels} channels", dict(shape=(1, channels, 7, 11), classes=5, normalize=channels > 1)
        if channels in (4, 65, 132):
            yield f"{channels} channels, nchw", dict(shape=(1, channels, 7, 11), classes=5, layout="nchw")
    for pixels in (1, 63, 64, 65, 127, 128, 129):
        yield f"{pixels} pixels", dict(shape=(1, 8, 1, pixels), classes=3, layout=layouts[pixels % 2])
    for normalize in (True, False):
        yield f"length 0, normalised {normalize}", dict(zero=True, normalize=normalize)
        yield f"length 0, nchw, normalised {normalize}", dict(zero=True, normalize=normalize, layout="nchw", dtype=F16)
    yield "strided", dict(strided=True)
    yield "strided, double statistics", dict(strided=True, wide=True, covariance=False)
    yield "double statistics", dict(wide=True)
    yield "float64, 17 classes", dict(dtype=F64, classes=17, shape=(1, 70, 3, 25))
    yield "temperature 100", dict(temperature=100.0)
    yield "large logits", dict(eps=2e-5, temperature=0.05, normalize=False, covariance=False)
    yield "large logits of 50 classes", dict(eps=2e-5, temperature=0.05, normalize=False, covariance=False, classes=50)
    for normalize in (True, False):
        case = dict(shape=(1, 2048, 3, 5), normalize=normalize, temperature=100.0)
        yield f"2048 channels, normalised {normalize}", case
    yield "all ignored", dict(change=lambda y: y * 0 + 255)
    yield "another ignore_index", dict(ignore_index=2)
    for shape in ((0, 4, 3, 3), (1, 4, 0, 3)):
        yield f"shape {shape}", dict(shape=shape, classes=3)


def _full_bound_cases():
    layouts = ("channels_last", "nchw", "rows", "sliced", "wide_rows")
    for i, (dtype, normalize) in enumerate((f, n) for f in (F32, F16, BF16, F64) for n in (True, False)):
        name = f"{str(dtype)[6:]}, {layouts[i % 5]}" + ", normalised" * normalize
        label_dtype = (torch.int64, torch.uint8, torch.int32)[i % 3]
        yield name, dict(dtype=dtype, normalize=normalize, layout=layouts[i % 5], label_dtype=label_dtype, classes=5)
    for channels in (1, 3, 64, 65, 130, 193):
        for normalize in (True, False)[channels == 1 :]:
            case = dict(shape=(1, channels, 3, 11), classes=3, normalize=normalize, layout=layouts[channels % 2])
            yield f"{channels} channels, normalised {normalize}", case
    yield "260 channels, nchw", dict(shape=(1, 260, 3, 11), classes=2, layout="nchw", dtype=BF16)
    yield "float64, 70 channels", dict(shape=(1, 70, 5, 13), classes=3, dtype=F64)
    for pixels in (1, 63, 64, 65, 129):
        yield f"{pixels} pixels", dict(shape=(1, 8, 1, pixels), classes=3, layout=layouts[pixels % 2])
    for classes in (1, 2, 19, 20, 21, 33):
        yield f"{classes} classes", dict(shape=(1, 9, 5, 15), classes=classes, normalize=classes % 2 == 0)
    for layout in ("nchw", "rows"):
        yield f"groups of 64 pixels, {layout}", dict(shape=(1, 7, 11, 17), classes=4, layout=layout, budget=1)
    yield "groups of 128 pixels", dict(shape=(1, 193, 1, 291), classes=2, budget=1)
    yield "larger groups forward", dict(shape=(1, 7, 11, 17), classes=4, budget=4 * 64 * 128)
    for normalize in (True, False):
        yield f"length 0, normalised {normalize}", dict(zero=True, normalize=normalize, classes=4)
    yield "strided", dict(strided=True, classes=4)
    yield "strided, double statistics", dict(strided=True, wide=True, classes=4)
    yield "temperature 100", dict(temperature=100.0, classes=4)
    yield "all ignored", dict(change=lambda y: y * 0 + 255, classes=4)
    yield "another ignore_index", dict(ignore_index=2, classes=4)
    for shape in ((0, 4, 3, 3), (1, 4, 0, 3)):
        yield f"shape {shape}", dict(shape=shape, classes=3)


def _bind(check, options):
    return lambda library: check(library, **options)


MOMENTS = {name: _bind(check_moments, options) for name, options in _moments_cases()}
FULL_MOMENTS = {name: _bind(check_moments, options | {"full": True}) for name, options in _full_moments_cases()}
BOUND = {name: _bind(check_bound, options) for name, options in _bound_cases()}
FULL_BOUND = {name: _bind(check_bound, options | {"covariance": "full"}) for name, options in _full_bound_cases()}
TABLES = {
    "class_moments": MOMENTS,
    "class_moments_full": FULL_MOMENTS,
    "contrastive_bound": BOUND,
    "contrastive_bound_full": FULL_BOUND,
}
