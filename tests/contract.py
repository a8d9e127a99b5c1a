"""The contract of every operator on pixels, as one suite.

An operator joins by subclassing ``PixelContract`` in its test file as ``class TestContract(PixelContract)`` and saying
how it and its reference are called; every test below then runs on it.  See tests/ops/test_class_moments.py.
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

from fastuda.ops._dispatch import TABLE
from fastuda.ops._library import has_kernel

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LABEL_DTYPES = (torch.uint8, torch.int32, torch.int64)
LAYOUTS = (
    "nchw", "channels_last", "rows", "sliced", "strided", "channel_slice", "transposed", "expanded", "inside_nan"
)  # fmt: skip
UGLY_SHAPES = ((1, 1, 1, 1), (1, 7, 1, 1), (1, 3, 1, 257), (3, 5, 127, 1), (0, 4, 3, 3), (2, 4, 0, 3))
LOSS_SCALE = 65536.0  # of a loss's gradient, so that 16-bit gradients are above the smallest number of their type

Outputs = dict[str, Tensor]


def make(shape, num_classes, dtype=torch.float32, label_dtype=torch.int64, seed=0) -> tuple[Tensor, Tensor]:
    """Features with a different offset in each class and channel, labels with ignored and out-of-range values."""
    g = torch.Generator().manual_seed(seed)
    n, channels, height, width = shape
    low, high = (0, 256) if label_dtype == torch.uint8 else (-2, num_classes + 2)
    labels = torch.randint(low, high, (n, height, width), generator=g)
    some = torch.rand(labels.shape, generator=g) < 0.8
    labels = torch.where(some, torch.randint(0, num_classes, labels.shape, generator=g), labels)
    offset = 3 * torch.randn(num_classes, channels, generator=g)
    features = torch.randn(n, height, width, channels, generator=g) + offset[labels.clamp(0, num_classes - 1)]
    return features.permute(0, 3, 1, 2).contiguous().to(dtype), labels.to(label_dtype)


def lay_out(features: Tensor, labels: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    if layout == "channels_last":
        return features.contiguous(memory_format=torch.channels_last), labels
    if layout == "rows":
        return rows(features), labels.reshape(-1)
    if layout == "sliced":
        return features[:, :, 1:, 2:], labels[:, 1:, 2:]
    if layout == "strided":
        return features[:, :, ::2, ::3], labels[:, ::2, ::3]
    if layout == "channel_slice":
        return features.contiguous(memory_format=torch.channels_last)[:, 1:], labels
    if layout == "transposed":
        return features.mT.contiguous().mT, labels.mT.contiguous().mT
    if layout == "expanded":
        return features[:1].expand(len(features), -1, -1, -1), labels
    if layout == "inside_nan":
        n, a, h, w = features.shape
        return torch.full((n, a + 1, h + 2, 2 * w), torch.nan).to(features)[:, 1:, 1:-1, ::2].copy_(features), labels
    return features, labels


def rows(features: Tensor) -> Tensor:
    """(P, A) of features (N, A, H, W) or (P, A)."""
    return features.movedim(1, -1).reshape(-1, features.shape[1])


class PixelContract:
    """What a subclass says; the rest are the tests.

    settings: the forms of the operator, the first one cheap at K = 150, A = 2048.
    operator, reference: ``(features, labels, num_classes, setting, ignore_index=255) -> {name: output}`` on features
        (N, A, H, W) or (P, A), for any strides the same outputs; everything else they need they make from the sizes.
    raw: ``(features, labels, num_classes, setting) -> [(raw operator, arguments)]`` for opcheck.
    loss: the name of the scalar output that is differentiated, if any; "gradient" (P, A) then joins the outputs.
    features_name: what the operator calls its first argument.
    compiled: raw operators whose CPU key must hold a compiled kernel.
    roundings: the epsilon of close.py in units of the smallest step of the arithmetic, float32 or float64.
    same_bits_for_threads: whether the number of threads leaves every bit alone.
    """

    settings: tuple
    operator: Callable[..., Outputs]
    reference: Callable[..., Outputs]
    raw: Callable
    loss: str | None = None
    features_name: str = "features"
    compiled: tuple[str, ...] = ()
    roundings: float = 16
    same_bits_for_threads: bool = False

    def evaluate(
        self, call: Callable[..., Outputs], features: Tensor, labels: Tensor, classes: int, setting, **options
    ):
        if self.loss is None:
            return call(features, labels, classes, setting, **options)
        features = features.detach().requires_grad_()
        out = call(features, labels, classes, setting, **options)
        (slope,) = torch.autograd.grad(out[self.loss] * LOSS_SCALE, features)
        assert slope.dtype == features.dtype, f"gradient is {slope.dtype} for {features.dtype} features"
        return {name: value.detach() for name, value in out.items()} | {"gradient": rows(slope)}

    def check(self, features: Tensor, labels: Tensor, classes: int, setting=None, **options) -> Outputs:
        """Run the operator and hold it against its reference and the reference in float64."""
        setting = self.settings[0] if setting is None else setting
        ours = self.evaluate(self.operator, features, labels, classes, setting, **options)
        self.compare(ours, features, labels, classes, setting, **options)
        return ours

    def compare(self, ours: Outputs, features: Tensor, labels: Tensor, classes: int, setting, **options) -> Outputs:
        plain = self.evaluate(self.reference, features, labels, classes, setting, **options)
        truth = self.evaluate(self.reference, features.double(), labels, classes, setting, **options)
        assert ours.keys() == truth.keys()
        # The truth of a float64 result is no better than the result itself, hence the larger multiple.
        eps = torch.finfo(torch.float64).eps * 8 if features.dtype == torch.float64 else torch.finfo(torch.float32).eps
        for name, exact in truth.items():
            if exact.is_floating_point():
                assert_as_accurate(ours[name].cpu(), plain[name], exact, self.roundings * eps, name)
            else:
                assert ours[name].dtype == exact.dtype and torch.equal(ours[name].cpu(), exact), f"{name} differs"
        return truth

    def same(self, a: Outputs, b: Outputs, why: str) -> None:
        for name in a:
            assert torch.equal(a[name], b[name]), f"{name}: {why}"

    def each(self, features: Tensor, labels: Tensor, classes: int, setting=None) -> Outputs:
        return self.evaluate(self.operator, features, labels, classes, setting or self.settings[0])

    # --- the tests ---

    def test_cpu_kernels_are_compiled(self, compiled):
        for name in self.compiled:
            assert has_kernel(name, "CPU"), f"{name}: no compiled kernel, every test would test the reference"

    @pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
    def test_layouts_and_dtypes(self, dtype, layout, label_dtype):
        features, labels = lay_out(*make((2, 37, 19, 23), 13, dtype, label_dtype), layout)
        ours = self.check(features, labels, 13)
        assert all(value.any() for value in ours.values()), "an output is zero: the comparison says nothing"

    @pytest.mark.parametrize("layout, dtype", [("nchw", DTYPES[0]), ("rows", DTYPES[0]), ("channels_last", DTYPES[1])])
    @pytest.mark.parametrize("channels", [1, 19, 64, 256, 2048])
    @pytest.mark.parametrize("num_classes", [2, 13, 16, 19, 150])
    def test_classes_and_channels(self, num_classes, channels, layout, dtype):
        self.check(*lay_out(*make((1, channels, 17, 29), num_classes, dtype), layout), num_classes)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_settings(self, dtype):
        for setting in self.settings:
            for layout in ("nchw", "channels_last"):
                self.check(*lay_out(*make((2, 19, 13, 11), 5, dtype), layout), 5, setting)

    @pytest.mark.parametrize("shape", UGLY_SHAPES)
    def test_ugly_shapes(self, shape):
        for setting in self.settings:
            for layout in ("nchw", "channels_last", "rows"):
                self.check(*lay_out(*make(shape, 3), layout), 3, setting)

    def test_no_valid_pixel_is_zero_and_a_class_may_be_missing(self):
        features, labels = make((1, 8, 5, 6), 3)
        for setting in self.settings:
            out = self.check(features, torch.full_like(labels, 255), 3, setting)
            assert not any(value.any() for value in out.values()), f"{setting}: not zero without a valid pixel"
            self.check(features, torch.where(labels == 1, 2, labels), 3, setting)

    def test_labels_out_of_range_are_never_an_index(self):
        features, labels = make((1, 8, 5, 6), 3)
        for setting in self.settings:
            ignored = self.each(
                features, labels.masked_fill((labels == 0) | (labels < 0) | (labels > 2), 255), 3, setting
            )
            for value in (-1, -(2**40), 3, 256, 2**31, 2**40):
                out = self.check(features, labels.masked_fill(labels == 0, value), 3, setting)
                self.same(out, ignored, f"label {value} is not ignored")
            self.check(features, labels.clamp(0, 2), 3, setting, ignore_index=1)
            # More classes than uint8 has values; in float64, as float32 sums over 300 classes are another matter.
            self.check(features.double(), labels.to(torch.uint8), 300, setting, ignore_index=-100)

    def test_ignored_features_are_not_read_into_any_result(self):
        features, labels = make((1, 20, 9, 9), 3)
        ignored = ((labels < 0) | (labels >= 3)).unsqueeze(1)
        for setting in self.settings:
            for layout in ("nchw", "channels_last"):
                clean = self.each(*lay_out(features, labels, layout), 3, setting)
                for value in (torch.nan, torch.inf):
                    dirty, _ = lay_out(features.masked_fill(ignored, value), labels, layout)
                    self.same(self.each(dirty, labels, 3, setting), clean, f"it holds an ignored {value}")
                    if self.loss is None:  # a definition under autograd need not survive it
                        torch.testing.assert_close(self.reference(dirty, labels, 3, setting), clean)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_any_shape(self, data):
        shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24)))
        classes, seed = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 2**16))
        # Losses may cancel to nearly nothing at single pixels, where two float32 roundings cannot be told from a fault.
        dtypes = DTYPES if self.loss is None else (torch.float64,)
        dtype, layout = data.draw(st.sampled_from(dtypes)), data.draw(st.sampled_from(LAYOUTS[:5]))
        setting = data.draw(st.sampled_from(self.settings))
        features, labels = lay_out(*make(shape, classes, dtype, seed=seed), layout)
        if self.loss is None:
            self.check(features, labels, classes, setting)
        else:
            truth = self.evaluate(self.reference, features, labels, classes, setting)
            torch.testing.assert_close(self.each(features, labels, classes, setting), truth, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
    def test_opcheck(self, dtype):
        # Every form in float32; the dtypes and layouts, which the forms share, with the first one.
        cases = [("channels_last", setting) for setting in self.settings[: None if dtype == torch.float32 else 1]]
        for layout, setting in [("nchw", self.settings[0]), ("rows", self.settings[0]), *cases]:
            for op, arguments in self.raw(*lay_out(*make((2, 6, 5, 4), 3, dtype), layout), 3, setting):
                torch.library.opcheck(op, arguments)

    @pytest.mark.parametrize("layout", ["nchw", "rows"])
    def test_compile_fullgraph(self, layout):
        features, labels = lay_out(*make((1, 8, 9, 7), 4, label_dtype=torch.uint8), layout)
        for setting in self.settings:

            def call(x, y, classes, which):
                return {name: value * 1 for name, value in self.operator(x * 2, y, classes, which).items()}

            torch.compiler.reset()
            step = torch.compile(call, fullgraph=True, backend="aot_eager")
            eager = self.evaluate(call, features, labels, 4, setting)
            torch.testing.assert_close(self.evaluate(step, features, labels, 4, setting), eager)

    def test_autocast_changes_nothing(self):
        features, labels = make((2, 16, 9, 7), 4)
        for setting in self.settings:
            plain = self.each(features, labels, 4, setting)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                self.same(self.each(features, labels, 4, setting), plain, "autocast changes it")

    def test_nan_filled_allocations(self):
        features, labels = make((1, 21, 40, 50), 40)
        for setting in self.settings:
            plain = self.each(features, labels, 40, setting)
            torch.use_deterministic_algorithms(True, warn_only=True)
            try:
                assert torch.utils.deterministic.fill_uninitialized_memory
                for layout in ("nchw", "channels_last"):
                    self.check(*lay_out(features, labels, layout), 40, setting)
                self.same(self.each(features, labels, 40, setting), plain, "something was left unwritten")
            finally:
                torch.use_deterministic_algorithms(False)

    def test_same_bits_again(self):
        features, labels = make((2, 300, 60, 80), 19)
        threads = torch.get_num_threads()
        try:
            first = self.each(features, labels, 19)
            for n in (threads, 1, 2, 3) if self.same_bits_for_threads else (threads,):
                torch.set_num_threads(n)
                self.same(self.each(features, labels, 19), first, f"other bits with {n} threads")
        finally:
            torch.set_num_threads(threads)

    def on_gpu(self, backend: str, features: Tensor, labels: Tensor, classes: int, setting) -> None:
        """Run on the GPU, on the layout as it is, and hold it against the reference in float64 on the CPU."""
        with gpu.noted(setting=setting, features=tuple(features.shape), strides=features.stride(), labels=labels.dtype):
            ours = gpu.run(backend, lambda x, y: self.each(x, y, classes, setting), features, labels)
            self.compare(ours, features, labels, classes, setting)

    def served(self, backend: str) -> list:
        """The settings of which a GPU has kernels; a low rank has none, and the reference needs none."""
        pixels = make((1, 8, 3, 3), 3)
        names = {
            setting: {str(op).split(".")[1] for op, _ in self.raw(*pixels, 3, setting)}  # "fastuda.NAME.default"
            for setting in self.settings
        }
        found = [setting for setting in self.settings if backend == "reference" or names[setting] <= TABLE.keys()]
        assert found, "no setting has a kernel: the test would compare nothing"
        return found

    @pytest.mark.gpu
    @pytest.mark.parametrize(
        "backend, dtype", [*((b, d) for b in gpu.BACKENDS for d in gpu.FLOAT_DTYPES[b]), ("reference", DTYPES[0])]
    )
    def test_gpu_settings(self, dtype, backend):
        for setting in self.served(backend):
            for layout in ("nchw", "channels_last"):
                self.on_gpu(backend, *lay_out(*make((2, 64, 31, 29), 19, dtype), layout), 19, setting)

    @pytest.mark.gpu
    @gpu.each_backend
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_gpu_layouts(self, layout, backend):
        for label_dtype in LABEL_DTYPES:
            features, labels = lay_out(*make((2, 37, 19, 23), 13, label_dtype=label_dtype), layout)
            self.on_gpu(backend, features, labels, 13, self.settings[0])

    @pytest.mark.gpu
    @gpu.each_backend
    @pytest.mark.parametrize("channels, classes", [(1, 2), (19, 150), (150, 19), (256, 19), (2048, 19)])
    def test_gpu_classes_and_channels(self, channels, classes, backend):
        features, labels = lay_out(*make((1, channels, 17, 29), classes, DTYPES[2]), "channels_last")
        self.on_gpu(backend, features, labels, classes, self.settings[0])

    @pytest.mark.gpu
    @gpu.each_backend
    def test_gpu_ugly_shapes_and_labels(self, backend):
        for setting in self.served(backend):
            for shape in UGLY_SHAPES:
                self.on_gpu(backend, *make(shape, 3), 3, setting)
            features, labels = make((1, 8, 5, 6), 3)
            for value in (255, -(2**40), 3, 2**40):
                self.on_gpu(backend, features, labels.masked_fill(labels == 0, value), 3, setting)
            self.on_gpu(backend, features, torch.full_like(labels, 255), 3, setting)

    @pytest.mark.parametrize(
        "message, change",
        {
            "{features} must be float32": lambda f, y: (f.long(), y),
            "labels must be uint8": lambda f, y: (f, y.float()),
            r"labels must have shape \(1, 3, 3\)": lambda f, y: (f, y[:, :2]),
            "{features} must be": lambda f, y: (f[0], y[0]),
            "labels are on meta": lambda f, y: (f, y.to("meta")),
        }.items(),
    )
    def test_bad_pixels_are_named(self, message, change):
        with pytest.raises(ValueError, match=message.replace("{features}", self.features_name)):
            self.operator(*change(*make((1, 4, 3, 3), 2)), 2, self.settings[0])
