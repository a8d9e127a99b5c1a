"""No step makes the host wait for the device: every step of every method on the device "meta", which holds no numbers.

Whatever a host would wait for on a GPU, a number, a copy or a shape that follows from numbers, has no answer there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastuda.methods.source
from fastuda.cli import memory
from fastuda.methods import METHODS
from fastuda.train.config import Config
from fastuda.train.memory.trace import Watcher
from fastuda.train.memory.walk import Walk, walked_stages
from fastuda.train.memory.workspaces import inside
from fastuda.train.precision import Precision

DEVICE = torch.device("meta")
SMALL = [
    "--model.name", "deeplab_resnet18", "--model.width", "0.125", "--data.source.size", "48", "80",
    "--data.target.size", "32", "64", "--data.validation.size", "32", "64", "--cpsl.bank", "600",
    "--spcl.adversarial.depth", "2", "--mlsl.head-width", "8", "--drsl.channels", "8",
    "--views.source.crop", "0", "0", "--views.target.crop", "0", "0", "--views.self-training.crop", "0", "0",
]  # fmt: skip
INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
    torch.ops.aten._index_put_impl_.default,
)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Waits(AssertionError):
    """A call for which the host would wait."""


def on_device(values) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.device == DEVICE]


class NoWaiting(TorchDispatchMode):
    """Fails on reads of numbers, copies to the host and shapes that follow from numbers, of tensors on the device.

    Operators without a GPU kernel are walked into: their reference runs there.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.waits(func, args, kwargs):
            raise Waits(str(func))
        # Changes what is there, and nothing is.
        if func is torch.ops.aten._fused_sgd_.default:
            return None
        work = inside(func._opname, args) if func.namespace == "fastuda" else 0
        if callable(work):
            with self:
                return work(*args)
        return func(*args, **kwargs)

    def waits(self, func, args: tuple, kwargs: dict) -> bool:
        if not on_device((args, kwargs)):
            return False
        if func in INDEXED:
            return any(t.dtype in (torch.bool, torch.uint8) for t in on_device(args[1]))
        if func in COPIES:
            to = args[0].device if func is COPIES[1] else kwargs.get("device") or DEVICE
            return torch.device(to).type == "cpu"
        return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Optimisers may be fused there, and autocast be switched off."""
    own = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, *a, **k: own("cpu" if device == "meta" else device, *a, **k))
    # torch.optim takes the name of the module away.
    module = importlib.import_module("torch.optim.optimizer")
    found = [*module._get_fused_kernels_supported_devices(), DEVICE.type]
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: found)


def config(method: str, *options: str) -> Config:
    return memory.arguments(["--method", method, "--batch", "2", *SMALL, *options])[1]


def take_steps(config: Config) -> list[str]:
    """Two steps of every kind of stage, whose names are returned."""
    walk = Walk(config, DEVICE, Precision("meta", None, True, "fp16's loss scale, whatever is scaled"), Watcher())
    taken = [stage for stage in walked_stages(walk.method.stages()) if stage.iterations]
    with NoWaiting():
        for stage in taken:
            walk.steps(stage)
    return [stage.name for stage in taken]


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(method):
    assert take_steps(config(method))[0] == "warm_up"


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_nor_does_any_optimiser(name):
    assert take_steps(config("source", "--optimiser.name", name)) == ["warm_up"]


PLANTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "if": lambda x: bool(x.any()),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "into_host": lambda x: torch.zeros(x.shape).copy_(x),
    "masked_store": lambda x: x.clone().index_put_((x > 0,), x.new_ones(())),
    "equal": lambda x: torch.equal(x, x + 1),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_wait_is_seen(plant):
    with NoWaiting(), pytest.raises(Waits):
        PLANTS[plant](torch.ones(3, 4, device=DEVICE))


def test_what_no_host_waits_for_passes():
    with NoWaiting():
        x = torch.ones(3, 4, device=DEVICE)
        y = x[torch.zeros(5, dtype=torch.int64, device=DEVICE)].where(x[:1] > 0, 0.0)
        assert y.shape == (5, 4) and torch.tensor([2.0]).item() == 2.0


@pytest.mark.parametrize("plant", ["item", "cpu", "mask"])
def test_and_seen_in_a_step(plant, monkeypatch):
    own = fastuda.methods.source.cross_entropy

    def planted(logits, labels):
        PLANTS[plant](logits.detach())
        return own(logits, labels)

    monkeypatch.setattr(fastuda.methods.source, "cross_entropy", planted)
    with pytest.raises(Waits):
        take_steps(config("source"))
