"""The contract of every operator on dense labels: low-resolution scores (N, K, h, w), pixels (N, H, W).

An operator joins by subclassing ``DenseContract`` in its test file as ``class TestContract(DenseContract)`` and saying
how it and its reference are called; every test below then runs on it.  See tests/ops/test_upsample_cross_entropy.py.
"""

from __future__ import annotations

from collections.abc import Callable

import gpu
import pytest
import torch
from close import assert_as_accurate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastuda.ops._library import has_kernel

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABEL_DTYPES = (torch.uint8, torch.int32, torch.int64)
LAYOUTS = (
    "nchw", "channels_last", "sliced", "strided", "channel_slice", "transposed", "expanded", "inside_nan"
)  # fmt: skip
# (N, K, h, w) and (H, W): one pixel, primes, rows of no whole vector, equal, smaller, one row, a side equal, no pixel.
UGLY_SIZES = (
    ((1, 1, 1, 1), (1, 1)),
    ((1, 3, 1, 1), (37, 5)),
    ((2, 5, 5, 7), (33, 50)),
    ((1, 19, 7, 23), (7, 23)),
    ((1, 17, 17, 19), (127, 131)),
    ((2, 4, 23, 40), (7, 9)),
    ((1, 16, 40, 3), (11, 64)),
    ((1, 20, 2, 90), (1, 89)),
    ((1, 33, 9, 1), (70, 3)),
    ((1, 6, 9, 21), (40, 21)),
    ((0, 4, 3, 3), (5, 6)),
    ((2, 4, 3, 3), (0, 6)),
    ((2, 4, 3, 3), (5, 0)),
)
LOSS_SCALE = 65536.0  # of a loss's gradient, so that 16-bit gradients are above the smallest number of their type

Outputs = dict[str, Tensor]


def make(shape, size=None, dtype=torch.float32, label_dtype=torch.int64, seed=0) -> tuple[Tensor, Tensor]:
    """Scores of a few units, smooth enough that neighbours agree; labels with ignored and out-of-range values."""
    g = torch.Generator().manual_seed(seed)
    n, classes, *_ = shape
    scores = 3 * torch.randn(shape, generator=g)
    low, high = (0, 256) if label_dtype == torch.uint8 else (-2, classes + 2)
    labels = torch.randint(low, high, (n, *(size or shape[2:])), generator=g)
    some = torch.rand(labels.shape, generator=g) < 0.8
    labels = torch.where(some, torch.randint(0, classes, labels.shape, generator=g), labels)
    return scores.to(dtype), labels.to(label_dtype)


def lay_out(scores: Tensor, layout: str) -> Tensor:
    """The same scores (for "sliced" to "expanded" some of them) with other strides."""
    if layout == "channels_last":
        return scores.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return scores[:, :, 1:, 2:]
    if layout == "strided":
        return scores[:, :, ::2, ::3]
    if layout == "channel_slice":
        return scores.contiguous(memory_format=torch.channels_last)[:, 1:]
    if layout == "transposed":
        return scores.mT.contiguous().mT
    if layout == "expanded":
        return scores[:1].expand(len(scores), -1, -1, -1)
    if layout == "inside_nan":
        n, k, h, w = scores.shape
        return torch.full((n, k + 1, h + 2, 2 * w), torch.nan).to(scores)[:, 1:, 1:-1, ::2].copy_(scores)
    return scores


def lay_out_labels(labels: Tensor, layout: str) -> Tensor:
    """The same labels with other strides where the layout says so."""
    if layout == "transposed":
        return labels.mT.contiguous().mT
    if layout in ("strided", "inside_nan"):
        n, h, w = labels.shape
        return torch.full((n, h + 1, 3 * w), 255).to(labels)[:, 1:, ::3].copy_(labels)
    return labels[:1].expand(len(labels), -1, -1) if layout == "expanded" else labels


