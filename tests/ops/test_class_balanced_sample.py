"""Samplers by class: exact numbers of each class, uniform, reproducible."""

import gpu
import pytest
import torch
from uniform import chi_square

from fastuda.ops import class_balanced_sample, sample_per_class
from fastuda.ops._library import has_kernel
from fastuda.reference import class_balanced_sample as definition
from fastuda.reference._random import draw_seed

CLASSES = 6


def labels(images=3, height=31, width=40, dtype=torch.uint8) -> torch.Tensor:
    """Classes of very different sizes, class 5 missing, some ignored; the last image has few valid pixels."""
    g = torch.Generator().manual_seed(0)
    share = torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01])
    y = torch.multinomial(share, images * height * width, replacement=True, generator=g).view(images, height, width)
    y = y.masked_fill(torch.rand(y.shape, generator=g) < 0.2, 255)
    y[-1] = 255
    y[-1, 2, 3:10] = 1
    return y.to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("count", [0, 1, 64, 512])
def test_shares_of_the_image(count, dtype):
    y = labels(dtype=dtype)
    index = class_balanced_sample(y, count, CLASSES, generator=generator())
    assert index.shape == (3, count) and index.dtype == torch.int64
    for found, of in zip(index, y.flatten(1).long(), strict=True):
        valid = (of < CLASSES).sum().item()
        drawn = found[found >= 0]
        assert len(drawn) == min(count, valid) and (found[len(drawn) :] == -1).all()
        assert (drawn.diff() > 0).all(), "not in rising order, or twice the same"
        sizes = torch.bincount(of[of < CLASSES], minlength=CLASSES)
        quota = count * sizes // max(1, valid)
        more = torch.bincount(of[drawn], minlength=CLASSES) - quota.clamp(max=sizes)
        assert (more >= 0).all() or valid < count


def test_more_than_there_are_pixels():
    y = torch.tensor([[0, 1, 255, 1]])
    index = class_balanced_sample(y, 7, 2, generator=generator())
    assert index.tolist() == [[0, 1, 3, -1, -1, -1, -1]]
    assert sample_per_class(y, 3, 2, generator=generator()).tolist() == [[[0, -1, -1], [1, 3, -1]]]
    assert class_balanced_sample(y[:, :0], 2, 2).tolist() == [[-1, -1]]
    assert sample_per_class(y[:0], 2, 2).shape == (0, 2, 2)


def test_every_pixel_of_a_class_is_equally_likely():
    y = labels(1, 10, 12).expand(3000, -1, -1).clone()
    y[:] = labels(2, 10, 12)[0]  # not the sparse last image
    index = class_balanced_sample(y, 20, CLASSES, generator=generator())
    drawn = torch.bincount(index.flatten(), minlength=120)
    for c in range(3):
        assert abs(chi_square(drawn[y[0].flatten() == c])) < 5, f"class {c}"
    # The top-up takes any pixel left over: nearly all of the smallest classes' chances.
    assert not drawn[y[0].flatten() == 255].any()


def test_every_pixel_is_equally_likely_per_class():
    y = labels(2, 10, 12)[:1].expand(3000, -1, -1)
    index = sample_per_class(y, 4, CLASSES, generator=generator())
    drawn = torch.bincount(index[index >= 0], minlength=120)
    for c in range(3):
        members = y[0].flatten() == c
        assert members.sum() > 4 and abs(chi_square(drawn[members])) < 5, f"class {c}"


def test_the_top_up_is_uniform_over_what_is_left():
    """7 classes of 10 pixels and 6 to draw: every quota is 0, so all six are top-up."""
    y = torch.arange(70).remainder(7).expand(4000, -1)
    index = class_balanced_sample(y, 6, 7, generator=generator())
    assert abs(chi_square(torch.bincount(index.flatten(), minlength=70))) < 5


def test_images_are_drawn_apart_and_seeds_matter():
    y = labels(2)[:1].expand(2, -1, -1)
    index = class_balanced_sample(y, 64, CLASSES, generator=generator())
    assert not torch.equal(index[0], index[1])
    assert torch.equal(index, class_balanced_sample(y, 64, CLASSES, generator=generator()))
    assert not torch.equal(index, class_balanced_sample(y, 64, CLASSES, generator=generator(1)))


