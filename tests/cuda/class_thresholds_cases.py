"""Cases for class_thresholds.cu under the emulation: the definition's numbers, bit for bit; see cases.py."""

from __future__ import annotations

import ctypes

import emulated
import torch
from torch import Tensor

from fastuda.reference.class_thresholds import class_thresholds as definition

NAMES = ("seed", "type", "label_bytes", "pixels", "classes", "ignore_index", "from_top", "multiprocessors", "resident")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
RULES = ((0.5, False), (0.2, True), (1.0, True), (0.0, True), (1.0, False), (0.0, False), (1 / 3, True))
# What confidences look like: even, nearly sure, all sure, few values, tiny, any number, all in one last place of 1.
KINDS = {
    "even": lambda x: x,
    "sure": lambda x: torch.sigmoid(20 * x),
    "certain": lambda x: torch.ones_like(x),
    "steps": lambda x: (x * 5).round() / 5,
    "tiny": lambda x: x * 1e-41,
    "small": lambda x: 2 ** (-40 * x),
    "any": lambda x: torch.erfinv(2 * x - 1) * 10 ** (10 * x),
    "next to 1": lambda x: 1 - (x * 4).round() * 2**-24,
    "above 1": lambda x: 1 + x.round() * 2**-23 + (x > 0.9) * x,
    "around 1": lambda x: 1 + (x * 4 - 2).round() * 2**-23,
    "equal": lambda x: torch.full_like(x, 0.7123),
    "below 0": lambda x: -x,
    "zeros": lambda x: torch.where(x < 0.5, -0.0, 0.0),
    "infinities": lambda x: torch.where(x < 0.3, -torch.inf, torch.where(x < 0.6, torch.inf, x)),
    "edges": lambda x: (x * 512).round() / 512,
    "below edges": lambda x: torch.nextafter((x * 512).round() / 512, torch.zeros(())),
}


class Options(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_longlong) for name in NAMES), ("portion", ctypes.c_double)]


def run(
    library, confidence: Tensor, label: Tensor, classes: int, portion: float, from_top: bool, ignore_index: int, *,
    card: int = 28, seed: int = 0, resident: int = 2,
) -> tuple[Tensor, dict[str, int]]:  # fmt: skip
    """card: its multiprocessors; resident: blocks that one of them holds, 0: a card without cooperative launches."""
    library.class_thresholds.restype = ctypes.c_char_p
    options = Options(
        seed, emulated.TYPES[confidence.dtype], label.element_size(), label.numel(), classes, ignore_index, from_top,
        card, resident, portion,
    )  # fmt: skip
    result, facts = torch.full((classes,), float("nan")), (ctypes.c_int * 3)()
    arrays = emulated.array(confidence, False), emulated.array(label, False), emulated.matrix(result)
    emulated._call(library.class_thresholds, options, *arrays, facts)
    return result, dict(zip(("launches", "blocks", "scratch"), facts, strict=True))


