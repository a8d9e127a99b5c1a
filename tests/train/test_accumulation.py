"""Accumulated batches against the large batch: the same gradient where the configuration says so, and only there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from methods.small_world import K
from PIL import Image
from rich.console import Console
from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.methods import build_method
from fastuda.methods.config import Recipe, WarmUpConfig
from fastuda.methods.source import Source
from fastuda.models.config import ModelConfig
from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision

PARTS, IMAGES = 3, 2


def method(norm: str = "frozen", lovasz: float = 0.0) -> Source:
    """In float64, where rounding is no excuse."""
    torch.manual_seed(0)
    model, warm_up = ModelConfig(width=0.25, norm=norm), WarmUpConfig(lovasz=lovasz)
    return build_method(Recipe(method="source", model=model, warm_up=warm_up), K).double().train()


def large(ignored: int = 0) -> Batch:
    """Six images, of which the first is ignored in ``ignored`` rows."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(PARTS * IMAGES, 3, 16, 24, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (PARTS * IMAGES, 16, 24), generator=generator).to(torch.uint8)
    labels[0, :ignored] = 255
    return Batch(images, labels, torch.arange(len(images)))


def split(batch: Batch) -> list[Batch]:
    parts = (tensor.split(IMAGES) for tensor in (batch.images, batch.labels, batch.index))
    return [Batch(*of_part) for of_part in zip(*parts, strict=True)]


def gradients(what: Source, batches: list[Batch]) -> dict[str, Tensor]:
    """What the trainer would step by."""
    optimisers = Optimisers(what.stages()[0], Precision("cpu", None, False, "fp64"), {})
    for batch in batches:
        for losses in what.warm_up(batch, None):
            optimisers.backward(losses, 1 / len(batches))
    return {name: p.grad for name, p in what.named_parameters() if p.grad is not None}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all gradients together, relative."""
    assert one.keys() == other.keys() and one
    one, other = (torch.cat([gradient.flatten() for gradient in of_all.values()]) for of_all in (one, other))
    return ((one - other).norm() / other.norm()).item()


def test_equally_many_valid_pixels_in_each_batch():
    """Ignored pixels do no harm as long as each batch has as many."""
    batch = large()
    batch.labels[::IMAGES, 3:7] = 255
    assert difference(gradients(method(), split(batch)), gradients(method(), [batch])) < 1e-12


@pytest.mark.parametrize(
    ("ignored", "norm", "lovasz"), [(12, "frozen", 0.0), (0, "trained", 0.0), (0, "frozen", 0.75)],
    ids=["ignored pixels", "batch norm", "lovasz"],
)  # fmt: skip
def test_what_the_configuration_excepts(ignored, norm, lovasz):
    """Each exception of ``Config.accumulate`` is one: the gradients differ by more than rounding, 1e-12 in float64."""
    found = difference(
        gradients(method(norm, lovasz), split(large(ignored))), gradients(method(norm, lovasz), [large(ignored)])
    )
    assert found > 1e-4


def test_unequal_batches_weigh_as_much_as_equal_ones():
    """Of ignored pixels the whole difference is this: a mean of means in place of the mean."""
    parts = split(large(12))
    valid = [(part.labels != 255).sum().item() for part in parts]
    own = [gradients(method(), [part]) for part in parts]
    pooled = {
        name: sum(n * of_part[name] for n, of_part in zip(valid, own, strict=True)) / sum(valid) for name in own[0]
    }
    assert difference(pooled, gradients(method(), [large(12)])) < 1e-12
    mean = {name: sum(of_part[name] for of_part in own) / len(own) for name in own[0]}
    assert difference(mean, gradients(method(), parts)) < 1e-12


def test_a_run_takes_the_large_batchs_steps(tiny, tmp_path):
    """The loop's part of it: as many images a step, in the same order, their gradients averaged."""
    root, rng = tmp_path / "pictures", np.random.default_rng(0)
    for name, shape in (("images", (32, 64, 3)), ("labels", (32, 64))):
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255 if name == "images" else 11, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    task = yaml.safe_load(tiny.read_text())
    task["data"]["source"] = {"kind": "folder", "root": str(root), "size": [32, 64], "ids": "trainids"}
    task["data"]["classes"] = "cityscapes19"
    task["views"] = {}
    task["warm_up"]["schedule"] |= {"iterations": 3, "learning_rate": 1e-3}
    tiny.write_text(yaml.safe_dump(task))
    losses = []
    for accumulate in (1, 3):
        work_dir = tmp_path / str(accumulate)
        options = ["--method", "source", "--model.norm", "frozen", "--warm-up.lovasz", "0", "--work-dir", str(work_dir)]
        options += ["--accumulate", str(accumulate), "--warm-up.schedule.batch", str(6 // accumulate)]
        train(parse(["--task", str(tiny), *options]), Console(quiet=True))
        lines = map(json.loads, (work_dir / "log.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line["event"] == "train"])
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    assert max(losses[0]) / min(losses[0]) > 1 + 100e-6
