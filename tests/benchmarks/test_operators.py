"""The operators' benchmark files: what their cases must cost at least, and that rewrites compute the same."""

from __future__ import annotations

import importlib.util
import time

import _measure
import profile_ops
import pytest
import roofline
import torch

OPERATORS = {operator.name: operator for operator in profile_ops.operators()}
# The project's design figures for two threads: 31.8 GB/s, 465 GFLOP/s.
BANDWIDTH = dict.fromkeys(("read_gb_s", "copy_gb_s", "write_gb_s"), 31.8)
RATE = dict.fromkeys(("fma_gflop_s", "fp32_gflop_s", "bf16_gflop_s"), 465.0)
CPU = roofline.Probe("Some CPU", 2, foreign_cores=0.0, **BANDWIDTH, **RATE)


@pytest.mark.parametrize(
    ("operator", "case", "direction", "milliseconds"),
    [
        ("class_moments", "diag A=256 N=115200", "forward", 3.7),  # 118 MB
        ("class_moments", "diag A=2048 N=14400", "forward", 3.7),
        ("class_moments", "full A=256 N=115200", "forward", 16),  # one triangle
        ("contrastive_bound", "diag A=256 N=115200", "both", 8.7),  # four products of 0.9 N x 19 x 256
        ("contrastive_bound", "full A=256 N=115200", "forward", 280),  # a triangle
        ("contrastive_bound", "full A=256 N=115200", "both", 560),  # a square, which holds what forward needs
    ],
)
def test_floors_are_those_of_the_design(operator, case, direction, milliseconds):
    operator = OPERATORS[operator]
    assert operator.work(operator.cases["full"][case], direction).floor_ms(CPU) == pytest.approx(milliseconds, rel=0.06)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_scale_and_provider_is_named(name):
    operator = OPERATORS[name]
    assert set(operator.cases) == {"smoke", "quick", "full"} and all(operator.cases.values())
    for case in operator.cases["smoke"].values():
        assert set(operator.providers(case, "cpu")) <= set(operator.names)


@pytest.mark.parametrize("name", OPERATORS)
def test_inputs_hold_ignored_pixels_and_differ_from_set_to_set(name):
    operator = OPERATORS[name]
    for case in operator.cases["smoke"].values():
        (x, labels, *_), (other, *_) = (operator.setup(case, torch.Generator().manual_seed(seed)) for seed in (0, 1))
        assert not torch.equal(x, other)
        if name not in ("sinkhorn", "triplet_consistency_loss"):  # these take no labels
            assert (labels == 255).any() and len(labels.unique()) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_every_provider_agrees_with_float64(name, idle):
    """All but torch.compile, whose minutes belong to a benchmark; the harness refuses what disagrees."""
    operator = OPERATORS[name]
    harness = _measure.Harness(torch.device("cpu"), "smoke", 1, size=1 / 64, probes=[idle(taken=time.time())])
    served = set()
    for case in operator.cases["smoke"]:
        for provider in (n for n in operator.names if "compile" not in n):
            for direction in operator.directions:
                try:
                    harness.run(None, operator, case, direction, provider)
                except _measure.UnavailableError:
                    continue
                served.add(provider)
    assert {"reference", "usual"} <= served
    assert ("torch_scatter" in served) == (
        name == "class_moments" and importlib.util.find_spec("torch_scatter") is not None
    )


def test_ours_is_served_by_a_compiled_kernel_or_not_at_all(monkeypatch):
    from fastuda.ops import _dispatch, _library

    held = {("here", "CPU"): True, ("here_cuda", "CUDA"): True}
    monkeypatch.setattr(_library, "has_kernel", lambda raw, key: held.get((raw, key), False))
    assert callable(_measure.ours("here", len, "cpu")["cpu"])
    assert isinstance(_measure.ours("gone", len, "cpu")["cpu"], _measure.UnavailableError)
    monkeypatch.setitem(_dispatch.TABLE, "here", (((0, 0), ("cuda", "triton")),))
    on_gpu = _measure.ours("here", len, "cuda")
    assert on_gpu["cuda"]([1, 2]) == 2 and isinstance(on_gpu["triton"], _measure.UnavailableError)


def test_a_gpu_backend_is_chosen_by_name(monkeypatch):
    """Where fastuda.ops offers both backends, each provider runs under its own."""
    from contextlib import contextmanager

    import fastuda.ops as ops

    chosen = []

    @contextmanager
    def use_backend(name):
        chosen.append(name)
        yield
        chosen.append("end")

    monkeypatch.setattr(ops, "backends", lambda raw: ("cuda", "triton"), raising=False)
    monkeypatch.setattr(ops, "use_backend", use_backend, raising=False)
    found = _measure.ours("any", lambda: len(chosen), "cuda")
    assert found["triton"]() == 1 and found["cuda"]() == 3 and chosen == ["triton", "end", "cuda", "end"]
