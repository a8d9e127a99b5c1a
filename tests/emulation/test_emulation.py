"""The emulation of CUDA on the CPU must find planted faults under every schedule, and let clean kernels pass."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import needed
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-Wall", "-include", str(HERE / "emulation.h")]
SOURCES = [f"-I{ROOT / 'csrc'}", str(HERE / "cases.cu")]
SEEDS = range(5)

needed.tool(shutil.which("g++"), "g++")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    path = tmp_path_factory.mktemp("emulation") / "cases.so"
    subprocess.run(["g++", *FLAGS, "-fPIC", "-shared", *SOURCES, "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.run.restype = ctypes.c_char_p

    def run(name: str, seed: int = 0) -> tuple[str, list[float]]:
        out = (ctypes.c_float * 128)()
        return library.run(name.encode(), ctypes.c_ulonglong(seed), out).decode(), list(out)

    return run


@pytest.mark.parametrize("name", ["sum", "exchange", "inside", "pack", "histogram", "ballots", "order", "grid"])
def test_a_clean_kernel_passes(cases, name):
    values = [float(i % 7) for i in range(512)]
    expected = {
        "sum": [sum(values[b * 128 : b * 128 + 128]) for b in range(4)],
        "exchange": [2 * values[t ^ 1] + 1 for t in range(128)],
        "histogram": [32.0] * 4,
        "ballots": [float(sum(i % 3 == 0 for i in range(t - t % 32, t))) for t in range(128)],
        "grid": [6.0] * 4,
    }.get(name, [])
    for seed in SEEDS:
        fault, out = cases(name, seed)
        assert fault == ""
        assert out[: len(expected)] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sum_without_barrier", "shared memory .*(race|before it was written)"),
        ("exchange_no_first", "shared memory .*(race|before it was written)"),
        ("exchange_no_second", "shared memory .*race"),
        ("histogram_no_barrier", "shared memory .*race"),
        ("same_element", "global memory written by two threads"),
        ("same_element_of_blocks", "global memory written by two threads"),
        ("neighbour_block", "global memory .*(race|before it was written)"),
        ("one_barrier_of_two", r"divergent barrier: threads of a block wait at cases.cu:\d+ and at cases.cu:\d+"),
        ("barrier_in_a_branch", "divergent barrier: 64 of 128 threads left the kernel before"),
        ("barrier_after_return", "divergent barrier: 1 of 128 threads left the kernel before"),
        ("half_a_shuffle", r"deadlock: 64 threads wait at cases.cu:\d+; 64 threads wait at cases.cu:\d+"),
        ("shuffle_after_return", "lane 7 left the kernel before|deadlock"),
        ("shuffle_from_outside", "a shuffle reads lane 20, absent"),
        ("read_beyond", "out of bounds: byte 2048 of 2048"),
        ("read_before", "out of bounds: byte -4 of 2048"),
        ("write_beyond", "out of bounds: byte 2048 of 2048"),
        ("shared_beyond", "out of bounds: byte 64 of 64"),
        ("pack_beyond", "out of bounds"),
        ("pack_misaligned", "misaligned access of 16 bytes"),
        ("unwritten_shared", "shared memory read before it was written"),
        ("unwritten_global", "global memory read before it was written"),
        ("grid_no_barrier", "global memory .*(race|before it was written)"),
        ("grid_one_block_leaves", "deadlock: 384 threads wait at|before it was written|race"),
        ("grid_in_a_plain_launch", "grid_sync outside a cooperative launch"),
        ("no_threads", "a launch of no or too many threads"),
    ],
)
def test_a_planted_fault_is_found_under_every_schedule(cases, name, message):
    for seed in SEEDS:
        fault, _ = cases(name, seed)
        assert re.search(message, fault), f"seed {seed}: {fault or 'no fault'}"


def test_an_endless_loop_ends(cases):
    assert "endless loop" in cases("endless", 0)[0]


def test_a_fault_leaves_nothing_behind(cases):
    assert cases("half_a_shuffle", 1)[0]
    assert cases("sum", 1)[0] == ""


def test_seeds_are_different_schedules_and_one_seed_is_one_schedule(cases):
    orders = {tuple(cases("order", seed)[1]) for seed in SEEDS}
    assert len(orders) == len(SEEDS)
    assert cases("order", 3)[1] == cases("order", 3)[1]
    assert all(sorted(order) == list(range(128)) for order in orders)


def test_address_sanitizer_checks_plain_pointers(tmp_path):
    program = tmp_path / "cases"
    sanitize = ["-fsanitize=address", "-DFASTUDA_EMULATION_RAW"]
    built = subprocess.run(["g++", *FLAGS, *sanitize, *SOURCES, "-o", str(program)], capture_output=True, text=True)
    needed.tool("asan" not in built.stderr or not built.returncode, "g++'s AddressSanitizer")
    assert built.returncode == 0, built.stderr
    clean = subprocess.run([program, "sum", "exchange", "grid", "histogram", "pack"], capture_output=True, text=True)
    assert clean.returncode == 0 and "ERROR" not in clean.stderr, clean.stderr
    assert clean.stdout == "sum: \nexchange: \ngrid: \nhistogram: \npack: \n"
    for name in ("read_beyond", "write_beyond", "shared_beyond", "pack_beyond"):
        done = subprocess.run([program, name], capture_output=True, text=True)
        assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, (name, done.stderr)
