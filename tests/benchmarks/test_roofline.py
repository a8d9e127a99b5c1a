"""Ceilings, floors and the gate."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import _peaks
import needed
import pytest
import roofline
import torch

BANDWIDTHS = {"read_gb_s": 20.0, "copy_gb_s": 10.0, "write_gb_s": 8.0}
RATES = {"fma_gflop_s": 200.0, "fp32_gflop_s": 100.0, "bf16_gflop_s": 400.0}
IDLE = roofline.Probe("Some CPU", 1, foreign_cores=0.0, **BANDWIDTHS, **RATES)


@pytest.mark.slow
def test_the_probe_measures_something():
    probe = roofline.probe("cpu", size=1 / 64)
    assert all(getattr(probe, figure) > 0 for figure in roofline.FIGURES)
    assert probe.device == roofline.device_name("cpu") and probe.threads == torch.get_num_threads()


G = 10**9


@pytest.mark.parametrize(
    ("read", "written", "seconds", "bound"),
    [
        (20, 0, 1.0, "read"),
        (5, 5, 1.0, "copy"),
        (0, 8, 1.0, "write"),
        (25, 5, 1.0 + 1.0, "copy"),  # 10 of the bytes are a copy, 20 more are read
        (5, 13, 1.0 + 1.0, "copy"),
        (39, 1, 0.2 + 1.9, "read"),
    ],
)
def test_each_mix_of_accesses_has_its_own_ceiling(read, written, seconds, bound):
    floor = roofline.Work(read * G, written * G, 1.0).floor(IDLE)
    assert floor == (pytest.approx(1e3 * seconds), bound)


def test_operations_are_bound_by_the_multiply_add_peak_and_not_by_a_library():
    assert roofline.Work(1, 1, 200e9).floor(IDLE) == (pytest.approx(1e3), "operations")
    assert roofline.Work(1, 1, 400e9, torch.bfloat16).floor_ms(IDLE) == pytest.approx(1e3)
    # three products of 16-bit parts make a float32 product: tensor cores can be faster than float32 units
    cores = replace(IDLE, bf16_gflop_s=900.0)
    assert roofline.Work(1, 1, 300e9).floor_ms(cores) == pytest.approx(1e3)
    assert roofline.Work(3, 4, 0).bytes == 7


def test_a_ceiling_is_the_best_of_its_readings():
    found = roofline.best([IDLE, replace(IDLE, read_gb_s=22.0, fma_gflop_s=190.0)])
    assert found == replace(IDLE, read_gb_s=22.0)


@pytest.mark.slow
def test_the_multiply_add_peak_is_no_less_than_a_matrix_product_reaches():
    """The shortest of many readings each, so that other work on the machine takes from neither."""
    needed.tool(_peaks._compiler(), "a C++ compiler")
    peak = _peaks.cpu_fma_gflop_s(1, 0.3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.randn(512, 512)
        seconds = min(roofline._readings(lambda _: a @ a, torch.device("cpu"), 0.5, most=100))
    finally:
        torch.set_num_threads(threads)
    assert peak * 1.05 > 2 * 512**3 / 1e9 / seconds
    clock_and_width = 2 * 2 * _peaks.library().fastuda_vector_bytes() / 4 * 6.5  # two units, 6.5 GHz
    assert 1 < peak < clock_and_width


def test_plain_walks_do_what_they_say():
    needed.tool(_peaks._compiler(), "a C++ compiler")

    def aligned(value: float) -> torch.Tensor:
        buffer = torch.full((2**20 + 64,), value)
        place = next(i for i in range(64) if buffer[i:].data_ptr() % 64 == 0)
        return buffer[place : place + 2**20]

    source, target = aligned(3.0), aligned(5.0)
    assert _peaks.cpu_walk_seconds("read", target, source, 1) > 0 and target.eq(5).all()
    assert _peaks.cpu_walk_seconds("copy", target, source, 2) > 0 and target.eq(3).all()
    assert _peaks.cpu_walk_seconds("write", target, source, 1) > 0 and target.eq(0).all() and source.eq(3).all()
    assert _peaks.cpu_walk_seconds("read", target[1:], source, 1) is None  # not at the start of a vector


def test_without_a_compiler_there_is_no_peak(monkeypatch):
    monkeypatch.setattr(_peaks, "_compiler", lambda: None)
    _peaks.library.cache_clear()
    try:
        assert _peaks.cpu_fma_gflop_s(1, 0.01) is None and roofline.probe("cpu", size=1 / 64).fma_gflop_s > 0
    finally:
        _peaks.library.cache_clear()


def test_the_gate_passes_an_idle_machine():
    assert roofline.objections([IDLE, replace(IDLE, read_gb_s=17.5, foreign_cores=0.2)]) == []


@pytest.mark.parametrize("figure", roofline.FIGURES)
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_gate_refuses_a_ceiling_that_moved(figure, factor):
    after = replace(IDLE, **{figure: factor * getattr(IDLE, figure)})
    (why,) = roofline.objections([IDLE, after])
    assert figure in why


@pytest.mark.parametrize(("when", "loads"), [("before", (0.5, 0.0)), ("after", (0.0, 0.5))])
def test_the_gate_refuses_a_loaded_machine(when, loads):
    (why,) = roofline.objections([replace(IDLE, foreign_cores=load) for load in loads])
    assert f"0.5 cores {when}" in why


def test_the_gate_needs_two_probes():
    assert roofline.objections([IDLE]) and roofline.objections([])


def test_drift_is_symmetric():
    assert roofline.drift(8.0, 10.0) == roofline.drift(10.0, 8.0) == pytest.approx(0.2)


def test_foreign_load_is_everybody_else(monkeypatch):
    """Two seconds of wall time: 3 s busy in all (steal included, idle not), 1.4 s of them this process's own."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = iter([f"cpu {n * ticks} 0 {n * ticks} {9 * n * ticks} 0 0 0 {n * ticks} 0 0\n" for n in (1, 2)])
    own, wall = iter([0.0, 1.4]), iter([10.0, 12.0])
    monkeypatch.setattr(roofline.Path, "exists", lambda path: True)
    monkeypatch.setattr(roofline.Path, "read_text", lambda path: next(stats))
    monkeypatch.setattr(roofline.os, "times", lambda: (next(own), 0.0, 0.0, 0.0, 99.0))
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(wall))
    assert roofline.ForeignLoad().cores() == pytest.approx((3 - 1.4) / 2)


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs /proc/stat")
def test_a_busy_process_is_seen():
    load = roofline.ForeignLoad()
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1)
        cores = load.cores()
    finally:
        other.kill()
        other.wait()
    assert cores > 0.2


def test_pinning_ends():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("needs sched_setaffinity")
    allowed = os.sched_getaffinity(0)
    with roofline.pinned(torch.device("cpu"), 1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == allowed
    with roofline.pinned(torch.device("cpu"), 2):
        assert os.sched_getaffinity(0) == allowed


def test_slug():
    assert roofline.slug("NVIDIA H100 80GB HBM3") == "nvidia_h100_80gb_hbm3"
    assert roofline.slug("Some(R) CPU @ 2.6GHz") == "some_r_cpu_2_6ghz"
