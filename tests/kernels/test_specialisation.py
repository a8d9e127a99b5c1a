"""Sizes that change from batch to batch compile nothing anew: one specialisation a kernel for each dtype and layout."""

from __future__ import annotations

import functools
import inspect
import itertools
from unittest import mock

import needed
import pytest

needed.module("triton")

import aot  # noqa: E402
import torch  # noqa: E402
import triton_room  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import make_backend  # noqa: E402
from triton.runtime.jit import create_function_from_signature  # noqa: E402

F32, BF16, I64, U8, BOOL = torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool
NCHW, LAST = torch.contiguous_format, torch.channels_last
# Images, rows and columns: of 16, odd, one of them, and one pixel. Widths and heights that choose the same tiles.
SIZES = [(8, 96, 160), (3, 97, 161), (1, 96, 160), (5, 99, 130), (2, 65, 129)]
TINY = [(1, 1, 1), (3, 1, 7), (5, 7, 1), (1, 16, 16)]  # of operators whose tiles do not depend on sizes
BACKEND = make_backend(GPUTarget("cuda", 90, 32))


def empty(*shape, dtype=F32, layout=NCHW) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta").to(memory_format=layout)


def cut(x: torch.Tensor) -> torch.Tensor:
    """A slice whose address 16 does not divide."""
    return torch.empty(x.numel() + 1, dtype=x.dtype, device="meta")[1:].view(x.shape)


def keys(call) -> dict[tuple, set[tuple]]:
    """What Triton specialises the launches of a call on, by kernel and constants."""
    common, found = triton_room.kernel_module("_common"), {}

    def record(kernel, grid, args, options):
        bind = create_function_from_signature(kernel.signature, kernel.params, BACKEND)
        _, specialised, _ = bind(*args, **options)
        found.setdefault((kernel.fn.__name__, tuple(sorted(options.items()))), set()).add(tuple(specialised))

    with mock.patch.object(common, "capability", lambda device: 90), mock.patch.object(common, "_start", record):
        call()
    return found


def moments(module, size, dtype, layout):
    n, h, w = size
    module.class_moments(empty(n, 256, h, w, dtype=dtype, layout=layout), cut(empty(n, h, w, dtype=U8)), 19, 255)


def moments_full(module, size, dtype, layout):
    n, h, w = size
    module.class_moments_full(empty(n, 256, h, w, dtype=dtype, layout=layout), empty(n, h, w, dtype=U8), 19, 255)


def bound(module, size, dtype, layout, full=False):
    n, h, w = size
    features, labels, mean = empty(n, 256, h, w, dtype=dtype, layout=layout), empty(n, h, w, dtype=U8), empty(19, 256)
    inputs = features, labels, mean, empty(19, 256, 256) if full else mean
    loss, posterior = module.forward(*inputs, 100.0, True, 255)
    module.backward(loss, *inputs, posterior, 100.0, True, 255)


def bound_full(module, size, dtype, layout):
    bound(module, size, dtype, layout, full=True)


def modes(module, size, dtype, layout):
    n, h, w = size
    inputs = empty(n, 64, h, w, dtype=dtype, layout=layout), empty(n, h, w, dtype=U8), empty(19, 3, 64)
    triplet, loss, _, *saved = module.forward(*inputs, 0.5, 1.0, False, 255)
    module.backward(triplet, loss, *inputs, triplet, *saved, 255)


def divergences(module, size, dtype, layout):
    n, h, w = size
    logits, mask = empty(n, 19, h, w, dtype=dtype, layout=layout), empty(n, h, w, dtype=BOOL)
    loss = module.forward(logits, logits, mask, 2.0, True)
    module.backward(loss, logits, logits, mask, 2.0, True)


def cross_entropy(module, size, dtype, layout):
    n, h, w = size
    logits, target = empty(n, 19, h, w, dtype=dtype, layout=layout), empty(n, 8 * h - 1, 8 * w - 3, dtype=U8)
    module.upsample_cross_entropy(logits, target, empty(19), empty(*target.shape), True, 255, 0.1, True, True)


