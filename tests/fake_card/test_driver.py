"""The stand-in driver refuses and records what a real card would refuse, and what it would do in silence."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys

import needed
import pytest
from fake_card import card

SUCCESS = 0


class Dim(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint)]


class Runtime:
    """The functions of the runtime, called as compiled code calls them."""

    def __init__(self, path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.fake_card_text.restype = ctypes.c_char_p
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        for name in ("cudaLaunchKernel", "cudaLaunchCooperativeKernel"):
            getattr(self.library, name).argtypes = [pointer, Dim, Dim, pointer, size, pointer]
        self.library.cudaMemcpyAsync.argtypes = [pointer, pointer, size, ctypes.c_int, pointer]
        self.library.fake_card_begin(1)

    def __getattr__(self, name: str):
        return getattr(self.library, name)

    def record(self) -> card.Record:
        return card.parse_record(self.library.fake_card_text().decode())

    def register(self, host: int, name: str) -> int:
        call = self.library["__cudaRegisterFunction"]
        call.argtypes = [ctypes.c_void_p] * 10
        call(None, host, None, name.encode(), *[None] * 6)
        return host

    def launch(
        self, kernel: int, grid=(1, 1, 1), block=(32, 1, 1), shared=0, stream=None, cooperative=False, arguments=None
    ) -> int:
        call = self.library.cudaLaunchCooperativeKernel if cooperative else self.library.cudaLaunchKernel
        return call(kernel, Dim(*grid), Dim(*block), arguments, shared, stream)

    def stream(self) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        assert self.library.cudaStreamCreate(ctypes.byref(made)) == SUCCESS
        return made

    def memory(self, size: int) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        assert self.library.cudaMalloc(ctypes.byref(made), ctypes.c_size_t(size)) == SUCCESS
        return made


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    needed.tool(shutil.which("g++"), "g++")
    needed.tool(card.headers(), "the CUDA toolkit, whose headers the stand-in driver includes,")
    return card.build(tmp_path_factory.mktemp("fake_card"))


@pytest.fixture
def runtime(path, monkeypatch):
    monkeypatch.setenv("FAKE_CARD_DEVICES", "2")
    made = Runtime(path)
    yield made
    made.cudaSetDevice(0)
    made.fake_card_expect_nothing()
    made.cudaGetLastError()


@pytest.mark.parametrize(
    "launch, fault",
    [
        ({"grid": (0, 1, 1)}, "grid out of range"),
        ({"grid": (1, 65536, 1)}, "grid out of range"),
        ({"block": (1025, 1, 1)}, "block out of range"),
        ({"block": (1, 1, 65)}, "block out of range"),
        ({"shared": 49153}, "more shared memory"),
        ({"grid": (132 * 32 + 1, 1, 1), "cooperative": True}, "not all blocks are resident"),
    ],
)
def test_launches_that_a_card_refuses(runtime, launch, fault):
    kernel = runtime.register(1, "kernel")
    assert runtime.launch(kernel, **launch) != SUCCESS
    assert [fault in text for text in runtime.record().faults] == [True]
    assert runtime.cudaGetLastError() != SUCCESS and runtime.cudaGetLastError() == SUCCESS


def test_launches_that_a_card_takes(runtime):
    kernel = runtime.register(1, "_ZN7fastuda6kernelE")
    assert runtime.launch(kernel, (0x7FFFFFFF, 65535, 65535), (1024, 1, 1), 49152) == SUCCESS
    assert runtime.launch(kernel, (132 * 32, 1, 1), cooperative=True) == SUCCESS
    assert runtime.cudaFuncSetAttribute(ctypes.c_void_p(kernel), 8, 232448) == SUCCESS
    assert runtime.launch(kernel, shared=232448) == SUCCESS
    record = runtime.record()
    assert (record.own, record.faults) == (3, []) and record.launches[2].shared == 232448
    assert runtime.cudaFuncSetAttribute(ctypes.c_void_p(kernel), 8, 232449) != SUCCESS


def test_a_stream_belongs_to_its_device(runtime):
    kernel, stream = runtime.register(1, "kernel"), runtime.stream()
    runtime.cudaSetDevice(1)
    assert runtime.launch(kernel, stream=stream) != SUCCESS
    assert "stream of device 0" in runtime.record().faults[0]


def test_launches_elsewhere_than_expected_are_faults(runtime):
    kernel, stream = runtime.register(1, "kernel"), runtime.stream()
    runtime.fake_card_expect(stream, 0)
    assert runtime.launch(kernel, stream=stream) == SUCCESS and not runtime.record().faults
    assert runtime.launch(kernel) == SUCCESS
    assert "not on the current stream" in runtime.record().faults[0]


def test_captures_forbid_what_waits(runtime):
    kernel, stream = runtime.register(1, "kernel"), runtime.stream()
    graph, count = ctypes.c_void_p(), ctypes.c_size_t()
    assert runtime.cudaStreamBeginCapture(stream, 0) == SUCCESS
    assert runtime.launch(kernel, stream=stream) == SUCCESS
    assert runtime.cudaDeviceSynchronize() != SUCCESS
    assert runtime.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1)) != SUCCESS
    assert runtime.launch(kernel) != SUCCESS  # the default stream waits for all others
    assert runtime.cudaStreamEndCapture(stream, ctypes.byref(graph)) == SUCCESS
    assert runtime.cudaGraphGetNodes(graph, None, ctypes.byref(count)) == SUCCESS and count.value == 1
    assert runtime.cudaDeviceSynchronize() == SUCCESS
    assert len(runtime.record().faults) == 3


def test_waits_are_counted(runtime):
    on_card, on_host = runtime.memory(64), ctypes.create_string_buffer(64)
    runtime.cudaStreamSynchronize(None)
    assert runtime.cudaMemcpyAsync(on_card, ctypes.addressof(on_host), 64, 1, None) == SUCCESS
    assert runtime.record().waits == {"cudaStreamSynchronize": 1}
    assert runtime.cudaMemcpyAsync(ctypes.addressof(on_host), on_card, 64, 2, None) == SUCCESS
    assert runtime.record().waits["cudaMemcpyAsync to pageable memory"] == 1


def test_memory_keeps_what_is_written_and_forgets_what_is_freed(runtime):
    on_card, on_host = runtime.memory(8192), ctypes.create_string_buffer(b"\1" * 8192, 8192)
    runtime.cudaMemcpyAsync(on_card, ctypes.addressof(on_host), 8192, 1, None)
    assert ctypes.string_at(on_card.value, 8192) == b"\1" * 8192
    assert runtime.cudaMemset(ctypes.c_void_p(on_card.value + 100), 0, ctypes.c_size_t(8000)) == SUCCESS
    assert ctypes.string_at(on_card.value, 8192) == b"\1" * 100 + bytes(8000) + b"\1" * 92
    assert runtime.cudaFree(on_card) == SUCCESS and runtime.cudaFree(on_card) != SUCCESS


KERNEL = """
struct Pair { int count; float* values; };
extern "C" __global__ void __launch_bounds__(64) probe(float* out, int n, Pair pair) {
  __shared__ float tile[256];
  tile[threadIdx.x] = pair.values[n];
  __syncthreads();
  out[threadIdx.x] = tile[63 - threadIdx.x] + pair.count;
}
"""
PROBE = """
import ctypes, sys
sys.path[:0] = sys.argv[2:]
from fake_card.test_driver import SUCCESS, Runtime
runtime = Runtime(sys.argv[1])
kernel = runtime.register(1, "probe")
good, host = runtime.memory(64).value, ctypes.create_string_buffer(64)
runtime.cudaSetDevice(1)
other = runtime.memory(64).value
runtime.cudaSetDevice(0)

