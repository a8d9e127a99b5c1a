"""Which cards a build of the extension runs on, and what a user of another card is told."""

from __future__ import annotations

import pytest
import torch

from fastuda.train import precision
from fastuda.train.compiled import check_compile


@pytest.mark.parametrize(
    "cards, capability, runs",
    [
        ("6.1", (6, 1), True),
        ("6.0", (6, 1), True),
        ("6.1", (6, 0), False),
        ("6.1", (7, 0), False),
        ("7.5_8.0_9.0", (6, 1), False),
        ("7.5_8.0_9.0", (8, 6), True),
        ("9.0", (12, 0), False),
        ("9.0+PTX", (12, 0), True),
        ("9.0a", (9, 0), True),
        ("native", (6, 1), True),
    ],
)
def test_runs_on(cards, capability, runs):
    assert precision.runs_on(cards, capability) is runs


def pretend(monkeypatch, capability, cards):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_60", "sm_90"])
    monkeypatch.setattr(precision, "build_facts", lambda: {"cuda": True, "cuda_cards": cards})


def test_a_build_without_code_for_the_card_is_refused_at_once(monkeypatch):
    pretend(monkeypatch, (6, 1), "7.5_9.0+PTX")
    with pytest.raises(
        ValueError, match=r"built for compute capability 7\.5, 9\.0\+PTX, but this card has 6\.1"
    ) as why:
        precision.choose_device("cuda")
    assert "TORCH_CUDA_ARCH_LIST=6.1 and nvcc of CUDA 12.9 or older" in str(why.value)
    pretend(monkeypatch, (6, 1), "6.1_9.0")
    assert precision.choose_device("auto").type == "cuda"
    pretend(monkeypatch, (9, 0), "")
    assert precision.choose_device("cuda").type == "cuda"


def test_compile_is_refused_where_triton_serves_no_card(monkeypatch):
    pretend(monkeypatch, (6, 1), "6.1")
    with pytest.raises(ValueError, match=r"--compile needs a card of compute capability 7\.0 or newer"):
        check_compile("default", torch.device("cuda"))