@pytest.mark.parametrize("per_class", [0, 1, 30])
def test_per_class(per_class):
    y = labels()
    index = sample_per_class(y, per_class, CLASSES, generator=generator())
    assert index.shape == (3, CLASSES, per_class)
    for found, of in zip(index, y.flatten(1).long(), strict=True):
        for c, row in enumerate(found):
            drawn = row[row >= 0]
            assert len(drawn) == min(per_class, (of == c).sum()) and (row[len(drawn) :] == -1).all()
            assert (of[drawn] == c).all() and (drawn.diff() > 0).all()


def test_ignored_and_out_of_range_are_never_drawn():
    y = labels(dtype=torch.int64)
    plain = class_balanced_sample(y, 64, CLASSES, generator=generator())
    for value in (-1, -(2**40), 6, 2**31, 2**40):
        again = class_balanced_sample(y.masked_fill(y == 255, value), 64, CLASSES, generator=generator())
        assert torch.equal(again, plain)
    index = class_balanced_sample(y, 64, CLASSES, ignore_index=0, generator=generator())
    assert (y.flatten(1).gather(1, index.clamp(min=0))[index >= 0] != 0).all()


@pytest.mark.parametrize("layout", ["sliced", "transposed"])
def test_layouts(layout):
    y = labels()
    other = (
        torch.full((3, 33, 41), 7, dtype=y.dtype)[:, 2:, 1:].copy_(y) if layout == "sliced" else y.mT.contiguous().mT
    )
    for sample in (class_balanced_sample, sample_per_class):
        assert torch.equal(
            sample(other, 50, CLASSES, generator=generator()), sample(y, 50, CLASSES, generator=generator())
        )


def test_opcheck_and_compile():
    y, seed = labels().flatten(1), torch.tensor([3, 4])
    for op in (torch.ops.fastuda.class_balanced_sample, torch.ops.fastuda.sample_per_class):
        for view in (y, y[:, ::2], y.T.contiguous().T):
            torch.library.opcheck(op.default, (view, seed, CLASSES, 16, 255))
    step = torch.compile(lambda y: class_balanced_sample(y, 8, CLASSES), fullgraph=True, backend="aot_eager")
    assert step(y).shape == (3, 8)


@pytest.mark.parametrize(
    "message, change",
    {
        "labels must be uint8": {"labels": torch.zeros(2, 3)},
        r"labels must be \(B, H, W\) or \(B, P\)": {"labels": torch.zeros(3, dtype=torch.int64)},
        "count must be at least 0": {"count": -1},
        "num_classes at least 1": {"num_classes": 0},
    }.items(),
)
def test_bad_input_is_named(message, change):
    arguments = {"labels": torch.zeros(2, 3, dtype=torch.int64), "count": 4, "num_classes": 2}
    with pytest.raises(ValueError, match=message):
        class_balanced_sample(**(arguments | change))


def test_cpu_kernels_are_compiled(compiled):
    for name in ("class_balanced_sample", "sample_per_class"):
        assert has_kernel(name, "CPU"), f"{name}: no compiled kernel, every test would test the reference"


def agree(
    y: torch.Tensor, seed: torch.Tensor, classes: int, wanted: int, ignore_index: int = 255, backend: str | None = None
) -> None:
    for name in ("class_balanced_sample", "sample_per_class"):
        raw, true = getattr(torch.ops.fastuda, name), getattr(definition, name)
        ours = gpu.run(backend, lambda y, s, raw=raw: raw(y, s, classes, wanted, ignore_index), y, seed)
        assert torch.equal(ours, true(y, seed, classes, wanted, ignore_index)), name


# Images, pixels, classes and pixels wanted.
SIZES = (
    (0, 5, 2, 3), (3, 0, 2, 3), (1, 1, 1, 1), (7, 97, 5, 20), (5, 300, 1, 40), (4, 800, 19, 100), (3, 64, 9, 64),
    (2, 50, 30, 300),
)  # fmt: skip


