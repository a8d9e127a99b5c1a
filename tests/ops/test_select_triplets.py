"""select_triplets: allowed partners only, uniform, reproducible."""

import gpu
import pytest
import torch
from uniform import chi_square

from fastuda.ops import select_triplets
from fastuda.ops._library import has_kernel
from fastuda.reference.select_triplets import select_triplets as definition

CLASSES, MODES = 5, 3


def rows(count: int, seed: int, dtype=torch.int64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (count,), generator=g)
    label = label.where(torch.rand(count, generator=g) < 0.9, 255)
    return label.to(dtype), torch.randint(0, MODES, (count,), generator=g).to(dtype)


def draw(source, target, seed=0):
    g = torch.Generator().manual_seed(seed)
    return select_triplets(*source, *target, num_classes=CLASSES, num_modes=MODES, generator=g)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_partners_are_allowed(dtype):
    source, target = rows(700, 0, dtype), rows(300, 1, dtype)
    positive, negative, valid = draw(source, target)
    usable = target[0] < CLASSES
    assert torch.equal(valid, usable)  # all 15 buckets of 700 rows are filled
    p, n = positive[valid], negative[valid]
    assert torch.equal(source[0][p], target[0][valid]) and torch.equal(source[1][p], target[1][valid])
    assert (source[0][n] != target[0][valid]).all() and (source[0][n] < CLASSES).all()
    assert not positive[~valid].any() and not negative[~valid].any()


def test_every_partner_is_equally_likely():
    source = rows(60, 2)
    target = torch.full((40_000,), 2), torch.full((40_000,), 1)
    positive, negative, valid = draw(source, target)
    assert valid.all()
    allowed = ((source[0] == 2) & (source[1] == 1)).nonzero().flatten()
    assert len(allowed) > 2 and abs(chi_square(torch.bincount(positive, minlength=60)[allowed])) < 5
    others = ((source[0] != 2) & (source[0] < CLASSES)).nonzero().flatten()
    assert abs(chi_square(torch.bincount(negative, minlength=60)[others])) < 5
    assert torch.bincount(negative, minlength=60).sum() == torch.bincount(negative, minlength=60)[others].sum()
    # Positive and negative of one row are independent.
    pair = torch.bincount(positive * 60 + negative, minlength=3600).view(60, 60)[allowed][:, others]
    assert abs(chi_square(pair.flatten())) < 5


def test_the_statistic_can_fail():
    counts = torch.full((50,), 800)
    assert abs(chi_square(counts + torch.randint(-40, 41, (50,), generator=torch.Generator().manual_seed(0)))) < 5
    counts[7] += 500
    assert chi_square(counts) > 5


def test_missing_partners():
    no_mode, one_class = (torch.tensor([0, 1]), torch.tensor([0, 0])), (torch.tensor([0, 0]), torch.tensor([0, 1]))
    target = torch.tensor([0, 0, 1, 3, -1]), torch.tensor([0, 1, 0, 0, 0])
    assert draw(no_mode, target).valid.tolist() == [True, False, True, False, False]
    assert not draw(one_class, target).valid.any()
    nobody = (torch.zeros(0, dtype=torch.int64),) * 2
    assert not draw(nobody, target).valid.any() and draw(no_mode, nobody).valid.shape == (0,)


def test_reproducible_and_fresh():
    source, target = rows(500, 3), rows(200, 4)
    first, again, other = draw(source, target), draw(source, target), draw(source, target, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert (first.positive != other.positive).float().mean() > 0.5
    g = torch.Generator().manual_seed(0)
    two = [select_triplets(*source, *target, num_classes=5, num_modes=3, generator=g).negative for _ in range(2)]
    assert not torch.equal(*two)


def test_opcheck_and_compile():
    source, target = rows(50, 5), rows(20, 6)
    seed = torch.tensor([1, 2])
    torch.library.opcheck(torch.ops.fastuda.select_triplets.default, (*source, *target, seed, CLASSES, MODES))

    def call(source, target):
        return select_triplets(*source, *target, num_classes=CLASSES, num_modes=MODES).valid

    step = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(source, target), call(source, target))


