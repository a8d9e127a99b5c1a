"""Pseudo labels and scores of another data set in a resumed run's directory end in one sentence that names the file."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from fastuda.data.stream import TrainStream
from fastuda.train import step
from fastuda.train.config import from_dict
from fastuda.train.inputs import Inputs
from fastuda.train.loop import Config, train
from fastuda.train.signals import Interrupted

ONE = {"iterations": 1, "learning_rate": 0.01, "batch": 2}
TWO = ONE | {"iterations": 2}
METHODS = {
    "sdca": {"sdca": {"schedule": ONE, "self_training": {"schedule": TWO}}},
    "cpsl": {"cpsl": {"schedule": TWO, "samples": 8, "bank": 32, "distillations": 0}},
}


def interrupted_run(tiny: Path, work_dir: Path, method: str, monkeypatch, size=(32, 64)) -> Config:
    """Stop a run after the first of the two steps that read what was saved; returns how to go on."""
    task = yaml.safe_load(tiny.read_text()) | METHODS[method] | {"method": method, "work_dir": str(work_dir)}
    task["warm_up"]["schedule"]["iterations"] = 1
    task["data"]["target"]["size"] = list(size)
    task["checkpoint_every"] = 1
    config = from_dict(Config, task, "tiny")
    losses_of = step.losses_of

    def stopping(stage, *rest):
        yield from losses_of(stage, *rest)
        if stage.target and (stage.target.labels == "pseudo" or stage.target.scores):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(step, "losses_of", stopping)
        with pytest.raises(Interrupted):
            train(config, Console(quiet=True))
    return from_dict(Config, {"resume": True}, "resume", base=config)


def fails(config: Config, *parts: str) -> None:
    checkpoint = Path(config.work_dir) / "checkpoint.pt"
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError) as caught:
        train(config, Console(quiet=True))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert checkpoint.read_bytes() == before


def goes_on_without_a_seventh(config, path, saved):
    """With ``path`` as it was, a file more than there are images is named; without that one the run ends well."""
    path.write_bytes(saved)
    more = path.with_stem("000006")
    more.write_bytes(saved)
    fails(config, f"{more.name} is of another data set", "6 images")
    more.unlink()
    assert train(config, Console(quiet=True)).stages[-1]["name"] == "adapted"


def test_pseudo_labels_of_another_data_set(tiny, tmp_path, monkeypatch):
    config = interrupted_run(tiny, tmp_path / "run", "sdca", monkeypatch)
    path = tmp_path / "run" / "pseudo_labels" / "000004.png"
    saved = path.read_bytes()

    Image.fromarray(np.zeros((30, 64), np.uint8)).save(path)
    fails(config, "000004.png is 64x30", "camera_train_0_000004 is 64x32")
    Image.fromarray(np.full((32, 64), 11, np.uint8)).save(path)
    fails(config, "000004.png holds the class 11", "none of the 11")
    Image.fromarray(np.full((32, 64, 3), (1, 2, 3), np.uint8)).save(path)
    fails(config, "000004.png is a colour image")
    path.write_bytes(saved[:40])
    fails(config, "000004.png cannot be read")
    path.unlink()
    fails(config, "000004.png does not exist")
    goes_on_without_a_seventh(config, path, saved)


def test_scores_of_another_data_set(tiny, tmp_path, monkeypatch):
    config = interrupted_run(tiny, tmp_path / "run", "cpsl", monkeypatch)
    path = tmp_path / "run" / "pseudo_labels" / "000004.npy"
    saved = path.read_bytes()
    scores = np.load(path)
    assert scores.shape == (11, 16, 32)

    for wrong, part in (
        (scores[:10], "not float16 of 11 classes"),
        (scores.astype(np.float32), "not float16"),
        (scores[:, :, :16], "a grid of 16x16"),
        (scores[:, ::2, ::2], "another network: (11, 8, 16)"),
    ):
        np.save(path, wrong)
        fails(config, "000004.npy", part)
    for damaged in (saved[:200], saved.replace(b"{", b"z", 1)):
        path.write_bytes(damaged)
        fails(config, "000004.npy cannot be read")
    path.unlink()
    fails(config, "000004.npy do not exist")
    goes_on_without_a_seventh(config, path, saved)


def test_at_native_size_labels_are_compared_with_the_image_itself(tiny, tmp_path):
    root = tmp_path / "pictures" / "images"
    root.mkdir(parents=True)
    for number, width in enumerate((20, 24)):
        Image.fromarray(np.zeros((12, width, 3), np.uint8)).save(root / f"{number}.png")
    task = yaml.safe_load(tiny.read_text())
    task["data"]["target"] = {"kind": "folder", "root": str(root.parent), "labelled": False}
    inputs = Inputs(from_dict(Config, task, "tiny"), torch.device("cpu"), tmp_path / "pseudo_labels")
    for number, width in enumerate((20, 20)):
        inputs.save_pseudo_labels(number, np.zeros((12, width), np.uint8))
        inputs.save_scores(number, np.zeros((11, 3, width // 4), np.float16))
    assert inputs.read_pseudo_labels(0).shape == (12, 20)
    with pytest.raises(ValueError, match=r"000001\.png is 20x12 pixels .* image 1 is 24x12"):
        inputs.read_pseudo_labels(1)
    assert inputs.read_scores(1).shape == (11, 3, 5)


def test_scores_that_cannot_share_a_batch(tiny, tmp_path):
    inputs = Inputs(from_dict(Config, yaml.safe_load(tiny.read_text()), "tiny"), torch.device("cpu"), tmp_path)
    cache = inputs.caches["target"]
    stream = TrainStream(
        cache.dataset, size=cache.size, batch=6, seed=0, stage=0, domain=1, augment=inputs.config.views.target,
        scores=lambda index: np.zeros((11, 4 + index, 8), np.float16),
    )  # fmt: skip
    with pytest.raises(ValueError, match="the scores of the images camera_train_.* differ in size") as caught:
        stream[0]
    assert "\n" not in str(caught.value)
