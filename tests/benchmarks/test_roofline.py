"""Ceilings, floors and the gate."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import roofline
import torch

IDLE = roofline.Probe("Some CPU", 1, 20.0, 10.0, 100.0, 200.0, 0.0)


def test_the_probe_measures_something():
    probe = roofline.probe("cpu", size=1 / 64)
    assert all(getattr(probe, figure) > 0 for figure in roofline.FIGURES)
    assert probe.device == roofline.device_name("cpu") and probe.threads == torch.get_num_threads()


def test_floor_is_the_larger_of_traffic_and_arithmetic():
    assert roofline.Work(20 * 10**9, 0, 1.0).floor_ms(IDLE) == pytest.approx(1e3)  # reads at 20 GB/s
    assert roofline.Work(5 * 10**9, 5 * 10**9, 1.0).floor_ms(IDLE) == pytest.approx(1e3)  # half writes: copy rate
    assert roofline.Work(1, 1, 200e9).floor_ms(IDLE) == pytest.approx(2e3)
    assert roofline.Work(1, 1, 200e9, torch.bfloat16).floor_ms(IDLE) == pytest.approx(1e3)
    assert roofline.Work(3, 4, 0).bytes == 7


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
