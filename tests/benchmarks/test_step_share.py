"""The parts of a step that step_share.py tells apart are those of the step, each on its side."""

from __future__ import annotations

import argparse
import time

import pytest
import step_share
import torch
from step_memory import PAPERS

from fastuda.methods.sdca import SDCA
from fastuda.models.unet import UNet


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(
        step_share, "PAPERS", {name: p._replace(source=(64, 96), target=(64, 96)) for name, p in PAPERS.items()}
    )
    monkeypatch.setattr(step_share, "FILES", {"source": (80, 120), "target": (80, 120)})

    def options(method: str = "sdca", form: str = "ours") -> argparse.Namespace:
        return argparse.Namespace(
            method=method, form=form, amp=False, steps=2, model="unet", checkpointing=False, covariance="diag"
        )

    return options


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sdca", "drsl+"])
def test_parts_add_up_to_the_step(small, method):
    seconds = step_share.measure(small(method))
    step = seconds.pop("step")
    assert seconds.keys() >= {"network forward", "network backward", "losses backward", "optimiser", "log"}
    assert min(seconds["data: waiting"], seconds["data: augmentation"]) > 0
    assert all(value >= 0 for value in seconds.values()) and sum(seconds.values()) == pytest.approx(step)


@pytest.mark.slow
def test_what_takes_long_outside_the_network_counts_there(small, monkeypatch):
    adapt = SDCA.adapt

    def slow(self, *batches):
        time.sleep(0.5)
        return adapt(self, *batches)

    monkeypatch.setattr(SDCA, "adapt", slow)
    assert step_share.measure(small())["losses forward and the rest"] > 0.5


@pytest.mark.slow
def test_what_takes_long_in_the_network_counts_there(small, monkeypatch):
    forward = UNet.forward

    def slow(self, images):
        time.sleep(0.25)
        return forward(self, images)

    monkeypatch.setattr(UNet, "forward", slow)
    seconds = step_share.measure(small())
    assert seconds["network forward"] > 0.5 > seconds["losses forward and the rest"]


def test_gradients_that_reach_an_output_end_the_losses_part():
    clock = step_share.Clock()
    network = torch.nn.Linear(2, 2)
    clock.watch(network)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.sum()

        @staticmethod
        def backward(context, gradient):
            time.sleep(0.2)
            return gradient.expand(1, 2)

    loss = Slow.apply(network(torch.zeros(1, 2)))
    clock.backward(torch.Tensor.backward)(loss)
    assert clock.seconds["losses backward"] > 0.2 > clock.seconds["network backward"]