class DenseContract:
    """What a subclass says; the rest are the tests.

    settings: the forms of the operator.
    operator, reference: ``(scores, labels, setting, *, align_corners=True, ignore_index=255) -> {name: output}`` on
        scores (N, K, h, w) and labels (N, H, W), any strides; the outputs are at the labels' size.
    raw: ``(scores, labels, setting) -> [(raw operator, arguments)]`` for opcheck.
    loss: the name of the scalar output that is differentiated, if any; "gradient" then joins the outputs.
    reads_labels: whether the labels matter, or give a size only.
    resizes: whether scores and labels may differ in size.
    scores_name, labels_name: what the operator calls its first two arguments.
    compiled: raw operators whose CPU key must hold a compiled kernel.
    roundings: the epsilon of close.py in units of the smallest step of the arithmetic, float32 or float64.
    pure_settings: the forms that take the scores as they are, where in others torch prepares them first.
    compare_output: may be overridden for outputs that neither rule of it fits, like labels where classes are close.
    """

    settings: tuple
    operator: Callable[..., Outputs]
    reference: Callable[..., Outputs]
    raw: Callable
    loss: str | None = None
    reads_labels: bool = True
    resizes: bool = True
    scores_name: str = "logits"
    labels_name: str = "target"
    compiled: tuple[str, ...] = ()
    roundings: float = 16
    pure_settings: tuple | None = None

    def evaluate(self, call: Callable[..., Outputs], scores: Tensor, labels: Tensor, setting, **options) -> Outputs:
        if self.loss is None:
            return call(scores, labels, setting, **options)
        scores = scores.detach().requires_grad_()
        out = call(scores, labels, setting, **options)
        (slope,) = torch.autograd.grad(out[self.loss] * LOSS_SCALE, scores)
        assert slope.dtype == scores.dtype, f"gradient is {slope.dtype} for {scores.dtype} {self.scores_name}"
        return {name: value.detach() for name, value in out.items()} | {"gradient": slope}

    def each(self, scores: Tensor, labels: Tensor, setting=None, **options) -> Outputs:
        return self.evaluate(self.operator, scores, labels, setting or self.settings[0], **options)

    def check(self, scores: Tensor, labels: Tensor, setting=None, **options) -> Outputs:
        """Run the operator and hold it against its reference and the reference in float64."""
        setting = self.settings[0] if setting is None else setting
        ours = self.each(scores, labels, setting, **options)
        self.compare(ours, scores, labels, setting, **options)
        return ours

    def compare(self, ours: Outputs, scores: Tensor, labels: Tensor, setting, **options) -> None:
        plain = self.evaluate(self.reference, scores, labels, setting, **options)
        truth = self.evaluate(self.reference, scores.double(), labels, setting, **options)
        assert ours.keys() == truth.keys()
        for name, exact in truth.items():
            self.compare_output(name, ours[name], plain[name], exact, scores)

    def compare_output(self, name: str, ours: Tensor, plain: Tensor, exact: Tensor, scores: Tensor) -> None:
        # The truth of a float64 result is no better than the result itself, hence the larger multiple.
        eps = torch.finfo(torch.float64).eps * 8 if scores.dtype == torch.float64 else torch.finfo(torch.float32).eps
        if name == "gradient" and not exact.any():  # of one class: terms that cancel, one by one
            assert not ours.numel() or ours.abs().max() <= self.roundings * eps * LOSS_SCALE, "gradient is not zero"
        elif exact.is_floating_point():
            assert_as_accurate(ours, plain, exact, self.roundings * eps, name)
        else:
            assert ours.dtype == exact.dtype and torch.equal(ours, exact), f"{name} differs"

    def same(self, a: Outputs, b: Outputs, why: str) -> None:
        for name in a:
            assert torch.equal(a[name], b[name]), f"{name}: {why}"

    def size(self, shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
        return size if self.resizes else shape[2:]

    # --- the tests ---

    def test_cpu_kernels_are_compiled(self, compiled):
        for name in self.compiled:
            assert has_kernel(name, "CPU"), f"{name}: no compiled kernel, every test would test the reference"

    @pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_layouts_and_dtypes(self, dtype, layout, label_dtype):
        if label_dtype != LABEL_DTYPES[0] and not self.reads_labels:
            return
        shape = (2, 20, 13, 19)
        scores = lay_out(make(shape, dtype=dtype)[0], layout)
        _, labels = make(shape, self.size(scores.shape, (51, 77)), label_dtype=label_dtype)
        ours = self.check(scores, lay_out_labels(labels, layout))
        assert all(value.any() for value in ours.values()), "an output is zero: the comparison says nothing"

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_settings(self, dtype):
        shape = (2, 19, 11, 13)
        for setting in self.settings:
            for layout in ("nchw", "channels_last"):
                scores, labels = make(shape, self.size(shape, (60, 71)), dtype, torch.uint8)
                self.check(lay_out(scores, layout), labels, setting)

    @pytest.mark.parametrize("align_corners", [True, False])
    @pytest.mark.parametrize("shape, size", UGLY_SIZES)
    def test_ugly_sizes(self, shape, size, align_corners):
        for setting in self.settings:
            for layout in ("nchw", "channels_last"):
                scores, labels = make(shape, self.size(shape, size))
                self.check(lay_out(scores, layout), labels, setting, align_corners=align_corners)

    @pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 150, 255])
    def test_classes(self, classes):
        shape = (1, classes, 4, 9)
        for dtype in (torch.float32, torch.float64):
            self.check(*make(shape, self.size(shape, (19, 35)), dtype))

    def test_no_valid_pixel_is_zero(self):
        shape = (2, 5, 4, 6)
        scores, labels = make(shape, self.size(shape, (17, 21)))
        for setting in self.settings if self.reads_labels else ():
            out = self.check(scores, torch.full_like(labels, 255), setting)
            assert not any(value.any() for value in out.values()), f"{setting}: not zero without a valid pixel"
            self.check(scores, torch.where(labels == 1, 2, labels), setting)

    def test_labels_out_of_range_are_never_an_index(self):
        shape = (1, 3, 5, 6)
        scores, labels = make(shape, self.size(shape, (19, 23)))
        for setting in self.settings if self.reads_labels else ():
            unused = labels.masked_fill((labels == 0) | (labels < 0) | (labels > 2), 255)
            ignored = self.each(scores, unused, setting)
            for value in (-1, -(2**40), 3, 256, 2**31, 2**40):
                out = self.each(scores, labels.masked_fill(labels == 0, value), setting)
                self.same(out, ignored, f"label {value} is not ignored")
            small = labels.clamp(0, 2)
            for dtype in LABEL_DTYPES:
                self.check(scores, small.to(dtype), setting, ignore_index=1)
            self.same(self.each(scores, small, setting, ignore_index=-100), self.each(scores, small, setting), "-100")

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_ignored_scores_are_not_read_into_any_result(self, value):
        """Pixels of a block are ignored, beside others in a vector; the nodes that only they read hold anything."""
        shape = (1, 20, 9, 9)
        scores, labels = make(shape, self.size(shape, (65, 65)))
        step = labels.shape[1] // 8  # pixels between two nodes
        labels[:, : 4 * step + 1, 2 * step : 5 * step + 1] = 255
        dirty = scores.clone()
        dirty[:, :, :4, 3:5] = value
        for setting in (self.pure_settings or self.settings) if self.reads_labels else ():
            for layout in ("nchw", "channels_last"):
                clean = self.each(lay_out(scores, layout), labels, setting)
                self.same(self.each(lay_out(dirty, layout), labels, setting), clean, f"it holds an ignored {value}")

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_any_shape(self, data):
        shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)))
        size = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
        seed, align_corners = data.draw(st.integers(0, 2**16)), data.draw(st.booleans())
        layout, setting = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(self.settings))
        # Losses may cancel to nearly nothing at single pixels, where two float32 roundings cannot be told from a fault.
        dtype = torch.float64 if self.loss else data.draw(st.sampled_from(DTYPES))
        scores = lay_out(make(shape, dtype=dtype, seed=seed)[0], layout)
        if min(scores.shape) < 1:
            return
        _, labels = make(scores.shape, self.size(scores.shape, size), seed=seed)
        labels = lay_out_labels(labels, layout)
        if self.loss is None:
            self.check(scores, labels, setting, align_corners=align_corners)
            return
        truth = self.evaluate(self.reference, scores, labels, setting, align_corners=align_corners)
        ours = self.each(scores, labels, setting, align_corners=align_corners)
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_opcheck(self, dtype):
        shape = (2, 6, 5, 4)
        scores, labels = make(shape, self.size(shape, (9, 11)), dtype)
        # Every form in float32; the dtypes and layouts, which the forms share, with the first one.
        cases = [("channels_last", setting) for setting in self.settings[: None if dtype == torch.float32 else 1]]
        for layout, setting in [("nchw", self.settings[0]), *cases]:
            for op, arguments in self.raw(lay_out(scores, layout), labels, setting):
                torch.library.opcheck(op, arguments)

    def test_compile_fullgraph(self):
        shape = (1, 8, 5, 7)
        scores, labels = make(shape, self.size(shape, (17, 19)), label_dtype=torch.uint8)
        for setting in self.settings:

            def call(x, y, which):
                return {name: value * 1 for name, value in self.operator(x * 2, y, which).items()}

            torch.compiler.reset()
            step = torch.compile(call, fullgraph=True, backend="aot_eager")
            eager = self.evaluate(call, scores, labels, setting)
            torch.testing.assert_close(self.evaluate(step, scores, labels, setting), eager)

    def test_autocast_changes_nothing(self):
        shape = (2, 16, 9, 7)
        scores, labels = make(shape, self.size(shape, (33, 31)))
        for setting in self.settings:
            plain = self.each(scores, labels, setting)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                self.same(self.each(scores, labels, setting), plain, "autocast changes it")

    def test_nan_filled_allocations(self):
        for shape, size in (((2, 21, 10, 13), (75, 91)), ((1, 5, 30, 40), (9, 11))):
            scores, labels = make(shape, self.size(shape, size))
            for setting in self.settings:
                plain = self.each(scores, labels, setting)
                torch.use_deterministic_algorithms(True, warn_only=True)
                try:
                    assert torch.utils.deterministic.fill_uninitialized_memory
                    self.same(self.each(scores, labels, setting), plain, "something was left unwritten")
                finally:
                    torch.use_deterministic_algorithms(False)

    def test_same_bits_for_any_number_of_threads(self):
        shape = (2, 19, 37, 41)
        scores, labels = make(shape, self.size(shape, (293, 331)))
        threads = torch.get_num_threads()
        try:
            for setting in self.pure_settings or self.settings:
                first = self.each(scores, labels, setting)
                for n in (threads, 1, 2, 3):
                    torch.set_num_threads(n)
                    self.same(self.each(scores, labels, setting), first, f"other bits with {n} threads")
        finally:
            torch.set_num_threads(threads)

    # --- on a GPU: each form apart, as a backend may serve one and not another ---

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "setting" in metafunc.fixturenames:
            metafunc.parametrize("setting", self.settings)

    def on_gpu(self, backend: str, scores: Tensor, labels: Tensor, setting, **options) -> Outputs:
        """Run on the GPU, on the layout as it is, and hold it against the reference in float64 on the CPU."""
        with gpu.noted(scores=tuple(scores.shape), strides=scores.stride(), labels=labels.shape, **options):
            ours = gpu.run(backend, lambda x, y: self.each(x, y, setting, **options), scores, labels)
            self.compare(ours, scores, labels, setting, **options)
        return ours

    @pytest.mark.gpu
    @gpu.each_backend_and_dtype
    def test_gpu_dtypes(self, backend, dtype, setting):
        shape = (2, 19, 11, 13)
        for layout in ("nchw", "channels_last"):
            scores, labels = make(shape, self.size(shape, (60, 71)), dtype)
            ours = self.on_gpu(backend, lay_out(scores, layout), labels, setting)
        assert all(value.any() for value in ours.values()), "an output is zero: the comparison says nothing"

    @pytest.mark.gpu
    @gpu.each_backend
    def test_gpu_layouts_and_labels(self, backend, setting):
        shape = (2, 20, 13, 19)
        for layout, label_dtype in zip(LAYOUTS, LABEL_DTYPES * 3, strict=False):
            scores = lay_out(make(shape)[0], layout)
            _, labels = make(shape, self.size(scores.shape, (51, 77)), label_dtype=label_dtype)
            self.on_gpu(backend, scores, lay_out_labels(labels, layout), setting, ignore_index=1)

    @pytest.mark.gpu
    @gpu.each_backend
    def test_gpu_ugly_sizes(self, backend, setting):
        for place, (shape, size) in enumerate(UGLY_SIZES):
            self.on_gpu(backend, *make(shape, self.size(shape, size)), setting, align_corners=place % 2 == 0)

    @pytest.mark.gpu
    @gpu.each_backend
    def test_gpu_classes_and_labels_out_of_range(self, backend, setting):
        for classes in (1, 2, 19, 150, 255):
            shape = (1, classes, 4, 9)
            scores, labels = make(shape, self.size(shape, (19, 35)))
            for value in (255, -(2**40), classes, 2**40) if classes == 19 else (255,):
                self.on_gpu(backend, scores, labels.masked_fill(labels == 0, value), setting)
        none = self.on_gpu(backend, scores, torch.full_like(labels, 255), setting)
        assert not self.reads_labels or not any(value.any() for value in none.values()), "not zero without a pixel"

    @pytest.mark.parametrize(
        "message, change",
        {
            "{scores} must be float32": lambda x, y: (x.long(), y),
            "{scores} must be": lambda x, y: (x[0], y),
            "{scores} must be .*K, h, w >= 1": lambda x, y: (x[:, :0], y),
        }.items(),
    )
    def test_bad_scores_are_named(self, message, change):
        with pytest.raises(ValueError, match=message.replace("{scores}", self.scores_name)):
            self.operator(*change(*make((1, 4, 3, 3))), self.settings[0])

    @pytest.mark.parametrize(
        "message, change",
        {
            "{labels} must be uint8": lambda y: y.float(),
            "{labels} must be": lambda y: y[0],
            r"{labels} must be \(1, ": lambda y: y.repeat(2, 1, 1),
            "{labels} .* on meta": lambda y: y.to("meta"),
        }.items(),
    )
    def test_bad_labels_are_named(self, message, change):
        scores, labels = make((1, 4, 3, 3))
        if self.reads_labels:
            with pytest.raises(ValueError, match=message.replace("{labels}", self.labels_name)):
                self.operator(scores, change(labels), self.settings[0])