def lovasz(module, size, dtype, layout):
    n, h, w = size
    logits, target = empty(n, 19, h, w, dtype=dtype, layout=layout), empty(n, 8 * h - 1, 8 * w - 3, dtype=U8)
    module.lovasz_softmax(logits, target, 1024, False, True, 255, True)


def pseudo(module, size, dtype, layout):
    n, h, w = size
    module.pseudo_labels(
        empty(n, 19, h, w, dtype=dtype, layout=layout), empty(19), 8 * h, 8 * w, False, False, True, True
    )


def histogram(module, size, dtype, layout):
    n, h, w = size
    module.confidence_histogram(empty(n, 19, h, w, dtype=dtype, layout=layout), 8 * h, 8 * w, 1024, False, True)


def rectify(module, size, dtype, layout):
    n, h, w = size
    scores = empty(n, 19, h, w, dtype=dtype, layout=layout)
    module.prototype_rectify(scores, scores, 8 * h, 8 * w, 0.08, True)


def patches(module, size, dtype, layout):
    n, h, w = size
    scores, offsets = empty(n, 50 + h, 19, 64 + n, 64, dtype=dtype), empty(n, 50 + h, 2, dtype=I64)
    full = empty(n, 19, h, w, dtype=dtype, layout=layout)
    module.aggregate_patches(scores, offsets, full, 8 * h, 8 * w, 512 + n, 512, False, True, 64, True)


def means(module, size, dtype, layout):
    losses, labels = empty(*size), cut(empty(*size, dtype=U8))
    module.pixel_mean(losses, losses, labels, 19, 255, True)


def confusion(module, size, dtype, layout):
    module.confusion_matrix(cut(empty(*size, dtype=U8)), empty(*size, dtype=I64), 19)


def thresholds(module, size, dtype, layout):
    module.class_thresholds(
        cut(empty(*size, dtype=dtype)), empty(*size, dtype=U8), 19, 0.5 + size[2] / 1000, False, 255
    )


def samples(module, size, dtype, layout):
    labels = cut(empty(size[0], size[1] * size[2], dtype=U8))
    module.class_balanced_sample(labels, empty(2, dtype=I64), 19, 512, 255)
    module.sample_per_class(labels, empty(2, dtype=I64), 19, 64, 255)


def triplets(module, size, dtype, layout):
    source, target = size[0] * size[1], size[2]
    rows = (empty(n, dtype=I64) for n in (source, source, target, target))
    module.select_triplets(*rows, empty(2, dtype=I64), 19, 3)


def triplet_loss(module, size, dtype, layout):
    target, source = empty(size[1], 256, dtype=dtype), empty(size[0] * size[2], 256, dtype=dtype)
    if layout == LAST:
        target, source = (empty(256, len(x), dtype=dtype).T for x in (target, source))
    drawn, valid = cut(empty(len(target), dtype=I64)), empty(len(target), dtype=BOOL)
    loss = module.forward(target, source, drawn, drawn, valid, 1.0)
    module.backward(loss, target, source, drawn, drawn, loss)


