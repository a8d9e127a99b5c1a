"""Steps that are left out: in every precision, by all optimisers, without a number read off the device."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastuda.methods.protocol import Stage
from fastuda.train import loss_scale
from fastuda.train.loss_scale import LossScale
from fastuda.train.meter import Meter, NonFiniteLoss
from fastuda.train.optimisers import MAX_SKIPPED, Optimisers
from fastuda.train.precision import Precision

FULL = Precision("cpu", None, False, "fp32")
SCALED = Precision("cpu", torch.float16, True, "fp16 with a loss scale")
KINDS = {
    "sgd": lambda params, **more: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, **more),
    "adamw": lambda params, **more: torch.optim.AdamW(params, lr=0.1, weight_decay=0.01, **more),
    "adam": lambda params, **more: torch.optim.Adam(params, lr=0.1, betas=(0.9, 0.99), **more),
}


def optimisers_of(precision: Precision, *made: torch.optim.Optimizer) -> Optimisers:
    named = {f"number {i}": optimiser for i, optimiser in enumerate(made)}
    return Optimisers(Stage("s", 1, lambda: named, step=lambda *_: iter(())), precision, {})


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return net.to(memory_format=torch.channels_last)


def image(step: int) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))


def loss_of(net: nn.Module, step: int) -> Tensor:
    return net(image(step)).square().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [FULL, SCALED], ids=["fp32", "scaled"])
def test_fused_optimisers_take_the_steps_of_the_plain_ones(kind, precision):
    """Oracle: torch's loop over the parameters, in float64."""
    net = network()
    plain = copy.deepcopy(net).double()
    fused = optimisers_of(precision, KINDS[kind](net.parameters(), fused=True))
    loop = KINDS[kind](plain.parameters(), foreach=False, fused=False)
    for step in range(6):
        loss = loss_of(net, step)
        fused.backward({"number 0": {"loss": loss}}, 1.0)
        assert fused.step() == 0
        expected = plain(image(step).double()).square().mean()
        expected.backward()
        loop.step()
        loop.zero_grad()
        torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left_out", [0, 2], ids=["first", "third"])
def test_a_step_left_out_is_as_if_it_never_was(kind, left_out):
    """fp32, where GradScaler would leave nothing out; the weights that follow are the same to the bit."""
    nets = [network(), network()]
    both = [optimisers_of(FULL, KINDS[kind](net.parameters(), fused=True)) for net in nets]
    for step in range(4):
        for number, (net, own) in enumerate(zip(nets, both, strict=True)):
            bad = number == 0 and step == left_out
            for attempt in (True, False) if bad else (False,):
                own.backward({"number 0": {"loss": loss_of(net, step)}}, 1.0)
                if attempt:
                    net[0].weight.grad[0, 0] = float("inf")
                assert own.step().item() == attempt
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other) and one.isfinite().all()


def test_all_optimisers_step_or_none():
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    own = optimisers_of(FULL, torch.optim.SGD([good], lr=1.0, fused=True), torch.optim.SGD([bad], lr=1.0))
    own.backward({"number 0": {"a": good.sum()}, "number 1": {"b": (bad - 1).sqrt().sum()}}, 1.0)
    assert own.step() == 1 and torch.equal(good.detach(), torch.ones(2)) and torch.equal(bad.detach(), torch.ones(2))


def test_a_bad_loss_ends_all_steps_even_where_its_gradient_is_finite():
    weight = nn.Parameter(torch.ones(2))
    own = optimisers_of(FULL, torch.optim.SGD([weight], lr=1.0, fused=True))
    own.backward({"number 0": {"a": weight.sum() + float("inf")}}, 1.0)
    assert own.step() == 1 and own.scale.broken == 1
    own.backward({"number 0": {"a": weight.sum()}}, 1.0)
    assert own.step() == 1 and torch.equal(weight.detach(), torch.ones(2))