@pytest.mark.parametrize(
    "message, change",
    {
        "source_mode must be uint8, int32 or int64 of shape": {"source_mode": torch.zeros(3, dtype=torch.int64)},
        "target_class must be uint8": {"target_class": torch.zeros(4)},
        "target_mode is on meta": {"target_mode": torch.zeros(4, dtype=torch.int64, device="meta")},
        "num_classes and num_modes must be at least 1": {"num_modes": 0},
        "num_classes times num_modes must be below 2": {"num_classes": 2**62, "num_modes": 4},
    }.items(),
)
def test_bad_input_is_named(message, change):
    names = ("source_class", "source_mode", "target_class", "target_mode")
    arguments = {name: torch.zeros(4, dtype=torch.int64) for name in names}
    with pytest.raises(ValueError, match=message):
        select_triplets(**(arguments | {"num_classes": 2, "num_modes": 2} | change))


@pytest.mark.parametrize("classes, modes", [(2**62, 4), (2**31, 1), (2**16, 2**15)])
def test_more_classes_and_modes_than_are_counted(compiled, classes, modes):
    """Their product would overflow to an empty table, which is written to."""
    rows, seed = torch.zeros(4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="their product below 2"):
        torch.ops.fastuda.select_triplets(rows, rows, rows, rows, seed, classes, modes)


def test_cpu_kernel_is_compiled(compiled):
    assert has_kernel("select_triplets", "CPU"), "no compiled kernel, every test would test the reference"


def problems(classes: int, modes: int):
    """Arguments of the raw operator: source and target rows of several numbers, spread and dense, and a seed."""
    g = torch.Generator().manual_seed(classes)
    for source, target in ((0, 7), (7, 0), (1, 3), (300, 5000), (2000, 100)):
        inputs = []
        for count in (source, source, target, target):
            limit = (classes, modes)[len(inputs) % 2]
            inputs.append(torch.randint(-1, limit + 1, (2 * count,), generator=g)[::2])
        inputs[1][inputs[1] == modes] = 2**40
        seed = torch.randint(0, 1 << 32, (2,), generator=g)
        for chosen in (inputs, [x.contiguous() for x in inputs]):
            yield *chosen, seed


def exactly_the_definition(classes: int, modes: int, backend: str | None = None) -> None:
    for inputs in problems(classes, modes):
        ours = gpu.run(backend, lambda *x: torch.ops.fastuda.select_triplets(*x, classes, modes), *inputs)
        for mine, true in zip(ours, definition(*inputs, classes, modes), strict=True):
            assert mine.dtype == true.dtype and torch.equal(mine, true)


@pytest.mark.parametrize("classes, modes", [(1, 1), (2, 1), (5, 3), (19, 4), (150, 2)])
def test_exactly_the_partners_of_the_definition(classes, modes):
    exactly_the_definition(classes, modes)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("classes, modes", [(1, 1), (5, 3), (19, 3), (150, 2)])
def test_gpu_exactly_the_partners_of_the_definition(backend, classes, modes):
    exactly_the_definition(classes, modes, backend)


@pytest.mark.gpu
@gpu.each_backend
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_gpu_the_same_partners_as_on_a_cpu_for_one_generator(backend, dtype):
    inputs = *rows(700, 0, dtype), *rows(300, 1, dtype)
    found = gpu.run(backend, lambda *x: draw(x[:2], x[2:]), *inputs)
    gpu.same(found, draw(inputs[:2], inputs[2:]), "other partners")


def test_the_raw_operator_refuses_what_it_would_misread(compiled):
    row, seed = torch.zeros(4, dtype=torch.int64), torch.tensor([1, 2])
    for bad in (
        (row.int(), row, row, row, seed, 2, 2),
        (row, row[:3], row, row, seed, 2, 2),
        (row, row, row[None], row[None], seed, 2, 2),
        (row, row, row, row, seed.int(), 2, 2),
        (row, row, row, row, seed, 2, 0),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.fastuda.select_triplets(*bad)
