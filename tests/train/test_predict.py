"""Predictions of a user's photos, from nothing but a run's directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from fastuda.cli.predict import find_photos, main
from fastuda.train.config import Config, from_dict
from fastuda.train.loop import train
from fastuda.train.restore import restore

OWN = {"classes": {"ground": [1, 2, 3], "thing": [200, 0, 0]}, "ids": {"mine": {"map": {"ground": 0, "thing": 1}}}}


@pytest.fixture(scope="module")
def run(tiny_task, tmp_path_factory) -> Path:
    """A run with own classes and no validation, copied to where its data are not."""
    root = tmp_path_factory.mktemp("data")
    for part, count in (("images", 4), ("labels", 4)):
        (root / part).mkdir()
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 64, 3), dtype=np.uint8)
            picture = pixels if part == "images" else (pixels[..., 0] > 127).astype(np.uint8)
            Image.fromarray(picture).save(root / part / f"{i}.png")
    task = yaml.safe_load(tiny_task) | {"method": "source", "work_dir": str(root / "first")}
    source = {"kind": "folder", "root": str(root), "size": [32, 64]}
    task["data"] = {"classes": OWN, "source": source, "target": {**source, "labelled": False}}
    task["warm_up"]["schedule"]["iterations"] = 2
    result = train(from_dict(Config, task, "tiny"), Console(quiet=True))
    assert result.stages == []
    copied = root.parent / "elsewhere"
    shutil.copytree(root / "first", copied)
    shutil.rmtree(root)
    return copied


def photo(path: Path, size=(20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(str(path))).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def test_masks_overlays_confidences_and_a_manifest(run, tmp_path, capsys):
    path = photo(tmp_path / "shots/day 1/a.jpg")
    main([str(run), str(tmp_path / "shots"), "--output", str(tmp_path / "out"), "--confidence"])
    assert "1 images" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    (row,) = manifest["images"]
    assert manifest["classes"] == ["ground", "thing"] and manifest["colours"] == [[1, 2, 3], [200, 0, 0]]
    assert row["image"] == str(path) and row["size"] == [20, 30] and row["ids"] == "ids/day 1/a.png"
    ids = np.asarray(Image.open(tmp_path / "out" / row["ids"]))
    assert ids.shape == (20, 30) and ids.dtype == np.uint8 and set(np.unique(ids)) <= {0, 1}
    assert row["shares"] == {"ground": pytest.approx((ids == 0).mean(), abs=1e-4),
                             "thing": pytest.approx((ids == 1).mean(), abs=1e-4)}  # fmt: skip
    colours = np.asarray(Image.open(tmp_path / "out" / row["colour"])).astype(float)
    palette = np.array(manifest["colours"])[ids]
    assert np.abs(colours - (np.asarray(Image.open(path)) + palette) / 2).max() <= 1
    sure = np.asarray(Image.open(tmp_path / "out" / row["confidence"])) / 255
    assert sure.shape == (20, 30) and sure.min() >= 0.49 and abs(sure.mean() - row["mean_confidence"]) < 0.01
    assert Image.open(tmp_path / "out/legend.png").width > 60


def test_labels_are_the_networks(run, tmp_path):
    import torch

    path = photo(tmp_path / "a.png", (32, 64))
    main([str(run), str(path), "--output", str(tmp_path / "out")])
    restored = restore(run)
    pixels = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None]
    from fastuda.data.photometric import standardise

    with torch.no_grad():
        logits = restored.method.predict(standardise(pixels))
    full = torch.nn.functional.interpolate(logits, (32, 64), mode="bilinear", align_corners=True)
    ids = np.asarray(Image.open(tmp_path / "out/ids/a.png"))
    assert (ids == full.argmax(1)[0].numpy()).mean() > 0.999


def test_nothing_is_ever_written_over(run, tmp_path, monkeypatch):
    path = photo(tmp_path / "photo.png")
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    main([str(run), "photo.png", "--output", "."])
    assert path.read_bytes() == before and (tmp_path / "ids/photo.png").exists()
    with pytest.raises(SystemExit):
        main([str(run), "photo.png", "--output", "."])


def test_names_that_meet_stay_apart(tmp_path):
    paths = [photo(tmp_path / name) for name in ("a/1.jpg", "b/1.jpg", "b/1.png", "b/2.png")]
    names = [p.name for p in find_photos([str(p) for p in paths], tmp_path / "out")]
    assert len(set(names)) == 4 and names[3] == "2"
    same = find_photos([str(tmp_path / "a"), str(paths[0])], tmp_path / "out")
    assert len(same) == 1, "one file given twice is one photo"


def test_directories_and_patterns(tmp_path):
    for name in ("x/a.png", "x/deep/b.JPG", "x/.hidden/c.png", "x/notes.txt", "odd[1]/d.png"):
        photo(tmp_path / name) if name[-1] in "gG" else (tmp_path / name).write_text("no image")
    found = find_photos([str(tmp_path / "x")], tmp_path / "out")
    assert [p.name for p in found] == ["a", "deep/b"]
    assert [p.name for p in find_photos([str(tmp_path / "odd[1]/d.png")], tmp_path / "out")] == ["d"]
    assert len(find_photos([str(tmp_path / "x/**/*.JPG")], tmp_path / "out")) == 1
    photo(tmp_path / "x/out/ids/a.png")
    assert len(find_photos([str(tmp_path / "x")], tmp_path / "x/out")) == 2, "results of an earlier call are no input"
    with pytest.raises(ValueError, match=r"there is no image in .*nothing\*"):
        find_photos([str(tmp_path / "nothing*")], tmp_path / "out")


def test_what_needs_data_says_so(run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for module, more, words in (
        ("evaluate", [], "does not exist"),
        ("predict", [str(tmp_path / "none.png")], "none.png does not exist"),
    ):
        command = [sys.executable, "-m", f"fastuda.{module}", str(run), *more]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr
