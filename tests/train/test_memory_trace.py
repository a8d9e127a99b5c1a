"""Births and deaths of storages on fake tensors: peaks, kinds, places, and what reads a number off the device."""

from __future__ import annotations

import torch
from torch import nn

from fastuda.ops.lovasz_softmax import lovasz_softmax
from fastuda.train.memory.trace import CUDA_BLOCK, MemoryTrace, Phase, tracing
from fastuda.train.memory.workspaces import inside

FORWARD, BACKWARD = Phase("stage", "forward", 1), Phase("stage", "backward", 1)


def test_a_peak_is_what_lives_at_once():
    with tracing(MemoryTrace()) as trace:
        trace.phase(FORWARD)
        x = torch.empty(1000)  # 4000 bytes: eight blocks of 512
        y = x + 1
        z = y.view(10, 100)[2:]  # no storage of its own
        del x
        w = torch.empty(1)  # one block
    assert trace.alive() == 4096 + 512 and z.shape == (8, 100) and w.shape == (1,)
    assert trace.peaks()[FORWARD].bytes == 2 * 4096 and y.shape == (1000,)
    assert [s.bytes % CUDA_BLOCK for s in trace.storages] == [0, 0, 0]


def test_what_stays_alive_raises_the_peak_by_its_size():
    def peak(keep: bool) -> int:
        kept = []
        with tracing(MemoryTrace(block=1)) as trace:
            trace.phase(FORWARD)
            for _ in range(5):
                x = torch.empty(300)
                if keep:
                    kept.append(x)
                del x
            y = torch.empty(200)
        assert y.shape == (200,)
        return trace.peaks()[FORWARD].bytes

    assert peak(False) == 1200 and peak(True) == 5 * 1200 + 800


def test_a_view_keeps_its_storage_alive_and_saved_tensors_do():
    with tracing(MemoryTrace(block=1)) as trace:
        w = torch.empty(10, 10, requires_grad=True)
        trace.phase(FORWARD)
        loss = (torch.empty(10, 10) @ w).exp().sum()
        # The left factor and the exponential are saved for backward.
        saved = trace.alive()
        trace.phase(BACKWARD)
        loss.backward()
        trace.mark("gradients", [w.grad])
        del loss
        trace.phase(Phase("stage", "optimizer", 1))
        torch.empty(1)
    assert saved == 3 * 400 + 4 and trace.alive() == 2 * 400
    assert next(s for s in trace.storages if s.kind == "gradients").bytes == 400
    assert trace.peaks()[Phase("stage", "optimizer", 1)].kinds == {"buffers": 400, "gradients": 400, "temporaries": 4}


def test_module_and_line_of_forward_and_backward():
    net = None
    with tracing(MemoryTrace()) as trace:
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        trace.name(net)
        trace.phase(FORWARD)
        out = net(torch.empty(2, 8))
        trace.phase(BACKWARD)
        out.sum().backward()
    made = {(s.module, s.phase.part) for s in trace.storages if s.operator == "addmm"}
    assert made == {("0", "forward"), ("2", "forward")}
    assert {"2", "1", "0"} <= {s.module for s in trace.storages if s.phase is BACKWARD}


def test_recomputed_activations_are_activations_and_backward_makes_gradients_of_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                x = torch.utils.checkpoint.checkpoint(lambda v, m=layer: m(v).sigmoid(), x, use_reentrant=False)
            return x

    with tracing(MemoryTrace()) as trace:
        net = Net()
        trace.name(net)
        trace.phase(FORWARD)
        out = net(torch.empty(32, 64, requires_grad=True))
        trace.phase(BACKWARD)
        out.sum().backward()
    kinds = {s.kind for s in trace.storages if s.phase is BACKWARD}
    assert kinds == {"activations", "activation gradients"}
    again = [s for s in trace.storages if s.phase is BACKWARD and s.kind == "activations" and s.operator == "addmm"]
    assert {s.module for s in again} == {f"layers.{i}" for i in range(4)}


def test_reads_off_the_device_are_seen_and_numbers_of_the_host_are_known():
    with tracing(MemoryTrace()) as trace:
        trace.phase(FORWARD)
        assert int(torch.tensor([7]).max()) == 7 and trace.reads == []
        torch.rand(3).sum().item()
    assert [phase for phase, _ in trace.reads] == [FORWARD]


def test_workspaces_live_as_long_as_the_call_and_references_are_walked():
    logits = (1, 4, 8, 8)
    with tracing(MemoryTrace(block=1, inside=inside)) as trace:
        x, y = torch.empty(logits, requires_grad=True), torch.zeros(1, 64, 64, dtype=torch.uint8)
        trace.phase(FORWARD)
        loss = lovasz_softmax(x, y, bins=64)
    work = [s for s in trace.storages if s.kind == "operator workspaces"]
    assert len(work) == 1 and work[0].died == work[0].born + 1 and work[0].operator == "lovasz_softmax"
    with tracing(MemoryTrace(block=1, inside=inside)) as trace:
        x, y = torch.empty(logits, requires_grad=True), torch.zeros(1, 64, 64, dtype=torch.uint8)
        trace.phase(FORWARD)
        loss = lovasz_softmax(x, y, bins=0)
    # The exact form has a workspace for the errors of all classes at full resolution.
    (work,) = [s for s in trace.storages if s.kind == "operator workspaces"]
    assert work.operator == "lovasz_softmax" and work.bytes > 4 * 4 * 64 * 64 and loss.shape == ()


def test_timeline_and_totals_agree():
    with tracing(MemoryTrace()) as trace:
        for part in ("forward", "losses", "forward"):
            trace.phase(Phase("stage", part))
            torch.empty(100) + 1
    spans = trace.timeline()
    assert [phase.part for phase, _ in spans] == ["forward", "losses", "forward"]
    assert sum(len(totals) for _, totals in spans) == 2 * len(trace.storages)
    assert spans[-1][1][-1] == 0
