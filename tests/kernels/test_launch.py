"""The short way to a warm launch: what Triton's launcher gets, what the key holds, when it steps aside; and grids."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from unittest import mock

import needed
import pytest

needed.module("triton")

import spilling  # noqa: E402
import torch  # noqa: E402
import triton_room  # noqa: E402
from triton import knobs  # noqa: E402

STREAM, GRID = 7, (5, 2)
MOST_IN_Y = 2**16 - 1  # programs along the second and third dimension of a grid


class Launcher:
    """Called as Triton's, keeps what it is given."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(
        self, gridX, gridY, gridZ, stream, function, kernel_metadata, launch_metadata, launch_enter_hook,
        launch_exit_hook, *args,
    ):  # fmt: skip
        self.calls.append((gridX, gridY, gridZ, stream, function, kernel_metadata, args))


class Room:
    """``_launch.start`` of a kernel that Triton would compile, without a card: counts what Triton is asked."""

    def __init__(self, launch, kernel, monkeypatch, launcher=None) -> None:
        self.launch, self.kernel, self.launcher, self.compiled = launch, kernel, launcher or Launcher(), 0
        driver = SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda device: STREAM))
        monkeypatch.setattr(launch, "driver", driver)
        monkeypatch.setattr(launch, "_kept", {})
        monkeypatch.setattr(kernel, "run", self.run)

    def run(self, *args, grid, warmup, **options):
        self.compiled += 1
        return SimpleNamespace(run=self.launcher, function="handle", packed_metadata="metadata")

    def start(self, x, size=5, scale=1.0, channels=16, other=None, grid=GRID, **options) -> None:
        options = {"BLOCK": 64, "num_warps": 4} | options
        self.launch.start(self.kernel, grid, (x, other, size, channels, scale), options)

    def asks_triton(self, *args, **options) -> bool:
        before = self.compiled
        self.start(*args, **options)
        return self.compiled > before


@pytest.fixture
def launch():
    triton_room.use_kernels()
    return triton_room.kernel_module("_launch")


@pytest.fixture
def room(launch, monkeypatch):
    return Room(launch, spilling.exempt(), monkeypatch)


def test_a_warm_launch_goes_to_the_launcher(room):
    x, other = torch.empty(64), torch.empty(64, dtype=torch.int32)
    room.start(x, other=other)
    assert (room.compiled, room.launcher.calls) == (1, [])
    room.start(x, 7, 2.5, other=other)
    assert room.compiled == 1
    ((*grid, stream, handle, metadata, args),) = room.launcher.calls
    assert (grid, stream, handle, metadata) == ([5, 2, 1], STREAM, "handle", "metadata")
    assert args == (x.data_ptr(), other.data_ptr(), 7, 16, 2.5, None)


def test_the_key_holds_all_that_triton_compiles_in(room):
    x, half = torch.empty(64), torch.empty(64, dtype=torch.float16)
    room.start(x)
    for change in (
        {"x": half}, {"x": x[1:]}, {"channels": 17}, {"channels": None}, {"other": half}, {"size": 2**31},
        {"size": None}, {"scale": 2}, {"BLOCK": 32}, {"num_warps": 8}, {"maxnreg": 128},
    ):  # fmt: skip
        assert room.asks_triton(**({"x": x} | change)), change
        assert not room.asks_triton(**({"x": x} | change)), f"{change} is not kept"


def test_the_key_holds_nothing_that_differs_from_batch_to_batch(room):
    x = torch.empty(64)
    room.start(x)
    for size in (1, 16, 17, 2**31 - 1, -3):
        assert not room.asks_triton(x, size)
    assert not room.asks_triton(torch.empty(32), scale=0.1, grid=(1,))


def test_devices_do_not_share_a_kernel(room, monkeypatch):
    class Second(torch.Tensor):
        def get_device(self):
            return 1

    entered = []

    class Guard:
        def __init__(self, device):
            entered.append(device)

        __enter__ = __exit__ = lambda *given: None

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", Guard)
    x = torch.empty(64)
    second = x.as_subclass(Second)
    room.start(second)
    assert entered == [1] and not room.asks_triton(second) and entered == [1, 1]
    assert room.asks_triton(x) and len(entered) == 2


def test_hooks_see_every_launch(room):
    x, seen = torch.empty(64), []
    room.start(x)
    assert not room.asks_triton(x)
    for hook in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
        hook.add(seen.append)
        try:
            assert room.asks_triton(x)
        finally:
            hook.remove(seen.append)
    room.kernel.add_pre_run_hook(print)
    assert room.asks_triton(x)
    room.kernel.pre_run_hooks.clear()
    assert not room.asks_triton(x)


def test_a_launcher_that_is_called_otherwise_is_left_to_triton(launch, monkeypatch):
    class Changed(Launcher):
        def __call__(self, grid, stream, *args):
            raise AssertionError("called as another version's")

    room = Room(launch, spilling.exempt(), monkeypatch, Changed())
    assert all(room.asks_triton(torch.empty(64)) for _ in range(3))


def test_the_launcher_of_this_triton_is_known(launch):
    driver = needed.module("triton.backends.nvidia.driver")
    assert tuple(inspect.signature(driver.CudaLauncher.__call__).parameters)[1:-1] in launch.LAUNCHED_BY


def test_what_is_kept_is_bounded(room, monkeypatch):
    monkeypatch.setattr(room.launch, "MOST_KEPT", 4)
    for channels in range(2, 40):
        room.start(torch.empty(64), channels=channels)
        assert len(room.launch._kept) <= 4


def grids(call) -> list[tuple[int, ...]]:
    common, found = triton_room.kernel_module("_common"), []
    with (
        mock.patch.object(common, "capability", lambda device: 90),
        mock.patch.object(common, "_start", lambda kernel, grid, args, options: found.append(grid)),
    ):
        call()
    return found


def meta(*shape, dtype=torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_any_number_of_problems_fits_in_a_grid():
    triton_room.use_kernels()
    module = triton_room.kernel_module("sinkhorn")
    for shape in ((70_000, 9, 5), (2**22, 300, 19), (1, 2**31 - 2**12, 256)):
        scores, marginal = meta(*shape), meta(shape[0], shape[2])
        if module.serves(scores, marginal, 0.05, 3, shape[1]):
            found = grids(lambda s=scores, m=marginal: module.sinkhorn(s, m, 0.05, 3, s.shape[1]))
            assert found and max(side for grid in found for side in grid[1:]) <= MOST_IN_Y
            assert max(grid[0] for grid in found) < 2**31
    assert module.serves(meta(70_000, 9, 5), meta(70_000, 5), 0.05, 3, 9)
    assert not module.serves(meta(2**24, 2**11, 5), meta(2**24, 5), 0.05, 3, 9)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("channels", [1, 64])
def test_any_number_of_pixels_fits_in_a_grid(channels, normalize):
    """Slopes of the full bound have tiles of pixels along the second dimension: larger inputs take several launches."""
    triton_room.use_kernels()
    module, pixels = triton_room.kernel_module("contrastive_bound_full"), 2**25 + 5
    features, labels = meta(pixels, channels), meta(pixels, dtype=torch.uint8)
    given = meta(pixels), features, labels, meta(2, channels), meta(2, channels, channels), meta(pixels, 2)
    found = grids(lambda: module.backward(*given, 100.0, normalize, 255))
    assert max(side for grid in found for side in grid[1:]) <= MOST_IN_Y
