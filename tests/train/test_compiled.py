"""Networks by torch.compile: the same losses, no compiling after the first steps, the same names, and refusals.

The graphs are those of any backend; torch's "aot_eager" runs them as they are, where "inductor" would build C++ for a
minute.
"""

from __future__ import annotations

import pytest
import torch
from methods.small_world import K, MemoryPasses, batch
from rich.console import Console
from torch._dynamo.utils import counters

from fastuda.methods import build_method
from fastuda.methods.config import Recipe, SDCAConfig
from fastuda.methods.source import Source
from fastuda.models.config import ModelConfig
from fastuda.train import compiled as module
from fastuda.train.compiled import check_compile, compiled
from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision

STEPS = 4
BOUND = 1e-4  # between losses: graphs fuse nothing here, but sum in another order


def curve(mode: str) -> tuple[list[float], list[int], list[str]]:
    """Losses of SDCA's adaptation, how many graphs there were after each step, and the names in the state dict."""
    torch.manual_seed(0)
    # Every target pixel is sure enough, so that both domains have a gradient.
    recipe = Recipe(method="sdca", model=ModelConfig(width=0.125), sdca=SDCAConfig(confidence=0.0))
    sdca = build_method(recipe, K)
    stage = sdca.stages()[1]
    sdca.prepare(stage, MemoryPasses())
    optimisers = Optimisers(stage, Precision("cpu", None, False, "fp32"), {})
    optimisers.set_learning_rate(0)
    losses, graphs = [], []
    sdca.train()
    with compiled(sdca, mode, backend="aot_eager"):
        names = [*sdca.state_dict()]
        for step in range(STEPS):
            for part in stage.step(batch(2 * step), batch(2 * step + 1, labelled=False)):
                losses.append(sum(part["network"].values()).item())
                optimisers.backward(part, 1.0)
            optimisers.step()
            graphs.append(counters["stats"]["unique_graphs"])
    assert sdca.network._compiled_call_impl is None
    return losses, graphs, names


def test_the_losses_of_a_compiled_network_are_those_of_the_network():
    torch._dynamo.reset()
    counters.clear()
    (eager, none, names), (own, graphs, own_names) = curve(""), curve("default")
    torch.testing.assert_close(own, eager, rtol=BOUND, atol=0)
    assert len(own) == 2 * STEPS and own[0] != own[2] and own[1] != own[3]
    assert names == own_names
    # One graph a domain, all in the first step.
    assert none == [0] * STEPS and graphs == [2] * STEPS


def test_a_run_goes_on_without_the_compiler_that_it_began_with(tiny, tmp_path, monkeypatch):
    own, steps, entered = Source.warm_up, [], []

    def planted(self, source, target):
        steps.append(self.network._compiled_call_impl is not None)
        if len(steps) == 4:
            raise KeyError("killed")
        return own(self, source, target)

    def light(method, mode):
        entered.append(mode)
        return compiled(method, mode, backend="eager")

    monkeypatch.setattr(Source, "warm_up", planted)
    monkeypatch.setattr("fastuda.train.loop.compiled", light)
    arguments = ["--task", str(tiny), "--work-dir", str(tmp_path / "run"), "--method", "source"]
    with pytest.raises(KeyError):
        train(parse([*arguments, "--model.norm", "frozen", "--compile", "default"]), Console(quiet=True))
    assert train(parse([*arguments[2:4], "--resume", "--compile", ""]), Console(quiet=True)).stages
    assert entered == ["default", ""] and steps == [True] * 4 + [False] * 2


def test_what_cannot_work_is_one_sentence(monkeypatch):
    check_compile("", torch.device("cpu"))
    check_compile("default", torch.device("cpu"))
    with pytest.raises(ValueError, match="--compile reduce-overhead needs CUDA graphs"):
        check_compile("reduce-overhead", torch.device("cpu"))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="--compile needs a C.. compiler: install g.., or name one"):
        check_compile("default", torch.device("cpu"))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--compile needs Triton"):
        check_compile("reduce-overhead", torch.device("cuda"))