def test_the_scale_moves_as_torchs(monkeypatch):
    """Oracle: torch.amp.GradScaler, over growth and two kinds of overflow."""
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    own, oracle = LossScale("cpu", scaled=True), torch.amp.GradScaler("cpu", growth_interval=3)
    weight, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimiser = torch.optim.SGD([other], lr=0.0)
    for step in range(12):
        for parameter, scale in ((weight, own.scale), (other, oracle.scale)):
            parameter.grad = None
            scale(parameter.sum()).backward()
            if step in (4, 5, 9):
                parameter.grad[1] = float("inf") if step == 4 else float("nan")
        own.unscale([weight.grad])
        own.update()
        oracle.step(optimiser)
        oracle.update()
        assert own.value.item() == oracle.get_scale(), step
    state = oracle.state_dict()
    assert own.state_dict() == {key: state[key] for key in ("scale", "_growth_tracker")} and state["scale"] != 65536.0
    again = LossScale("cpu", scaled=True)
    again.load_state_dict(state)
    assert again.state_dict() == own.state_dict()


def test_left_out_steps_are_counted_and_too_many_end_the_run(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    own, meter = optimisers_of(FULL, torch.optim.SGD([weight], lr=1.0, fused=True)), Meter("s", torch.device("cpu"))
    for step in range(MAX_SKIPPED + 1):
        own.check("s", step, Path("checkpoint.pt"))
        own.backward({"number 0": {"a": weight.sum() if step == 0 else (weight * 0).sqrt().sum()}}, 1.0)
        meter.skipped += own.step()
    assert meter.read(1)["skipped_steps"] == MAX_SKIPPED and meter.read(2)["skipped_steps"] == 0
    with pytest.raises(NonFiniteLoss, match=f"last {MAX_SKIPPED} steps are not finite in stage s .*checkpoint.pt"):
        own.check("s", MAX_SKIPPED + 1, Path("checkpoint.pt"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_unfused_optimisers_goes_on_fused(kind):
    """Checkpoints of other versions hold how their optimisers were computed, which is not what is wanted now."""
    net = network()
    stage = Stage("s", 1, lambda: {"network": KINDS[kind](net.parameters(), fused=True)}, step=lambda *_: iter(()))
    loop = KINDS[kind](net.parameters(), foreach=False, fused=False)
    loss_of(net, 0).backward()
    loop.step()
    loop.zero_grad()
    state = copy.deepcopy(loop.state_dict())
    own = Optimisers(stage, FULL, {"scaler": {}, "network": loop.state_dict()})
    assert all(group["fused"] for group in own.optimisers["network"].param_groups)
    other = copy.deepcopy(net)
    plain = KINDS[kind](other.parameters(), foreach=False, fused=False)
    plain.load_state_dict(state)
    own.backward({"network": {"loss": loss_of(net, 1)}}, 1.0)
    assert own.step() == 0
    loss_of(other, 1).backward()
    plain.step()
    for one, expected in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_gradients_and_saved_states_do_not_matter(kind):
    """torch's fused CPU kernels would silently take other steps."""
    net = network()
    plain, other = copy.deepcopy(net), {"grad": None, "state": None}
    stage = Stage("s", 1, lambda: {"net": KINDS[kind](net.parameters(), fused=True)}, step=lambda *_: iter(()))
    fused = Optimisers(stage, FULL, {})
    loop = KINDS[kind](plain.parameters(), foreach=False, fused=False)
    for step in range(4):
        fused.backward({"net": {"loss": loss_of(net, step)}}, 1.0)
        weight = net[0].weight
        weight.grad = weight.grad.contiguous()
        other["grad"] = weight.grad.stride() != weight.stride()
        fused.step()
        loss_of(plain, step).backward()
        loop.step()
        loop.zero_grad()
        saved = fused.state()
        for state in saved["net"]["state"].values():
            state |= {name: value.contiguous() for name, value in state.items()}
        other["state"] = any(v.stride() != weight.stride() for v in saved["net"]["state"][0].values() if v.dim() == 4)
        fused = Optimisers(stage, FULL, saved)
    assert all(other.values())
    for one, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)