class Pair(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int), ("values", ctypes.c_void_p)]

def launch(out, values, **options):
    given = ctypes.c_void_p(out), ctypes.c_int(5), Pair(7, values)
    pointers = (ctypes.c_void_p * 3)(*(ctypes.addressof(x) for x in given))
    return runtime.launch(kernel, arguments=ctypes.addressof(pointers), **options)

assert launch(good, good) == SUCCESS and not runtime.record().faults
assert launch(good, good, block=(65, 1, 1)) != SUCCESS  # __launch_bounds__
runtime.cudaFuncSetAttribute(ctypes.c_void_p(kernel), 8, 232448 - 1024)
assert launch(good, good, shared=232448 - 1024) == SUCCESS
assert runtime.cudaFuncSetAttribute(ctypes.c_void_p(kernel), 8, 232448 - 1023) != SUCCESS  # 1,024 are the kernel's own
runtime.fake_card_begin(1)
launch(ctypes.addressof(host), good)
launch(good, other)
launch(good + 4096, good)
for text in runtime.record().faults:
    print(text.split(",")[0])
"""


@pytest.mark.slow
def test_cubins_say_what_a_kernel_takes(path, tmp_path):
    """Registers, launch bounds, static shared memory and parameters are read from a real cubin."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    needed.tool(nvcc, "nvcc")
    (tmp_path / "probe.cu").write_text(KERNEL)
    command = [nvcc, "-arch=sm_90", "-cubin", "probe.cu", "-o", "probe.sm_90.cubin"]
    subprocess.run(command, cwd=tmp_path, check=True)
    folders = [str(card.ROOT / "tests"), str(card.ROOT / "benchmarks")]
    variables = card.environment(path, devices=2, cubins=tmp_path)
    del variables["LD_PRELOAD"]
    command = [sys.executable, "-c", PROBE, str(path), *folders]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines() == [
        "a pointer to host memory",
        "a pointer to memory of another device",
        "a pointer to memory that is not allocated",
    ]
    variables["FAKE_CARD"] = "1080ti"
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode and "AssertionError" in done.stderr, "code for sm_90 ran on a card of 6.1"
