"""A run's network leaves as safetensors and comes back to the bit, and no other file is taken for it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
import yaml
from rich.console import Console

from fastuda.cli import export
from fastuda.methods import build_method
from fastuda.models import ModelConfig, build_model, save_weights, use_domain
from fastuda.train.config import Config, from_dict
from fastuda.train.loop import train
from fastuda.train.restore import restore


@pytest.fixture(scope="module")
def work_dir(tiny_task, tmp_path_factory) -> Path:
    """A run of the source alone, with the target's statistics."""
    path = tmp_path_factory.mktemp("run") / "run"
    task = yaml.safe_load(tiny_task) | {"method": "source", "work_dir": str(path), "predictions": 0}
    task["warm_up"]["schedule"]["iterations"] = 2
    train(from_dict(Config, task, "tiny"), Console(quiet=True))
    return path


@pytest.fixture
def weights(work_dir, tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    export.main([str(work_dir), "--output", str(path)])
    return path


def test_predictions_come_back_to_the_bit(work_dir, weights):
    restored = restore(work_dir)
    recipe = restored.inputs.config
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    network = build_model(replace(recipe.model, weights=str(weights)), 11).eval()
    again = build_method(replace(recipe, model=replace(recipe.model, weights=str(weights))), 11).eval()
    with torch.no_grad():
        for domain in ("source", "target"):
            expected = restored.method.run(images, domain).logits
            assert torch.equal(again.run(images, domain).logits, expected)
            with use_domain(network, domain):
                assert torch.equal(network(images).logits, expected)
        assert torch.equal(restored.method.predict(images), expected)
    assert expected.std() > 1e-3


def test_metadata_say_what_the_file_is(work_dir, weights):
    with safetensors.safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.pop("classes") == json.dumps(list(restore(work_dir).inputs.classes.names))
    assert json.loads(metadata.pop("network")) == {
        "name": "unet", "width": 0.25, "graph": "torchvision", "decoder": "aspp", "stride": 0
    }  # fmt: skip
    assert metadata == {"format": "pt", "fastuda": "1", "method": "source", "domain": "target"}
    assert os.listdir(weights.parent) == ["weights.safetensors"]


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        export.main([*map(str, arguments)])
    errors = capsys.readouterr().err
    assert left.value.code == 1 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(work_dir, weights, capsys, monkeypatch):
    before = weights.read_bytes()
    assert "no" in fails(capsys, work_dir, "--output", weights.parent / "no" / "w.safetensors")
    assert "named *.safetensors, not" in fails(capsys, work_dir, "--output", weights.with_suffix(".pt"))
    assert "there is no checkpoint" in fails(capsys, weights.parent, "--output", weights)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in fails(capsys, work_dir, "--output", weights)
    assert weights.read_bytes() == before and os.listdir(weights.parent) == [weights.name]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "deeplab_resnet18"}, "weights.safetensors holds another model: "),
        ({"width": 0.5}, "weights.safetensors holds another model: "),
    ],
)
def test_another_network_refuses_the_weights(work_dir, weights, setting, message):
    model = replace(restore(work_dir).inputs.config.model, weights=str(weights), **setting)
    with pytest.raises(ValueError, match=message):
        build_model(model, 11)


def test_a_graph_that_computes_something_else_with_the_same_names_is_refused(tmp_path):
    config = ModelConfig("deeplab_resnet18", 0.125, "trained", graph="cpsl")
    path = tmp_path / "w.safetensors"
    save_weights(build_model(config, 3), path, config)
    build_model(replace(config, weights=str(path)), 3)
    with pytest.raises(ValueError, match=r"w\.safetensors is of a network with model.graph cpsl, not sdca"):
        build_model(replace(config, graph="sdca", weights=str(path)), 3)


@pytest.mark.parametrize("network", ["[1]", "{", "null"])
def test_metadata_of_somebody_else_are_one_sentence(tmp_path, network):
    path = tmp_path / "w.safetensors"
    state = {key: value.contiguous() for key, value in build_model(ModelConfig(width=0.25), 3).state_dict().items()}
    safetensors.torch.save_file(state, path, {"network": network})
    with pytest.raises(ValueError, match=r"^\S*w\.safetensors cannot be read as weights: ") as caught:
        build_model(ModelConfig(width=0.25, weights=str(path)), 3)
    assert "\n" not in str(caught.value)