def make(shape, classes: int, kind: str, label_dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Confidences with NaN, labels with ignored and out-of-range ones; the last of several classes is missing."""
    g = torch.Generator().manual_seed(seed)
    confidence = KINDS[kind](torch.rand(shape, generator=g))
    confidence = confidence.masked_fill(torch.rand(shape, generator=g) < 0.05, torch.nan)
    label = torch.randint(0, max(1, classes - 1), shape, generator=g)
    far = {torch.uint8: (255, 254), torch.int32: (-1, 2**31 - 1), torch.int64: (-(2**40), 2**40)}
    odd = torch.tensor([255, classes, *far[label_dtype]])[torch.randint(0, 4, label.shape, generator=g)]
    return confidence, torch.where(torch.rand(shape, generator=g) < 0.15, odd, label).to(label_dtype)


def lay_out(x: Tensor, layout: str) -> Tensor:
    if layout == "turned":
        return x.mT.contiguous().mT
    if layout == "inside":
        n, h, w = x.shape
        return torch.zeros(n, h + 3, 2 * w + 1, dtype=x.dtype)[:, 1:-2, 1::2].copy_(x)
    if layout == "rows apart":
        n, h, w = x.shape
        return torch.zeros(n, h, w + 1, dtype=x.dtype)[..., :w].copy_(x)
    if layout == "images apart":
        n, h, w = x.shape
        return torch.zeros(n, h + 1, w, dtype=x.dtype)[:, :h].copy_(x)
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "pixels":
        return x.reshape(-1)
    if layout == "every other":
        return torch.zeros(*x.shape, 2, dtype=x.dtype)[..., 1].copy_(x)
    assert layout == "nchw"
    return x


def check(
    library, shape=(2, 20, 31), classes=5, kind="even", dtype=torch.float32, label_dtype=torch.uint8, layout="nchw",
    label_layout=None, *, rules=RULES[:2], ignore_index=255, values=None, card=28, seeds=(1,), expect=None, resident=2,
) -> None:  # fmt: skip
    """values: confidences and labels instead of random ones; expect: facts of the launches."""
    confidence, label = make(shape, classes, kind, label_dtype, 3) if values is None else values()
    confidence = lay_out(confidence.to(dtype), layout)
    label = lay_out(label, label_layout or layout)
    for portion, from_top in rules:
        truth = definition(confidence, label, classes, portion, from_top, ignore_index)
        for seed in seeds:
            ours, facts = run(
                library,
                confidence,
                label,
                classes,
                portion,
                from_top,
                ignore_index,
                card=card,
                seed=seed,
                resident=resident,
            )
            assert torch.equal(ours, truth), f"{(ours != truth).sum()} of {classes} classes differ"
            assert not torch.signbit(ours[ours == 0]).any(), "a zero has a sign"
            assert facts["launches"] == (1 if resident else 11), f"{facts['launches']} launches"
            assert facts["scratch"] <= 2200 * classes + 3 * 256
            for name, value in (expect or {}).items():
                assert facts[name] == value, f"{name} is {facts[name]}"


def _one_each(count: int):
    """Classes of 1, 2, 3 ... pixels."""

    def values():
        label = torch.repeat_interleave(torch.arange(count), torch.arange(1, count + 1)).int()
        return torch.rand(label.shape, generator=torch.Generator().manual_seed(5)), label

    return values


def _all(confidence: float, label: int):
    return lambda: (torch.full((2, 9, 40), confidence), torch.full((2, 9, 40), label))


def _cases():
    layouts = ("nchw", "turned", "inside", "pixels", "every other", "rows apart", "images apart", "expanded")
    for layout in layouts:
        for i, label_dtype in enumerate((torch.uint8, torch.int32, torch.int64)):
            dtype = DTYPES[(i + layouts.index(layout)) % 3]
            yield (
                f"{layout}, {str(dtype)[6:]}, {str(label_dtype)[6:]}",
                dict(dtype=dtype, label_dtype=label_dtype, layout=layout),
            )
    for a, b in (("nchw", "rows apart"), ("turned", "nchw"), ("images apart", "nchw")):
        yield f"{a} and {b}", dict(layout=a, label_layout=b)
    yield "float64", dict(dtype=torch.float64)
    yield "one image, rows apart", dict(shape=(1, 20, 31), layout="rows apart")
    yield "rows of one image each", dict(shape=(7, 1, 31), layout="rows apart")
    for kind in KINDS:
        yield kind, dict(kind=kind, rules=RULES, shape=(1, 30, 31), classes=3)
        yield f"{kind}, half", dict(kind=kind, dtype=torch.float16, classes=2)
    for classes in (1, 2, 19, 22, 23, 60):
        yield f"{classes} classes", dict(classes=classes, shape=(1, 40, 50))
    yield "23 classes, any", dict(classes=23, shape=(1, 40, 50), kind="any", rules=RULES)
    yield "22 classes, small", dict(classes=22, shape=(1, 40, 50), kind="small")
    for pixels in (0, 1, 31, 511, 513, 2047, 2049, 4096, 4097):
        yield f"{pixels} pixels", dict(shape=(1, 1, pixels), classes=3)
    yield "no image", dict(shape=(0, 3, 4))
    yield "few pixels a class", dict(values=_one_each(21), classes=21, rules=RULES)
    yield "many blocks", dict(shape=(1, 150, 200), classes=4, card=2, expect={"blocks": 4})
    yield "long blocks", dict(shape=(1, 100, 301), classes=4, card=1, expect={"blocks": 2})
    yield "many blocks, 30 classes", dict(shape=(1, 150, 200), classes=30, card=2, expect={"blocks": 4})
    yield "one block a multiprocessor", dict(shape=(1, 100, 301), classes=4, card=2, resident=1, expect={"blocks": 2})
    for classes, kind in ((3, "any"), (30, "small")):
        yield f"steps, {kind}", dict(classes=classes, kind=kind, resident=0, rules=RULES, seeds=(1, 2))
    for ignore_index in (0, 2, -100, 2**40):
        yield f"ignore_index {ignore_index}", dict(ignore_index=ignore_index, label_dtype=torch.int64)
    yield "all NaN", dict(values=_all(torch.nan, 1))
    yield "all ignored", dict(values=_all(0.5, 255))
    yield "schedules", dict(seeds=range(2, 5), kind="steps")
    yield "schedules, 30 classes", dict(seeds=range(2, 5), classes=30, kind="small")


def _bind(options):
    return lambda library: check(library, **options)


THRESHOLDS = {name: _bind(options) for name, options in _cases()}
TABLES = {"class_thresholds": THRESHOLDS}