def assignment(module, size, dtype, layout):
    rows = size[1] * size[2]
    scores = empty(size[0], rows, 19, dtype=dtype)
    if layout == LAST:
        scores = empty(size[0], 19, rows, dtype=dtype).transpose(1, 2)
    module.sinkhorn(scores, empty(size[0], 19), 0.05, 3, rows - rows // 2)


OPERATORS = {
    "class_moments": moments, "class_moments_full": moments_full, "contrastive_bound": bound,
    "contrastive_bound_full": bound_full, "mode_losses": modes, "softmax_kl": divergences,
    "upsample_cross_entropy": cross_entropy, "lovasz_softmax": lovasz, "pseudo_labels": pseudo,
    "confidence_histogram": histogram, "prototype_rectify": rectify, "aggregate_patches": patches,
    "pixel_mean": means, "confusion_matrix": confusion, "class_thresholds": thresholds,
    "class_balanced_sample": samples,
    "select_triplets": triplets, "triplet_consistency_loss": triplet_loss, "sinkhorn": assignment,
}  # fmt: skip
FORMS = list(itertools.product((F32, BF16), (NCHW, LAST)))
ONE_TILE = {
    "class_moments", "contrastive_bound", "contrastive_bound_full", "pixel_mean", "confusion_matrix",
    "class_balanced_sample",
}  # fmt: skip


def of_all_sizes(module: str, dtype, layout, sizes) -> dict[tuple, set[tuple]]:
    triton_room.use_kernels()
    found: dict[tuple, set[tuple]] = {}
    for size in sizes:
        call = functools.partial(OPERATORS[module], triton_room.kernel_module(module), size, dtype, layout)
        for kernel, own in keys(call).items():
            found.setdefault(kernel, set()).update(own)
    return found


@pytest.mark.parametrize("dtype, layout", FORMS, ids=["-".join(str(x)[6:] for x in form) for form in FORMS])
@pytest.mark.parametrize("module", OPERATORS)
def test_one_specialisation_for_each_dtype_and_layout(module, dtype, layout):
    # One pixel in the layout of NCHW has its channels side by side, which is the other layout.
    sizes = SIZES + (TINY[layout == NCHW :] if module in ONE_TILE else [])
    found = of_all_sizes(module, dtype, layout, sizes)
    assert found
    for (kernel, _), own in found.items():
        differing = [sorted(set(map(str, column))) for column in zip(*own, strict=True) if len(set(column)) > 1]
        assert len(own) == 1, f"{kernel} is compiled {len(own)} times: {differing}"


def test_every_kernel_is_counted():
    counted = {kernel for module in OPERATORS for kernel, _ in of_all_sizes(module, F32, LAST, SIZES[:1])}
    assert counted == {launch.kernel.fn.__name__ for case in aot.cases() for launch in aot.launches(case, 90)}


def test_what_pays_stays_specialised():
    """Channels side by side, pixels that 16 channels divide, and their number: loads of 16 bytes."""
    (specialised,) = of_all_sizes("contrastive_bound", BF16, LAST, SIZES)[  # one, or the unpacking fails
        next(key for key in of_all_sizes("contrastive_bound", BF16, LAST, SIZES[:1]) if key[0] == "_bound_forward")
    ]
    kernel = triton_room.kernel_module("contrastive_bound")._bound_forward
    of = dict(zip(inspect.signature(kernel.fn).parameters, specialised, strict=True))
    assert of["channel_stride"] == ("constexpr", None)
    assert of["features"] == ("*bf16", "D") and of["fs2"] == ("i32", "D") and of["channels"] == ("i32", "D")
    assert not of["pixels"][1] and not of["labels"][1]


def test_a_size_that_is_specialised_is_seen():
    """The count of keys is that of Triton's own binder: an integer that is not exempt has three of them."""
    import spilling

    kernel = spilling.sized
    bind = create_function_from_signature(kernel.signature, kernel.params, BACKEND)
    assert len({tuple(bind(empty(1), size, num_warps=1)[1]) for size in (1, 16, 17, 33)}) == 3


def test_ahead_of_time_is_what_the_jit_would_compile():
    """aot.Launch and Triton's binder agree on what is compiled in, and on what 16 divides."""
    for case in aot.cases():
        if not case.every_card:
            continue
        with mock.patch.object(aot.Launch, "of", lambda *given: given):
            given = aot.launches(case, 90)
        for kernel, args, options in given:
            bind = create_function_from_signature(kernel.signature, kernel.params, BACKEND)
            launch, specialised = aot.Launch.of(kernel, args, options), bind(*args, **options)[1]
            assert [kind for _, kind in launch.signature] == [kind for kind, _ in specialised], kernel.fn.__name__
            divisible = [i for i, (kind, how) in enumerate(specialised) if kind != "constexpr" and how == "D"]
            assert [i for (i,) in launch.attrs] == divisible, kernel.fn.__name__