def random_labels(images: int, pixels: int, classes: int, dtype: torch.dtype, g: torch.Generator) -> torch.Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-3, classes + 3)
    y = torch.randint(low, high, (images, pixels), generator=g)
    return y.where(torch.rand(y.shape, generator=g) < 0.2, y.remainder(classes)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_exactly_the_pixels_of_the_definition(dtype):
    g = torch.Generator().manual_seed(1)
    for images, pixels, classes, wanted in SIZES:
        y = random_labels(images, pixels, classes, dtype, g)
        seed = torch.randint(0, 1 << 32, (2,), generator=g)
        for view in (y, y.T.contiguous().T, torch.cat([y, y], 1)[:, ::2], y[:, 1:]):
            for ignore_index in (255, 0, -100, 2**40):
                agree(view, seed, classes, wanted, ignore_index)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_gpu_exactly_the_pixels_of_the_definition(backend, dtype):
    g = torch.Generator().manual_seed(1)
    for images, pixels, classes, wanted in (*SIZES[:4], (2, 9000, 19, 100), SIZES[5])[
        0 if dtype == torch.uint8 else 4 :
    ]:
        y = random_labels(images, pixels, classes, dtype, g)
        seed = torch.randint(0, 1 << 32, (2,), generator=g)
        agree(y, seed, classes, wanted, backend=backend)
    for view in (y.T.contiguous().T, torch.cat([y, y], 1)[:, ::2]):
        agree(view, seed, classes, wanted, ignore_index=3, backend=backend)


@pytest.mark.gpu
@gpu.each_backend
def test_gpu_many_images_and_the_same_pixels_as_on_a_cpu_for_one_generator(backend):
    """Of many images some are short of candidates at the first look."""
    g = torch.Generator().manual_seed(2)
    many = torch.randint(0, 3, (3000, 90), generator=g)
    agree(many, torch.randint(0, 1 << 32, (2,), generator=g), 3, 12, backend=backend)
    for sample in (class_balanced_sample, sample_per_class):
        ours = gpu.run(backend, lambda y, sample=sample: sample(y, 50, CLASSES, generator=generator()), labels())
        assert torch.equal(ours, sample(labels(), 50, CLASSES, generator=generator()))


def test_exact_where_the_first_look_finds_too_few():
    """A class's candidates fall short about once in a thousand: many images, and quotas of every size."""
    g = torch.Generator().manual_seed(2)
    y = torch.randint(0, 3, (6000, 90), generator=g)
    for wanted in (1, 12, 60):
        agree(y, torch.randint(0, 1 << 32, (2,), generator=g), 3, wanted)


def test_exact_where_the_first_look_finds_no_more_than_wanted():
    """Pixels of a class whose candidates are all drawn are still there for the top-up: two of these images need it."""
    g = torch.Generator().manual_seed(2)
    agree(torch.randint(0, 3, (3000, 90), generator=g), torch.randint(0, 1 << 32, (2,), generator=g), 3, 12)


def test_same_pixels_for_any_number_of_threads():
    y, threads = labels(9), torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            agree(y.flatten(1), torch.tensor([7, 2**32 - 1]), CLASSES, 100)
    finally:
        torch.set_num_threads(threads)


def test_the_raw_operators_refuse_what_they_would_misread(compiled):
    y, seed = labels().flatten(1), torch.tensor([1, 2])
    for bad in ((y[0], seed, 3, 4), (y.float(), seed, 3, 4), (y, seed[:1], 3, 4), (y, seed, 0, 4), (y, seed, 3, -1)):
        for name in ("class_balanced_sample", "sample_per_class"):
            with pytest.raises(RuntimeError):
                getattr(torch.ops.fastuda, name)(*bad, 255)


# --- generators while a CUDA graph is captured; no GPU is needed to ask ---


def test_a_generator_of_the_cpu_is_refused_during_a_capture(monkeypatch):
    """Its numbers would be those of the capture in every replay."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"generator on cpu .*register_generator_state"):
        draw_seed(torch.device("cuda"), torch.Generator())


def test_a_generator_that_was_not_registered_is_named(monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("Attempt to increase offset for a CUDA generator not in capture mode.")

    class Own:
        device = torch.device("cuda")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch, "randint", refuses)
    with pytest.raises(RuntimeError, match="registered before: call graph.register_generator_state"):
        draw_seed(torch.device("cuda"), Own())
    with pytest.raises(RuntimeError, match="not in capture mode"):
        draw_seed(torch.device("cuda"), None)
